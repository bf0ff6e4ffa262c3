"""A wrong contender is found before it is timed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import contenders, layers, problems, verification
from bench.problems import Problem
from bench.records import Size
from rnndrop_cuda import LayerMasks
from tests.bench.samples import CPU, SMALL, without_gradient_through_h_n


def test_an_inference_that_differs_is_found() -> None:
    problem = Problem(SMALL, torch.float32, CPU)

    def layer(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, c_n = layers.nn_lstm(problem, masks)
        return y, h_n if torch.is_grad_enabled() else 2 * h_n, c_n

    with pytest.raises(verification.VerificationError, match="h_n in eval is off"):
        verification.verify(problem, [contenders.LayerContender("x", "", problems.NO_DROPOUT, layer, problem)])


def ignoring_lengths(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    return layers.nn_lstm(problem, masks)


def with_a_trace_past_the_end(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = layers.as_module(problem.lstm, "packed")(problem, masks)
    return y + 1e-12 * (y == 0), h_n, c_n


def with_a_gradient_past_the_end(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = layers.as_module(problem.lstm, "packed")(problem, masks)
    return y + 1e-12 * (problem.x.sum() - problem.x.sum().detach()) * (y != 0), h_n, c_n


@pytest.mark.parametrize(
    "layer, found",
    [
        (ignoring_lengths, "y is not zero past the end"),
        (with_a_trace_past_the_end, "y is not zero past the end"),
        (with_a_gradient_past_the_end, "the gradient of x is not zero past the end"),
    ],
)
def test_a_contender_wrong_about_lengths_is_found(layer: layers.Layer, found: str) -> None:
    problem = Problem(Size(T=9, B=4, I=5, H=6), torch.float32, CPU, ragged=True)
    contender = contenders.LayerContender("nn.LSTM", "", problems.NO_DROPOUT, layer, problem, "packed")
    with pytest.raises(verification.VerificationError, match=f"nn.LSTM packed, dropout none .*{found}"):
        verification.verify(problem, [contender])


def without(name: str) -> layers.Layer:
    """The layer, with one of the masks forgotten."""
    layer = layers.rnndrop("python")
    return lambda problem, masks: layer(problem, masks._replace(**{name: None}))


def with_one_nan(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = layers.rnndrop("python")(problem, masks)
    return y, h_n, torch.where(torch.arange(c_n.numel()).view_as(c_n) == 3, torch.nan, c_n)


@pytest.mark.parametrize(
    "layer, found",
    [
        (without("x"), "y is off"),
        (without("h"), "y is off"),
        (without("g"), "y is off"),
        (without_gradient_through_h_n, "the gradient of x is off"),
        (with_one_nan, "c_n is off by inf"),
    ],
)
def test_a_wrong_contender_is_found(layer: layers.Layer, found: str) -> None:
    problem = Problem(Size(T=6, B=7, I=8, H=9), torch.float32, CPU)
    kind = problems.Dropout("both", 0.5, 0.3)
    right = contenders.LayerContender("right", "", kind, layers.rnndrop("python"), problem)
    verification.verify(problem, [right])
    with pytest.raises(verification.VerificationError, match=f"wrong, dropout both .*{found}"):
        verification.verify(problem, [right, contenders.LayerContender("wrong", "", kind, layer, problem)])
