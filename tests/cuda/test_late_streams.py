"""The backend on streams whose work comes late, in any order that its events allow, and while a graph is captured.

A GPU runs two streams as it likes; the emulation does everything at once unless fake_torch_cuda/late_streams.h is on.
The mistakes planted here are waits that are left out where both directions of a layer run at once: that of the side
stream for the caller's, and that of the caller's for the side stream.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from layer_checks import assert_same_bits, make_problem

from rnndrop_cuda import reference

NONE = -1
ORDERS = ["late", *(f"rand{seed}" for seed in range(1, 9))]


@contextlib.contextmanager
def late_streams(op, order="late", *, capture=False, forget=NONE):
    op.begin_late_streams(order, capture, forget)
    try:
        yield
    except BaseException:
        with contextlib.suppress(RuntimeError):  # what went wrong first is what matters
            op.end_late_streams()
        raise
    op.end_late_streams()


@pytest.mark.parametrize("engine", ["stepwise", "block", "cluster", "grid", "multicast"])
def test_every_engine_can_be_captured(op, emulated, engine):
    op.set_engine(engine)
    options = {"dtype": torch.bfloat16} if engine == "multicast" else {"lengths": True}
    problem = make_problem(3, 2, 5, 16, mask_h="BH", **options)
    expected = problem.solve(emulated)
    with late_streams(op, "rand1", capture=True):
        results = problem.solve(emulated)
    op.set_engine("stepwise")
    assert_same_bits(results, expected)


def test_a_wait_of_the_host_is_found_in_a_capture(op):
    with late_streams(op):
        op.host_waits()
    with pytest.raises(RuntimeError, match="the host waits while a graph is captured"), late_streams(op, capture=True):
        op.host_waits()


def test_memory_that_is_freed_too_early_is_found(op):
    with late_streams(op):
        assert op.read_on_side_stream_after_free(True) == 1
        assert math.isnan(op.read_on_side_stream_after_free(False))


def both_ways(op, capture=False, order="late", forget=NONE):
    """Both directions of a layer whose W_ih is made, and whose outputs are read, by work of the caller's stream.

    Twice, so that what the first has freed is used anew.
    """
    op.set_engine("block")
    x, W_hh, b = torch.randn(3, 2, 4), torch.randn(32, 8), torch.randn(4, 4)
    outputs = []
    try:
        with late_streams(op, order, capture=capture, forget=forget):
            for _ in range(2):
                W_ih = torch.full((32, 4), float("nan"))
                op.gemm(W_ih, W_hh[:, :4], b, False)
                for y in op.both_ways(x, W_ih, W_hh):
                    read = torch.full((6, 8), float("nan"))
                    op.gemm(read, y.flatten(0, 1), torch.eye(8), False)
                    outputs.append(read)
                del W_ih, y
    finally:
        op.set_engine("stepwise")
    return [output.clone() for output in outputs]


@pytest.mark.parametrize("capture", [False, True], ids=["", "capture"])
@pytest.mark.parametrize("order", ORDERS)
def test_both_directions_at_once_give_what_one_after_the_other_gives(op, order, capture):
    torch.manual_seed(3)
    outputs = both_ways(op, capture, order)
    torch.manual_seed(3)
    x, W_hh, b = torch.randn(3, 2, 4), torch.randn(32, 8), torch.randn(4, 4)
    state = torch.zeros(2, 8)
    for direction in (0, 1):
        expected = reference.lstm_layer(x, state, state, W_hh[:, :4] @ b, W_hh, reverse=direction == 1)[0]
        for output in outputs[direction::2]:
            assert torch.allclose(output.view_as(expected), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("forgotten", "error"),
    [(0, "not part of the capture"), (1, ""), (3, "a stream that was forked is not joined")],
)
def test_a_direction_that_does_not_wait_or_is_not_waited_for_is_found(op, forgotten, error):
    """In each of two calls the side stream waits for W_ih, and the caller's for the second output."""

    def outputs(order="late", **options):
        torch.manual_seed(3)
        return torch.stack(both_ways(op, order=order, **options))

    right = outputs()
    assert any(not torch.equal(outputs(order, forget=forgotten), right) for order in ORDERS)
    if error:
        with pytest.raises(RuntimeError, match=error):
            outputs(capture=True, forget=forgotten)


def test_the_side_stream_is_taken_from_torch_once(op):
    both_ways(op)
    taken = op.streams_from_pool()
    both_ways(op)
    assert op.streams_from_pool() == taken


def test_a_direction_that_fails_is_waited_for(op):
    """What it has queued still writes to memory that is given back."""
    x, W_ih, W_hh = torch.randn(3, 2, 4), torch.randn(32, 4), torch.randn(32, 8)
    op.set_engine("block")
    op.begin_late_streams("late", True, NONE)
    op.fail_gemm(1)
    with pytest.raises(RuntimeError, match="cuBLAS error"):
        op.both_ways(x, W_ih, W_hh)
    op.end_late_streams()  # which finds forks that nobody waits for
    op.set_engine("stepwise")
