"""The floor does every matrix product of a dense LSTM once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import gemms
from bench.problems import Problem
from bench.records import Size
from tests.bench.samples import CPU, SMALL


def test_the_ragged_floor_leaves_out_the_steps_that_are_not_there() -> None:
    problem = Problem(Size(T=9, B=4, I=5, H=6), torch.float32, CPU, ragged=True)
    flops = []

    def count(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
        flops.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return gemms.aten(out, a, b, accumulate)

    gemms.Gemms(problem, "counted", count).forward_backward()
    assert sum(flops) == 3 * 2 * int(problem.lengths.sum()) * 4 * 6 * (5 + 6)


def test_the_floor_does_every_product_of_a_dense_lstm_once() -> None:
    T, B, I, H = SMALL
    flops = []

    def count(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
        assert out.shape == (a.shape[0], b.shape[1])
        flops.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return gemms.aten(out, a, b, accumulate)

    floor = gemms.Gemms(Problem(SMALL, torch.float32, CPU), "counted", count)
    floor.rows = 4  # of the 6 that there are
    floor.forward()
    assert sum(flops) == 2 * T * B * 4 * H * (I + H)
    torch.testing.assert_close(floor.gates, floor.x @ floor.W_ih.t() + (floor.h @ floor.W_hh.t()).repeat(T, 1))
    flops.clear()
    floor.forward_backward()
    assert sum(flops) == 3 * 2 * T * B * 4 * H * (I + H)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("accumulate", [False, True])
def test_onednn_floor_multiplies_what_the_aten_floor_does(accumulate: bool) -> None:
    out, a, b = torch.randn(6, 4), torch.randn(6, 5), torch.randn(4, 5).t()
    product = gemms.onednn(out, a, b, accumulate)
    torch.testing.assert_close(product, gemms.aten(out, a, b, accumulate))
