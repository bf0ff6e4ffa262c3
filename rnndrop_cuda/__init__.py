"""LSTM layers with dropout inside the recurrence, at the speed of nn.LSTM.

``LSTM``, ``GalLSTM`` and ``SemeniutaLSTM`` are the layers, ``functional.lstm_layer`` is the function under them,
``mc_predict`` predicts with dropout left on; the other names are the seminar's.
"""

from rnndrop_cuda import functional
from rnndrop_cuda.engines import cuda_engine, explain_engine
from rnndrop_cuda.lstm import LSTM, GalLSTM, SemeniutaLSTM
from rnndrop_cuda.masks import LayerMasks, dropout_mask
from rnndrop_cuda.mc_dropout import MCPrediction, mc_predict
from rnndrop_cuda.seminar import (
    FastRNNLayer,
    MyLSTM,
    RNNClassifier,
    RNNLayer,
    gen_dropout_mask,
    init_h0_c0,
    load_matrix_imdb,
    train,
)

__all__ = [
    "LSTM",
    "FastRNNLayer",
    "GalLSTM",
    "LayerMasks",
    "MCPrediction",
    "MyLSTM",
    "RNNClassifier",
    "RNNLayer",
    "SemeniutaLSTM",
    "cuda_engine",
    "dropout_mask",
    "explain_engine",
    "functional",
    "gen_dropout_mask",
    "init_h0_c0",
    "load_matrix_imdb",
    "mc_predict",
    "train",
]
