"""torch.jit.trace of the layer, in eval and with its dropout on."""

import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnndrop_cuda import LSTM, dropout_mask
from rnndrop_cuda.noises import NOISES
from tests.modules import FUSED, B, H, I, T, all_equal, assert_close, build, device_of, flat, random_x


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


@FUSED
@pytest.mark.parametrize("form", [{"proj_size": 2}, {"num_layers": 1, "dropout": 0.0}], ids=str)
def test_one_direction_is_traced(backend, form):
    """Whose output is copied where a gradient may be wanted: in the trace, and in the check without gradients."""
    model, x = Flat(build(backend, bidirectional=False, **form).eval()), random_x(backend)
    traced = trace(model, x)
    assert all_equal(traced(x), model(x))


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
    found, expected = traced(other, lengths), model(other, lengths)
    if enforce_sorted:
        assert all_equal(found, expected)
    else:  # the samples run in another order
        torch.testing.assert_close(found, expected)


def tracer_warnings(model, *arguments):
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        torch.jit.trace(model.eval(), arguments)
    return sum(issubclass(warning.category, torch.jit.TracerWarning) for warning in raised)


@pytest.mark.parametrize("form", [{}, {"proj_size": 2}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_a_trace_warns_no_more_than_nn_lstms(form):
    """nn.LSTM's warns of each size that it checks; a packed sequence it checks not at all."""
    theirs, ours = (make(I, H, **form) for make in (nn.LSTM, LSTM))
    x, lengths = torch.randn(T, B, I), torch.tensor([T, 2, 1])
    assert tracer_warnings(Flat(ours), x) == tracer_warnings(Flat(ours), x, lengths) == 0
    assert tracer_warnings(Packs(ours, True), x, lengths) <= tracer_warnings(Packs(theirs, True), x, lengths)


class ReadsAValue(LSTM):
    def forward(self, input, hx=None, **options):
        return super().forward(input if input.sum() > 0 else -input, hx, **options)


def test_a_subclass_is_warned_of_its_own():
    assert tracer_warnings(Flat(ReadsAValue(I, H)), torch.ones(T, B, I)) > 0


@pytest.mark.parametrize("mask_scope", ["batch", "sample"])
def test_a_trace_draws_masks_of_the_sizes_of_each_call(mask_scope):
    """Anew, of every kind, with the mean of 1."""
    dropout = dict.fromkeys([row.keyword for row in NOISES], 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no two calls are alike
        traced = torch.jit.trace(Flat(build(**dropout, mask_scope=mask_scope, gate_masks="untied")), random_x())
    outputs = [traced(random_x(T=9, B=4))[0] for _ in range(2)]
    assert outputs[0].shape == (9, 4, 2 * H)
    assert not torch.equal(*outputs)


class Draws(nn.Module):
    def forward(self, like):
        return dropout_mask(like.shape, 0.25, dtype=torch.float64)


def test_a_mask_drawn_in_a_trace():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Draws(), torch.empty(3, 2))
    torch.manual_seed(0)
    mask = traced(torch.empty(400, 250))
    assert mask.shape == (400, 250) and set(mask.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs((mask == 0).double().mean() - 0.25) < 5 * (0.25 * 0.75 / mask.numel()) ** 0.5
