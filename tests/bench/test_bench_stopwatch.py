"""How contenders are timed; nothing here looks at how long anything took."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import contenders, layers, problems, stopwatch
from bench.problems import Problem
from bench.records import FORWARD, FORWARD_BACKWARD, INFERENCE
from rnndrop_cuda import LayerMasks
from tests.bench.samples import CPU, SMALL


def test_inference_is_in_eval_and_keeps_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(SMALL, torch.float32, CPU)
    modes = []

    def layer(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
        modes.append((problem.lstm.training, torch.is_grad_enabled()))
        return layers.nn_lstm(problem, masks)

    contender = contenders.LayerContender("nn.LSTM", "", problems.NO_DROPOUT, layer, problem)
    monkeypatch.setattr(stopwatch, "SHORTEST_MEASUREMENT_MS", 0.0)
    timings = stopwatch.measure(problem, [contender], repeats=1)  # after two rounds that warm up
    assert [t.phase for t in timings] == [FORWARD_BACKWARD, FORWARD, INFERENCE]
    assert modes == [(True, True)] * 6 + [(False, False)] * 3
    assert not contender.inference()[0].requires_grad
