"""The command bench.keras_layers: who is timed, and that a wrong layer is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bench import keras_layers, records, tables
from bench.records import KERAS, KERAS_OURS, NN_LSTM, Size
from bench.verification import VerificationError
from tests.bench.samples import needs_kernels

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("keras", reason="needs the extra keras")
SMALL = ["--size", "3,2,4,5", "--repeats", "2", "--threads", "1"]


@needs_kernels
def test_all_three_are_timed_and_tabulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        assert keras_layers.main([*SMALL, "--out", str(tmp_path / "keras.csv")]) == 0
    finally:
        torch.set_num_threads(before)
    _, timings = records.read(tmp_path / "keras.csv")
    assert [(timing.contender, timing.p) for timing in timings] == [(NN_LSTM, 0.0), (KERAS, 0.3), (KERAS_OURS, 0.3)]
    table = tables.table("keras keras", tmp_path)
    assert all(name in table for name in (NN_LSTM, KERAS, KERAS_OURS, "median of 2 in turn"))


@needs_kernels
def test_a_wrong_layer_is_not_timed() -> None:
    of_size = Size(3, 2, 4, 5)
    found, x = keras_layers.layers(of_size, 0.0), torch.randn(2, 3, 4, requires_grad=True)
    keras_layers.verify(of_size, found, x)
    found[KERAS_OURS].set_weights([weight + 1 for weight in found[KERAS].get_weights()])
    with pytest.raises(VerificationError, match=r"rnndrop_cuda.keras.LSTM \(T=3 B=2 I=4 H=5\) is wrong"):
        keras_layers.verify(of_size, found, x)
