"""torch.jit.trace of the layer in eval."""

import io
import warnings

import pytest
import torch
from modules import FUSED, all_equal, assert_close, build, device_of, flat, random_x
from torch import nn


class Flat(nn.Module):
    """Of the layer y, h_n and c_n."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x, lengths=None):
        return tuple(flat(self.lstm(x, lengths=lengths)))


def trace(model, *arguments):
    """Traced, traced again as a check, which raises an error where the graphs differ, saved and loaded."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(model, arguments), file)
        file.seek(0)
        return torch.jit.load(file)


@FUSED
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_in_eval_is_traced(backend, frozen):
    """Also where a parameter requires a gradient: the check runs without gradients, which must not change the graph."""
    model, x = Flat(build(backend).eval().requires_grad_(not frozen)), random_x(backend)
    traced = trace(model, x)
    assert all_equal(traced(x), model(x))
    with torch.no_grad():
        assert all_equal(traced(x), model(x))


@FUSED
def test_lengths_are_traced_as_an_input(backend):
    model, x = Flat(build(backend).eval()), random_x(backend)
    lengths, others = (torch.tensor(n, device=device_of(backend)) for n in ([5, 0, 2], [1, 4, 5]))
    traced = trace(model, x, lengths)
    assert all_equal(traced(x, lengths), model(x, lengths))
    assert all_equal(traced(x, others), model(x, others))


@FUSED
def test_what_was_traced_has_gradients(backend):
    model, x = Flat(build(backend).eval()), random_x(backend)
    with torch.no_grad():
        traced = trace(model, x)
    parameters = list(traced.parameters())
    gradients = torch.autograd.grad(sum(value.sin().sum() for value in traced(x)), parameters)
    expected = torch.autograd.grad(sum(value.sin().sum() for value in model(x)), list(model.parameters()))
    assert_close(gradients, expected)
