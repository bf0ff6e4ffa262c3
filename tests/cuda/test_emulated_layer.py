"""The CUDA kernels and backend under the CUDA emulation, in the real time loop, against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from layer_checks import (
    ALL_FEATURES,
    NOISY_STATE,
    UNUSED_OUTPUTS,
    assert_correct_with_unused_outputs,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    assert_same_bits,
    assert_tf32_follows_the_switch_of_nn_lstm,
    make_problem,
    map_tensors,
)

from tests.emulation import toolchain
from tests.problems import CONSTANTS, INPUTS, assert_equals_reference, random_problem

DTYPES = [torch.float64, torch.float32]
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(params=toolchain.SCHEDULES)
def schedule(op, request):
    """Runs the test under each order of threads, and leaves the first behind."""
    op.set_schedule(request.param)
    yield request.param
    op.set_schedule(toolchain.SCHEDULES[0])


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_g", ["", "H", "BH", "TBH"], ids="g{}".format)
@pytest.mark.parametrize("mask_h", ["", "H", "BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "I", "BI"], ids="x{}".format)
def test_every_combination(emulated, mask_x, mask_h, mask_g, lengths, reverse):
    masks = {"mask_x": mask_x, "mask_h": mask_h, "mask_g": mask_g}
    assert_equals_reference(make_problem(4, 3, 5, 8, lengths=lengths, reverse=reverse, **masks), emulated)


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("zone_h", ["", "H", "BH", "TBH"], ids="zh{}".format)
@pytest.mark.parametrize("zone_c", ["", "H", "TBH"], ids="zc{}".format)
@pytest.mark.parametrize("mask_c", ["", "H", "BH"], ids="c{}".format)
def test_every_combination_of_noise_on_the_state(emulated, mask_c, zone_c, zone_h, lengths):
    masks = {"mask_h": "BH", "mask_g": "BH", "mask_c": mask_c, "zone_c": zone_c, "zone_h": zone_h}
    for reverse in (False, True):
        problem = make_problem(4, 3, 5, 8, lengths=lengths, reverse=reverse, **masks)
        assert_equals_reference(problem, emulated)


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_h", ["", "BH", "41H", "4BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "41I", "4BI"], ids="x{}".format)
def test_untied_masks(emulated, mask_x, mask_h, lengths):
    for H in (8, 45):
        problem = make_problem(4, 3, 5, H, lengths=lengths, mask_x=mask_x, mask_h=mask_h)
        assert_equals_reference(problem, emulated)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T, B, I, H", [(1, 1, 1, 1), (3, 5, 4, 16), (4, 2, 3, 7), (2, 3, 6, 33), (2, 2, 3, 264)])
def test_sizes(emulated, schedule, T, B, I, H, dtype):
    for options in (ALL_FEATURES, NOISY_STATE, {"reverse": True}):
        problem = make_problem(T, B, I, H, dtype=dtype, **options)
        assert_equals_reference(problem, emulated)


@pytest.mark.parametrize("proj", [0, 3])
def test_without_a_backward_nothing_is_saved(op, proj):
    for reverse in (False, True):
        problem = random_problem(5, 3, 4, 6, proj=proj, masks="all", lengths=True, reverse=reverse)
        inputs = [problem.inputs.get(name) for name in (*INPUTS, "W_hr")]
        arguments = (*inputs, *(problem.options.get(name) for name in CONSTANTS), reverse)
        *expected, _, _, _ = op.lstm_layer(*arguments, True)
        *outputs, gates, c, h_full = op.lstm_layer(*arguments, False)
        assert all(map(torch.equal, outputs, expected))
        assert gates.numel() == c.numel() == h_full.numel() == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "both", "zoneout", "all"])
def test_projection(emulated, schedule, masks, lengths, dtype):
    for reverse in (False, True):
        problem = random_problem(3, 4, 5, 16, proj=3, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        assert_equals_reference(problem, emulated)


@pytest.mark.parametrize("without", [("b_ih", "b_hh"), ("b_ih",), ("b_hh",)], ids="+".join)
def test_without_biases(emulated, without):
    assert_equals_reference(make_problem(3, 2, 5, 8, without=without), emulated)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_drops_nothing_or_everything(emulated, p):
    assert_equals_reference(make_problem(3, 2, 5, 8, p=p, **ALL_FEATURES), emulated)


@pytest.mark.parametrize("unused", UNUSED_OUTPUTS, ids="+".join)
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
def test_outputs_that_nobody_uses(emulated, unused, lengths):
    problem = make_problem(3, 2, 5, 8, mask_h="BH", lengths=lengths, dtype=torch.float64)
    assert_correct_with_unused_outputs(emulated, problem, unused)


@pytest.mark.parametrize("H", [16, 45])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_err_at_most_twice_as_much_as_plain_torch(emulated, schedule, dtype, H):
    problems = [make_problem(6, 8, 24, H, dtype=dtype, reverse=reverse, **ALL_FEATURES) for reverse in (False, True)]
    assert_errs_at_most_twice_as_much_as_plain_torch(emulated, problems)


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_same_bits_under_every_schedule(op, emulated, dtype):
    problem = make_problem(3, 5, 6, 40, dtype=dtype, **ALL_FEATURES)
    expected = problem.solve(emulated)
    for schedule in (*toolchain.SCHEDULES, toolchain.SCHEDULES[0]):
        op.set_schedule(schedule)
        assert_same_bits(problem.solve(emulated), expected)


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_unaligned_tensors_give_the_same_bits(emulated, dtype):
    """A dense view may start anywhere; 16-byte accesses to it would fault on a GPU."""

    def one_element_on(tensor):
        return torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape).copy_(tensor)

    def on_unaligned_inputs(*args, **kwargs):
        args = [one_element_on(a) if torch.is_tensor(a) else a for a in args]
        return emulated(*args, **kwargs)

    problem = make_problem(3, 2, 5, 16, dtype=dtype, **ALL_FEATURES)
    unaligned = map_tensors(problem, one_element_on)
    assert unaligned.options["mask_g"].data_ptr() % 16
    assert_same_bits(unaligned.solve(on_unaligned_inputs), problem.solve(emulated))


def test_lengths_out_of_range_are_clamped(emulated):
    problem = make_problem(3, 4, 5, 8, mask_h="BH", lengths=True)
    problem.options["lengths"] = torch.tensor([0, 3, 0, 3])
    expected = problem.solve(emulated)
    problem.options["lengths"] = torch.tensor([-1, 4, -(2**62), 2**62])
    assert_same_bits(problem.solve(emulated), expected)


def test_tf32_follows_the_switch_of_nn_lstm(emulated):
    assert_tf32_follows_the_switch_of_nn_lstm(emulated, make_problem(3, 4, 16, 8))


def test_one_launch_a_step_and_direction(op, emulated):
    problem = make_problem(7, 2, 3, 8, **ALL_FEATURES)
    before = op.launches()
    problem.solve(emulated)
    of_dx = 1  # times its mask
    assert op.launches() - before == 2 * 7 + of_dx


def test_an_empty_batch_launches_nothing(op, emulated):
    before = op.launches()
    assert_equals_reference(make_problem(3, 0, 5, 8, **ALL_FEATURES), emulated)
    assert op.launches() == before
