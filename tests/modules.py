"""What the tests of modules share: modules with every dropout, steps of training, comparisons, changes of weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from rnndrop_cuda import LSTM, functional
from tests.problems import relative_error

NOT_USABLE = functional.usable_backends()
T, B, I, H = 5, 3, 4, 6
DROPOUT = {"dropout": 0.3, "input_dropout": 0.5, "hidden_dropout": 0.5, "candidate_dropout": 0.5}


def backends(*names):
    marks = {name: [pytest.mark.skipif(bool(why), reason=why)] for name, why in NOT_USABLE.items()}
    marks["cuda"].append(pytest.mark.gpu)
    return [pytest.param(name, marks=marks[name]) for name in names]


BACKENDS = backends("cuda", "cpu", "python")
ANY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
FUSED = pytest.mark.parametrize("backend", backends("cuda", "cpu"))


def device_of(backend):
    return "cuda" if backend == "cuda" else "cpu"


def build(backend="auto", *, dtype=torch.float64, **options):
    """Two layers, two directions, every dropout there is."""
    options = {"num_layers": 2, "bidirectional": True, **DROPOUT} | options
    return LSTM(I, H, **options, backend=backend, dtype=dtype, device=device_of(backend))


def random_x(backend="auto", *, T=T, B=B, dtype=torch.float64):
    return torch.randn(T, B, I, dtype=dtype, device=device_of(backend))


def call(layer, *args):
    return layer(*args)


def long_way(layer, *args):
    """The same by an option that keeps it out of csrc/plain_call.h, so that it goes by rnndrop_cuda.functional."""
    return layer(*args, return_masks=True)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def flat(output):
    """y (of a PackedSequence the data), h_n, c_n."""
    y, (h_n, c_n) = output[:2]
    return [y.data if isinstance(y, PackedSequence) else y, h_n, c_n]


def loss_of(output):
    return sum(value.sin().sum() for value in flat(output))


def training_step(model, x, *, seed=1, run=None, **options):
    """Outputs and all gradients of one step whose masks are drawn from this seed."""
    torch.manual_seed(seed)
    run = model if run is None else run
    x = x.detach().requires_grad_()
    output = run(x, **options)
    return [*flat(output), *torch.autograd.grad(loss_of(output), [x, *model.parameters()])]


def gradients(module, output, leaves):
    loss = sum((value * value.detach().sin()).sum() for value in flat(output))
    return torch.autograd.grad(loss, [*leaves, *module.parameters()])


def all_equal(actual, expected):
    return all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def assert_close(actual, expected, tolerance=1e-12):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert relative_error(a, e) < tolerance


def assert_same(actual, expected, dtype=torch.float64):
    """Of two modules' outputs."""
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    for ours, theirs in zip(flat(actual), flat(expected), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert relative_error(ours, theirs) < tolerance


def assert_bit_for_bit(actual, expected):
    for a, e in zip(flat(actual), flat(expected), strict=True):
        assert torch.equal(a, e)


# ---------------------------------------------------------------- changes of a layer's weights


def halved(layer):
    with torch.no_grad():
        layer.weight_hh_l0 /= 2


def another_parameter(layer):
    layer.weight_hh_l0 = nn.Parameter(torch.randn_like(layer.weight_hh_l0))


def loaded(layer):
    layer.load_state_dict(LSTM(layer.input_size, layer.hidden_size).state_dict())


def through_data(layer):
    layer.weight_hh_l0.data = torch.randn_like(layer.weight_hh_l0)
