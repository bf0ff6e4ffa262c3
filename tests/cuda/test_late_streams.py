"""The backend on streams whose work comes late, in any order that its events allow, and while a graph is captured.

A GPU runs two streams as it likes; the emulation does everything at once unless fake_torch_cuda/late_streams.h is on.
The mistakes planted here are waits of the backend that are left out: it makes five where a sequence is projected in
four parts, the first so that the side stream begins behind the caller's, the others before each part of the recurrence.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from layer_checks import assert_same_bits, make_problem

NONE, FORK, JOINS = -1, 0, (1, 2, 3, 4)
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


@pytest.fixture
def problem(op):
    """One whose input is projected in four parts on the side stream."""
    op.set_engine("block")
    op.set_input_parts(4)
    yield make_problem(70, 2, 3, 8, mask_h="BH", mask_x="BI", mask_g="TBH")
    op.set_input_parts(1)
    op.set_engine("stepwise")


@pytest.mark.parametrize("capture", [False, True], ids=["", "capture"])
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_gives_the_same_bits(op, emulated, problem, order, capture):
    expected = problem.solve(emulated)
    with late_streams(op, order, capture=capture):
        results = problem.solve(emulated)
    assert_same_bits(results, expected)


@pytest.mark.parametrize("engine", ["stepwise", "block", "cluster", "grid"])
def test_every_engine_can_be_captured(op, emulated, engine):
    op.set_engine(engine)
    problem = make_problem(3, 2, 5, 16, mask_h="BH", lengths=True)
    expected = problem.solve(emulated)
    with late_streams(op, "rand1", capture=True):
        results = problem.solve(emulated)
    op.set_engine("stepwise")
    assert_same_bits(results, expected)


@pytest.mark.parametrize("forgotten", JOINS)
def test_a_part_that_does_not_wait_for_its_input_is_found(op, emulated, problem, forgotten):
    expected = problem.solve(emulated)
    with late_streams(op, forget=forgotten):
        y = problem.solve(emulated)["y"].clone()
    assert not torch.equal(y, expected["y"])


def test_a_side_stream_that_does_not_wait_for_the_caller_is_found_in_a_capture(op, emulated, problem):
    with (
        pytest.raises(RuntimeError, match="work on a stream that is not part of the capture"),
        late_streams(op, capture=True, forget=FORK),
    ):
        problem.solve(emulated)


def test_a_side_stream_that_nobody_waits_for_is_found_in_a_capture(op, emulated, problem):
    with (
        pytest.raises(RuntimeError, match="a stream that was forked is not joined"),
        late_streams(op, capture=True, forget=JOINS[-1]),
    ):
        problem.solve(emulated)


@pytest.mark.parametrize("part", range(4))
def test_the_side_stream_is_waited_for_where_a_part_fails(op, emulated, problem, part):
    """What it has queued still writes to memory that is given back to the caller's stream."""
    op.begin_late_streams("late", True, NONE)
    op.fail_gemm(part)
    with pytest.raises(RuntimeError, match="cuBLAS error"):
        problem.solve(emulated)
    op.end_late_streams()  # which finds forks that nobody waits for


def test_a_wait_of_the_host_is_found_in_a_capture(op):
    with late_streams(op):
        op.host_waits()
    with pytest.raises(RuntimeError, match="the host waits while a graph is captured"), late_streams(op, capture=True):
        op.host_waits()


def test_memory_that_is_freed_too_early_is_found(op):
    with late_streams(op):
        assert op.read_on_side_stream_after_free(True) == 1
        assert math.isnan(op.read_on_side_stream_after_free(False))
