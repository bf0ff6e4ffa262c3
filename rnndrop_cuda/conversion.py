"""``to_torch``: a model with nn.LSTM as its layers, for what knows no other (TorchScript, quantisation, Core ML)."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from rnndrop_cuda.like_torch import PlainLSTM, what_torch_lacks
from rnndrop_cuda.lstm import LSTM

Model = TypeVar("Model", bound=nn.Module)


def to_torch(model: Model) -> Model | nn.LSTM:
    """A copy of a model in which every :class:`rnndrop_cuda.LSTM` is the nn.LSTM that it is in eval.

    The copy shares nothing with the model: its weights are copies too. Parameters that were shared inside the model are
    shared inside the copy, and so is a layer that has two places. Dropout inside the recurrence is left out, so that
    the copy is for eval; nn.LSTM's own dropout between layers, the mode and requires_grad are kept. A weight that is
    parametrized becomes the value that it has now. A layer's hooks are not carried over, and the keywords of forward
    that nn.LSTM lacks, such as ``lengths``, are lacking in the copy.

    Raises:
        ValueError: a layer has what nn.LSTM has not in eval: a learned initial state, zoneout, ``mc_dropout``, or a
            forward of its own. The error names every such layer.
    """
    why_not = [
        f"{name or 'the model itself'}: {why}"
        for name, module in model.named_modules()
        if isinstance(module, LSTM) and (why := what_torch_lacks(module))
    ]
    if why_not:
        raise ValueError(f"to_torch: nn.LSTM cannot take the place of every layer. {'; '.join(why_not)}")
    copied = copy.deepcopy(model)
    if isinstance(copied, LSTM):
        return _plain(copied)
    plain: dict[nn.Module, nn.LSTM] = {}
    for parent in list(copied.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, LSTM):
                if child not in plain:
                    plain[child] = _plain(child)
                parent._modules[name] = plain[child]
    return copied


def _plain(layer: LSTM) -> nn.LSTM:
    """The nn.LSTM with a layer's parameters, the very same tensors."""
    plain = PlainLSTM(**layer._as_torch() | {"device": "meta"})
    for name, _ in list(plain.named_parameters()):
        weight = getattr(layer, name)
        setattr(plain, name, weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach()))
    plain.flatten_parameters()
    return plain.train(layer.training)
