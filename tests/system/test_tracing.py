"""torch.jit.trace of the layer in eval."""

import io
import warnings

import pytest
import torch
from modules import FUSED, all_equal, assert_close, build, device_of, flat, random_x
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


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


class Packs(nn.Module):
    """A model that packs its sequences on its own."""

    def __init__(self, lstm, enforce_sorted):
        super().__init__()
        self.lstm, self.enforce_sorted = lstm, enforce_sorted

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=self.enforce_sorted)
        y, (h_n, c_n) = self.lstm(packed)
        return *pad_packed_sequence(y), h_n, c_n


@FUSED
def test_a_trace_takes_other_sizes(backend):
    model = Flat(build(backend).eval())
    traced, other = trace(model, random_x(backend)), random_x(backend, T=7, B=4)
    assert all_equal(traced(other), model(other))


@FUSED
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_a_trace_takes_a_packed_sequence_of_other_sizes(backend, enforce_sorted):
    """As nn.LSTM's does: neither the number of steps nor that of the sequences is kept."""
    model = Packs(build(backend).eval(), enforce_sorted)
    traced = trace(model, random_x(backend), torch.tensor([5, 3, 1] if enforce_sorted else [2, 5, 3]))
    other, lengths = random_x(backend, T=9, B=4), torch.tensor([9, 8, 3, 1] if enforce_sorted else [3, 9, 1, 8])
    assert all_equal(traced(other, lengths), model(other, lengths))
