"""What the tests compare with is itself no rubber stamp: it tells a layer that is a little wrong."""

import pytest
import torch
from problems import assert_equals_reference, random_problem

from rnndrop_cuda import reference

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}


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
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_planted_mistake_is_found(dtype, sizes, layer):
    problem = random_problem(*sizes, masks="both", dtype=dtype)
    assert_equals_reference(problem, reference.lstm_layer, TOLERANCE[dtype])
    with pytest.raises(AssertionError, match="relative error"):
        assert_equals_reference(problem, layer, TOLERANCE[dtype])
