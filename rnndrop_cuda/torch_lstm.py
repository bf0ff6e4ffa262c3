"""``TorchLSTM``: the layer for code that asks ``isinstance(module, nn.LSTM)``."""

from __future__ import annotations

from torch import nn

from rnndrop_cuda.lstm import LSTM


class TorchLSTM(LSTM, nn.LSTM):
    """:class:`LSTM` that is an instance of nn.LSTM, too: for code that looks for one by its type.

    Such code initialises weights (Hugging Face's ``from_pretrained``), resets states or unpacks outputs. The price is
    that torch.compile breaks the graph here, as it does at nn.LSTM; it does not at :class:`LSTM`. Arguments, parameters
    and results are the same, and the weights go both ways. Code that goes by the exact class, as many a counter of FLOPs
    does, does not find this one either; code that puts a module of its own in a layer's place loses the dropout inside.

    A preset becomes one in the same way: ``class TorchGalLSTM(GalLSTM, nn.LSTM): pass``.
    """
