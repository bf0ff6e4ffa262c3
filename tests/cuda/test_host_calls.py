"""The host's share of a short call stays what the committed report says, or becomes less."""

from __future__ import annotations

import host_calls
import torch
from host_calls import CASES, CSV, count, count_all, on_emulated_cuda, read_csv

from rnndrop_cuda import LSTM
from tests.problems import relative_error

HOW = f"run `PYTHONPATH=. python tests/cuda/host_calls.py` and commit {CSV.name}"


def test_no_more_calls_and_launches_than_reported(op):
    reported = {(row.backend, row.dropout, row.phase): row for row in read_csv()}
    counted = count_all(op)
    assert set(reported) == {(row.backend, row.dropout, row.phase) for row in counted}, HOW
    for row in counted:
        known = reported[row.backend, row.dropout, row.phase]
        assert row.launches == known.launches, HOW
        assert row.calls <= known.calls, HOW


def test_a_call_more_is_seen(op, monkeypatch):
    """A copy of every output, which is a launch on CUDA too."""
    forward = LSTM.forward

    def with_a_copy(self, *args, **options):
        y, state = forward(self, *args, **options)
        return y.clone(), state

    with on_emulated_cuda(op):
        expected = count(op, "cuda", "none")
        monkeypatch.setattr(LSTM, "forward", with_a_copy)
        found = count(op, "cuda", "none")
    assert found[0].launches == expected[0].launches + 1
    assert found[0].calls > expected[0].calls


def test_what_is_counted_is_the_layer(op):
    """On the emulated backend a module gives what it gives on the CPU, with the masks that it drew."""
    for options in CASES.values():
        layer, x = LSTM(4, 8, **options), torch.randn(3, 2, 4)
        with on_emulated_cuda(op):
            y, _, masks = layer(x, return_masks=True)
        assert relative_error(y, layer(x, masks=masks)[0]) < 1e-5


def test_the_driver_is_asked_once_for_a_plan(op):
    """What a kernel may have and how many of its blocks fit: asked in the first call of a shape, and never again."""
    layer, x = LSTM(4, 12, **CASES["Gal and Semeniuta"]), torch.randn(3, 2, 4)

    def questions():
        before = op.driver_questions()
        layer(x)[0].sum().backward()
        return op.driver_questions() - before

    with on_emulated_cuda(op):
        op.set_gpu(9, 132, 20011)  # a GPU for itself: plans are remembered
        op.set_engine("cluster")
        asked = [questions() for _ in range(3)]
        op.set_gpu(9, 132, 232448)
    assert asked[0] > 0
    assert asked[1:] == [0, 0]


def test_a_copy_below_two_calls_is_one_launch():
    """contiguous calls clone, which calls copy_."""
    x = torch.randn(3, 4).t()
    assert sum(map(host_calls._computes, host_calls._events(x.contiguous))) == 1
