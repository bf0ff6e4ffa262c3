"""What the tests compare with is itself no rubber stamp: it tells a layer that is a little wrong."""

import pytest
import torch

from rnndrop_cuda import reference
from tests.problems import MASK_KINDS, assert_equals_reference, random_problem, rounding_bounds

DTYPES = [torch.float64, torch.float32]


def one_gate_off(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, **options):
    off = torch.ones(4, dtype=W_hh.dtype)
    off[1] += 1e-3
    return reference.lstm_layer(
        x, h_0, c_0, W_ih, W_hh * off.repeat_interleave(len(W_hh) // 4)[:, None], b_ih, b_hh, **options
    )


def no_bias(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, **options):
    return reference.lstm_layer(x, h_0, c_0, W_ih, W_hh, b_ih, 0 * b_hh, **options)


def gradient_of_a_step_lost(x, h_0, c_0, *weights, **options):
    return reference.lstm_layer(torch.cat([x[:1].detach(), x[1:]]), h_0, c_0, *weights, **options)


def mask_of_another_step(*inputs, mask_g=None, **options):
    return reference.lstm_layer(*inputs, mask_g=None if mask_g is None else mask_g.roll(1, 0), **options)


@pytest.mark.parametrize("layer", [one_gate_off, no_bias, gradient_of_a_step_lost, mask_of_another_step])
@pytest.mark.parametrize("sizes", [(5, 3, 4, 6), (3, 2, 33, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_planted_mistake_is_found(dtype, sizes, layer):
    problem = random_problem(*sizes, masks="both", dtype=dtype)
    assert_equals_reference(problem, reference.lstm_layer)
    with pytest.raises(AssertionError, match="relative error"):
        assert_equals_reference(problem, layer)


@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("sizes", [(5, 3, 4, 6), (2, 5, 3, 129), (9, 2, 21, 130), (3, 30, 130, 100)], ids=str)
def test_a_thousandth_is_found_in_every_result(sizes, masks):
    """Rounding explains a few units in the last place in float64 and in float32, and never nothing."""
    for dtype in DTYPES:
        eps = torch.finfo(dtype).eps
        problem = random_problem(*sizes, masks=masks, dtype=dtype)
        exact = problem.to(torch.float64).solve(reference.lstm_layer)
        for name, bound in rounding_bounds(problem, exact).items():
            assert bound < 1000 * eps, name
            assert bound > 2 * eps or not exact[name].any(), name


def test_bounds_of_fewer_samples_are_smaller():
    """So that what is within them is within those of all, and samples may be left out."""
    problem = random_problem(9, 2, 21, 130, masks="both", dtype=torch.float32)
    exact = problem.to(torch.float64).solve(reference.lstm_layer)
    of_all, of_one = (rounding_bounds(problem, exact, errors=errors) for errors in (None, dict.fromkeys(exact, 0.0)))
    assert all(of_one[name] < of_all[name] for name in exact)
    beyond = {name: 2 * bound for name, bound in of_all.items()}
    assert rounding_bounds(problem, exact, errors=beyond) == of_all
