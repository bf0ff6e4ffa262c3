"""The CUDA kernels under the CUDA emulation, inside the real time loop, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from layer_problem import (
    Problem,
    assert_close,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    make_problem,
    run_op,
    run_reference,
)

from tests.emulation import toolchain

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
HALVES = (torch.bfloat16, torch.float16)
ALL_FEATURES = {"mask_x": "BI", "mask_h": "BH", "mask_g": "TBH", "lengths": True}


@pytest.fixture(params=toolchain.SCHEDULES)
def schedule(op, request):
    """Runs the test under each order of threads, and leaves the first behind."""
    op.set_schedule(request.param)
    yield request.param
    op.set_schedule(toolchain.SCHEDULES[0])


def check(op, problem: Problem) -> None:
    assert_close(run_op(op, problem), run_reference(problem), TOLERANCE[problem.x.dtype])


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_g", ["", "H", "BH", "TBH"], ids="g{}".format)
@pytest.mark.parametrize("mask_h", ["", "H", "BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "I", "BI"], ids="x{}".format)
def test_every_combination(op, mask_x, mask_h, mask_g, lengths, reverse):
    options = {"mask_x": mask_x, "mask_h": mask_h, "mask_g": mask_g, "lengths": lengths, "reverse": reverse}
    check(op, make_problem(4, 3, 5, 8, **options))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("T, B, I, H", [(1, 1, 1, 1), (3, 5, 4, 16), (4, 2, 3, 7), (2, 3, 6, 33), (2, 2, 3, 264)])
def test_sizes(op, schedule, T, B, I, H, dtype):
    check(op, make_problem(T, B, I, H, dtype=dtype, **ALL_FEATURES))
    check(op, make_problem(T, B, I, H, dtype=dtype, reverse=True))


@pytest.mark.parametrize("b_ih, b_hh", [(False, False), (True, False), (False, True)])
def test_without_biases(op, b_ih, b_hh):
    check(op, make_problem(3, 2, 5, 8, b_ih=b_ih, b_hh=b_hh))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_drops_nothing_or_everything(op, p):
    check(op, make_problem(3, 2, 5, 8, p=p, **ALL_FEATURES))


@pytest.mark.parametrize(
    "used", [("dy",), ("dh_n",), ("dc_n",), ("dy", "dh_n"), ("dy", "dc_n"), ("dh_n", "dc_n")], ids="+".join
)
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
def test_outputs_that_nobody_uses(op, used, lengths):
    unused = {name: None for name in ("dy", "dh_n", "dc_n") if name not in used}
    check(op, replace(make_problem(3, 2, 5, 8, mask_h="BH", lengths=lengths), **unused))


@pytest.mark.parametrize("H", [16, 45])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_err_at_most_twice_as_much_as_plain_torch(op, schedule, dtype, H):
    problems = [
        make_problem(6, 8, 24, H, dtype=dtype, seed=seed, reverse=seed % 2 == 1, **ALL_FEATURES) for seed in range(4)
    ]
    assert_errs_at_most_twice_as_much_as_plain_torch(op, problems)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_same_bits_under_every_schedule(op, dtype):
    results = []
    for schedule in (*toolchain.SCHEDULES, toolchain.SCHEDULES[0]):
        op.set_schedule(schedule)
        results.append(run_op(op, make_problem(3, 5, 6, 40, dtype=dtype, **ALL_FEATURES)))
    for name, value in results[0].items():
        assert all(torch.equal(value, other[name]) for other in results[1:]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_unaligned_tensors_give_the_same_bits(op, dtype):
    """A dense view may start anywhere; 16-byte accesses to it would fault on a GPU."""

    def off_by_one(tensor):
        return torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape).copy_(tensor)

    problem = make_problem(3, 2, 5, 16, dtype=dtype, **ALL_FEATURES)
    unaligned = problem.map(off_by_one)
    assert unaligned.mask_g.data_ptr() % 16
    expected = run_op(op, problem)
    for name, value in run_op(op, unaligned).items():
        assert torch.equal(value, expected[name]), name


def test_lengths_out_of_range_are_clamped(op):
    problem = make_problem(3, 4, 5, 8, mask_h="BH", lengths=True)
    inside = replace(problem, lengths=torch.tensor([0, 3, 0, 3]))
    outside = replace(problem, lengths=torch.tensor([-1, 4, -(2**62), 2**62]))
    expected = run_op(op, inside)
    for name, value in run_op(op, outside).items():
        assert torch.equal(value, expected[name]), name


def test_one_launch_a_step_and_direction(op):
    problem = make_problem(7, 2, 3, 8, **ALL_FEATURES)
    before = op.launches()
    run_op(op, problem)
    assert op.launches() - before == 2 * 7


def test_an_empty_batch_launches_nothing(op):
    problem = make_problem(3, 0, 5, 8, **ALL_FEATURES)
    before = op.launches()
    check(op, problem)
    assert op.launches() == before
