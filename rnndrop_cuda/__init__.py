"""LSTM layers with dropout inside the recurrence, in fused kernels for CPU and CUDA.

``LSTM``, ``GalLSTM`` and ``SemeniutaLSTM`` are the layers, ``functional.lstm_layer`` is the function under them,
``mc_predict`` predicts with dropout left on, ``pack_weights`` prepares a model for single steps; the other names are
the seminar's, imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rnndrop_cuda import functional
from rnndrop_cuda.conversion import to_torch
from rnndrop_cuda.engines import cuda_engine, explain_engine
from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.masks import LayerMasks, dropout_mask
from rnndrop_cuda.mc_dropout import MCPrediction, mc_predict
from rnndrop_cuda.packed_weights import pack_weights, unpack_weights
from rnndrop_cuda.presets import GalLSTM, SemeniutaLSTM
from rnndrop_cuda.torch_lstm import TorchLSTM

if TYPE_CHECKING:
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
    "TorchLSTM",
    "cuda_engine",
    "dropout_mask",
    "explain_engine",
    "functional",
    "gen_dropout_mask",
    "init_h0_c0",
    "load_matrix_imdb",
    "mc_predict",
    "pack_weights",
    "to_torch",
    "train",
    "unpack_weights",
]


def __getattr__(name: str) -> Any:
    """The seminar and what it has of __all__ (PEP 562): not everyone who wants a layer wants its imports."""
    if name == "seminar":
        return importlib.import_module("rnndrop_cuda.seminar")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module("rnndrop_cuda.seminar"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
