"""nn.LSTM's contract: PyTorch's own samples and error inputs run over our class."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from rnndrop_cuda import LSTM, functional
from tests.modules import BACKENDS, assert_same, device_of, flat, gradients
from tests.problems import relative_error

(NN_LSTM,) = [info for info in module_db if info.module_cls is nn.LSTM]
DTYPES = [torch.float32, torch.float64]
NO_CUDA = functional.usable_backends()["cuda"]
DEVICES = [
    "cpu",
    "meta",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(NO_CUDA), reason=NO_CUDA)]),
]


def samples(dtype, device="cpu", requires_grad=False, training=True):
    """PyTorch's samples for nn.LSTM, projections among them."""
    chosen = NN_LSTM.module_inputs_func(
        NN_LSTM, device=device, dtype=dtype, requires_grad=requires_grad, training=training
    )
    assert len(chosen) >= 32
    assert any(sample.constructor_input.kwargs["proj_size"] > 0 for sample in chosen)
    return chosen


def build(sample, dtype, backend):
    arguments = sample.constructor_input
    factory = {"dtype": dtype, "device": device_of(backend)}
    theirs = nn.LSTM(*arguments.args, **arguments.kwargs, **factory)
    ours = LSTM(*arguments.args, **arguments.kwargs, **factory, backend=backend)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
def test_samples_equal_nn_lstm_and_their_reference(dtype, backend, training):
    for sample in samples(dtype, device_of(backend), requires_grad=True, training=training):
        theirs, ours = build(sample, dtype, backend)
        theirs.train(training), ours.train(training)
        args = sample.forward_input.args
        leaves = [t for arg in args for t in (arg if isinstance(arg, tuple) else (arg,))]
        expected, actual = theirs(*args), ours(*args)
        assert_same(actual, expected, dtype)
        assert_same(actual, sample.reference_fn(ours, *args), dtype)
        for a, e in zip(gradients(ours, actual, leaves), gradients(theirs, expected, leaves), strict=True):
            assert relative_error(a, e) < (1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("check", "training"), [(gradcheck, True), (gradcheck, False), (gradgradcheck, True)])
def test_samples_derivatives(check, training, backend):
    """As PyTorch's TestModule.test_grad and test_gradgrad: fast mode, in the input, the state and all parameters.

    Of second derivatives in training only, as eval is no other function of them, and without the batched and the
    undefined gradients, which would be three quarters of the time; test_ops.py has upstream gradients that are missing.
    """
    first = check is gradcheck
    for sample in samples(torch.float64, device_of(backend), requires_grad=True, training=training):
        _, ours = build(sample, torch.float64, backend)
        ours.train(training)
        names, parameters = zip(*ours.named_parameters(), strict=True)
        given, spec = tree_flatten(sample.forward_input.args)

        def run(*values, ours=ours, names=names, spec=spec):
            args, weights = values[: spec.num_leaves], values[spec.num_leaves :]
            weights = dict(zip(names, weights, strict=True))
            return tuple(flat(torch.func.functional_call(ours, weights, tree_unflatten(args, spec))))

        weights = [p.detach().requires_grad_() for p in parameters]
        inputs = (*given, *weights)
        assert check(run, inputs, fast_mode=True, nondet_tol=0.0, check_batched_grad=first, check_undefined_grad=first)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
def test_samples_non_contiguous(training, backend):
    """The inputs, the upstream gradients, both."""

    def with_gaps(value):
        return torch.stack([value, value + 1], dim=-1)[..., 0]

    for sample in samples(torch.float64, device_of(backend), training=training):
        _, ours = build(sample, torch.float64, backend)
        ours.train(training)
        given, spec = tree_flatten(sample.forward_input.args)
        upstream = [torch.randn_like(value) for value in flat(ours(*sample.forward_input.args))]

        def solve(given, upstream, ours=ours, spec=spec):
            leaves = [value.detach().requires_grad_() for value in given]
            output = flat(ours(*tree_unflatten(leaves, spec)))
            return [*output, *torch.autograd.grad(output, [*leaves, *ours.parameters()], upstream)]

        apart, upstream_apart = [with_gaps(value) for value in given], [with_gaps(value) for value in upstream]
        assert not any(value.is_contiguous() for value in (*apart, *upstream_apart))
        expected = solve(given, upstream)
        for actual in (solve(apart, upstream), solve(given, upstream_apart), solve(apart, upstream_apart)):
            for a, e in zip(actual, expected, strict=True):
                assert relative_error(a, e) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_survive_pickle_deepcopy_and_save(backend):
    for sample in samples(torch.float32, device_of(backend)):
        _, ours = build(sample, torch.float32, backend)
        args = sample.forward_input.args
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), torch.load(file, weights_only=False)):
            assert all(torch.equal(a, b) for a, b in zip(flat(other(*args)), flat(ours(*args)), strict=True))
            assert list(other.state_dict()) == list(ours.state_dict())


def test_samples_repr():
    for sample in samples(torch.float32):
        arguments = sample.constructor_input
        ours = LSTM(*arguments.args, **arguments.kwargs)
        assert repr(ours) == str(ours) == repr(nn.LSTM(*arguments.args, **arguments.kwargs))


def assert_parameters_are(module, device, dtype):
    for tensor in module.state_dict().values():
        assert (tensor.device.type, tensor.dtype) == (device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16])
def test_samples_factory_kwargs(dtype, device):
    """Each alone, both, and as torch's defaults for what is built within."""
    for sample in samples(torch.float32):
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        assert_parameters_are(LSTM(*args, **kwargs, device=device, dtype=dtype), device, dtype)
        assert_parameters_are(LSTM(*args, **kwargs, device=device), device, torch.float32)
        assert_parameters_are(LSTM(*args, **kwargs, dtype=dtype), "cpu", dtype)
        with torch.device(device):
            assert_parameters_are(LSTM(*args, **kwargs, dtype=dtype), device, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_samples_device_transfer(device, dtype):
    """To the device and back, with a forward on each; and into the other dtype, and back.

    Without TF32, which a GPU takes by default and which is not as exact as the CPU.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check_device_transfer(device, dtype)


def check_device_transfer(device, dtype):
    (other,) = set(DTYPES) - {dtype}
    for sample in samples(dtype):
        _, ours = build(sample, dtype, "auto")
        state = copy.deepcopy(ours.state_dict())
        args = sample.forward_input.args
        expected = ours(*args)
        there = ours.to(device)(*tree_map(lambda value: value.to(device), args))
        assert_parameters_are(ours, device, dtype)
        for value, like in zip(flat(there), flat(expected), strict=True):
            assert (value.shape, value.dtype, value.device.type) == (like.shape, dtype, device)
        if device == "meta":  # which keeps no numbers
            ours.to_empty(device="cpu").load_state_dict(state)
        else:
            assert_same(tree_map(torch.Tensor.cpu, there), expected, dtype)
        assert_parameters_are(ours.cpu(), "cpu", dtype)
        assert_same(ours(*args), expected, dtype)
        assert_parameters_are(ours.to(other), "cpu", other)
        assert_same(
            ours(*tree_map(lambda value: value.to(other), args)),
            tree_map(lambda v: v.to(other), expected),
            torch.float32,
        )
        assert_parameters_are(ours.to(dtype), "cpu", dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_train_and_eval(dtype, backend):
    """With every dropout on: training draws anew at each call, eval is nn.LSTM's."""
    for sample in samples(dtype, device_of(backend)):
        theirs, _ = build(sample, dtype, backend)
        dropout = dict.fromkeys(("input_dropout", "hidden_dropout", "candidate_dropout", "weight_dropout"), 0.5)
        ours = LSTM.from_torch(theirs, **dropout, backend=backend)
        args = sample.forward_input.args
        assert ours.training
        draws = [torch.cat([value.flatten() for value in flat(ours(*args))]) for _ in range(4)]
        assert any(not torch.equal(draw, draws[0]) for draw in draws)
        assert ours.eval() is ours and not ours.training
        assert_same(ours(*args), theirs(*args), dtype)
        assert ours.train() is ours and ours.training


def error_inputs(dtype):
    """nn.LSTM's own entry has no error inputs; those of nn.RNN and nn.GRU are of the base class of all three."""
    (gru,) = [info for info in module_db if info.module_cls is nn.GRU]
    assert gru.module_error_inputs_func is not None
    return gru.module_error_inputs_func(gru, device="cpu", dtype=dtype, requires_grad=False, training=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_error_inputs(dtype):
    checked = 0
    for error in error_inputs(dtype):
        arguments = error.module_error_input.constructor_input
        if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                LSTM(*arguments.args, **arguments.kwargs)
        else:
            module = LSTM(*arguments.args, **arguments.kwargs)
            call = error.module_error_input.forward_input
            with pytest.raises(error.error_type, match=error.error_regex):
                module(*call.args, **call.kwargs)
        checked += 1
    assert checked > 0
