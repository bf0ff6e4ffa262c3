"""nn.LSTM's contract: PyTorch's own samples and error inputs run over our class, and what they leave out."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from problems import relative_error
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from rnndrop_cuda import LSTM, LayerMasks, functional

(NN_LSTM,) = [info for info in module_db if info.module_cls is nn.LSTM]
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(why), reason=why))
    for name, why in functional.usable_backends().items()
]
DTYPES = [torch.float32, torch.float64]
NO_CUDA = functional.usable_backends()["cuda"]
DEVICES = [
    "cpu",
    "meta",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(NO_CUDA), reason=NO_CUDA)]),
]
T, B, I, H = 5, 3, 4, 6


def device_of(backend):
    return "cuda" if backend == "cuda" else "cpu"


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


def flat(output):
    y, (h_n, c_n) = output
    return [y.data if isinstance(y, PackedSequence) else y, h_n, c_n]


def assert_same(actual, expected, dtype=torch.float64):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    for ours, theirs in zip(flat(actual), flat(expected), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert relative_error(ours, theirs) < tolerance


def gradients(module, output, leaves):
    loss = sum((value * value.detach().sin()).sum() for value in flat(output))
    return torch.autograd.grad(loss, [*leaves, *module.parameters()])


# ---------------------------------------------------------------- PyTorch's samples


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
    undefined gradients, which would be three quarters of the time; test_op.py has upstream gradients that are missing.
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
    """To the device and back, with a forward on each; and into the other dtype, and back."""
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


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_parameters_are_nn_lstms(bias, bidirectional):
    options = {"num_layers": 3, "bias": bias, "bidirectional": bidirectional}
    torch.manual_seed(1)
    theirs = nn.LSTM(I, H, **options)
    torch.manual_seed(1)
    ours = LSTM(I, H, **options)
    expected, actual = dict(theirs.named_parameters()), dict(ours.named_parameters())
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert [[p.shape for p in run] for run in ours.all_weights] == [
        [p.shape for p in run] for run in theirs.all_weights
    ]
    ours.flatten_parameters()


def test_positional_arguments_are_nn_lstms():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments = (I, H, 2, False, True, 0.25, True, 0, "cpu", torch.float64)
        assert repr(LSTM(*arguments)) == repr(nn.LSTM(*arguments))


def test_warns_of_dropout_where_nn_lstm_does():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        LSTM(I, H, dropout=0.5)


def test_from_torch_and_back():
    theirs = nn.LSTM(I, H, 2, batch_first=True, bidirectional=True, dropout=0.5, dtype=torch.float64).eval()
    ours = LSTM.from_torch(theirs, input_dropout=0.5, mask_scope="sample")
    assert (ours.input_dropout, ours.mask_scope, ours.dropout, ours.training) == (0.5, "sample", 0.5, False)
    back = ours.to_torch()
    assert repr(back) == repr(theirs)
    assert back.training is False
    x = torch.randn(B, T, I, dtype=torch.float64)
    assert_same(ours(x), theirs(x))
    assert_same(back(x), theirs(x))


def test_tied_weights_get_the_sum_of_their_gradients():
    ours = LSTM(H, H, 2, dtype=torch.float64)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(ours, f"{name}_l1", getattr(ours, f"{name}_l0"))
    theirs = nn.LSTM(H, H, 2, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(T, B, H, dtype=torch.float64)
    output = ours(x)
    assert_same(output, theirs(x))
    of_ours = gradients(ours, output, [])
    of_theirs = gradients(theirs, theirs(x), [])
    assert len(of_ours) == 4
    for k, gradient in enumerate(of_ours):
        assert relative_error(gradient, of_theirs[k] + of_theirs[k + 4]) < 1e-12


def test_a_weight_shared_with_another_module_gets_both_gradients():
    """As PyTorch's test_partial_flat_weights: some weights shared, others not."""
    first, second = (LSTM(I, H, 2, dtype=torch.float64) for _ in range(2))
    second.weight_hh_l0, second.bias_ih_l1 = first.weight_hh_l0, first.bias_ih_l1
    x = torch.randn(T, B, I, dtype=torch.float64)
    shared = [first.weight_hh_l0, first.bias_ih_l1]
    of_both = torch.autograd.grad(first(x)[0].sum() + second(x)[0].sum(), shared)
    of_each = [torch.autograd.grad(module(x)[0].sum(), shared) for module in (first, second)]
    for both, one, other in zip(of_both, *of_each, strict=True):
        assert relative_error(both, one + other) < 1e-12
    assert_same(second(x), second.to_torch()(x))


# ---------------------------------------------------------------- lengths and packing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("with_hx", [True, False])
def test_packed_sequence_equals_nn_lstm(with_hx, bidirectional, batch_first, backend):
    device = device_of(backend)
    options = {"num_layers": 2, "batch_first": batch_first, "bidirectional": bidirectional}
    theirs = nn.LSTM(I, H, **options, dtype=torch.float64, device=device)
    ours = LSTM.from_torch(theirs, backend=backend)
    sequences = [torch.randn(n, I, dtype=torch.float64, device=device) for n in (3, 6, 1, 6)]
    in_order = sorted(sequences, key=len, reverse=True)
    runs = 4 if bidirectional else 2
    for packed in (pack_sequence(sequences, enforce_sorted=False), pack_sequence(in_order)):
        hx = tuple(torch.randn(runs, 4, H, dtype=torch.float64, device=device) for _ in "hc") if with_hx else None
        actual, expected = ours(packed, hx), theirs(packed, hx)
        assert_same(actual, expected)
        for a, e in zip(actual[0], expected[0], strict=True):
            assert (a is None and e is None) or a.shape == e.shape
        assert actual[0].batch_sizes.equal(expected[0].batch_sizes)
        if packed.sorted_indices is not None:
            assert actual[0].sorted_indices.equal(expected[0].sorted_indices)
        for a, e in zip(gradients(ours, actual, []), gradients(theirs, expected, []), strict=True):
            assert relative_error(a, e) < 1e-12


@pytest.mark.parametrize("form", ["list", "tensor", "int32"])
def test_lengths_equal_packing(form):
    ours = LSTM(I, H, 2, bidirectional=True, dtype=torch.float64)
    x, lengths = torch.randn(6, 4, I, dtype=torch.float64), [3, 6, 1, 5]
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    expected_y, expected_state = ours(packed)
    expected_y, _ = pad_packed_sequence(expected_y)
    given = {"list": lengths, "tensor": torch.tensor(lengths), "int32": torch.tensor(lengths, dtype=torch.int32)}[form]
    assert_same(ours(x, lengths=given), (expected_y, expected_state))


@pytest.mark.parametrize("masks", ["sample", "batch"])
def test_lengths_equal_each_sample_alone(masks):
    """Two layers, two directions, every mask; a sample of no step at all keeps its initial state."""
    ours = LSTM(
        I, H, 2, bidirectional=True, input_dropout=0.5, hidden_dropout=0.5, candidate_dropout=0.5, mask_scope=masks,
        dtype=torch.float64,
    )  # fmt: skip
    lengths, runs = [3, 6, 0, 1], 4
    x = torch.randn(6, 4, I, dtype=torch.float64, requires_grad=True)
    hx = tuple(torch.randn(runs, 4, H, dtype=torch.float64, requires_grad=True) for _ in "hc")
    drawn = ours.draw_masks(6, 4)
    together = ours(x, hx, lengths=lengths, masks=drawn)
    leaves = [x, *hx]
    upstream = [torch.randn_like(value) for value in flat(together)]
    actual = torch.autograd.grad(flat(together), [*leaves, *ours.parameters()], upstream)

    loss = torch.zeros((), dtype=torch.float64)
    for b, n in enumerate(lengths):
        one = slice(b, b + 1)
        y, h_n, c_n = flat(together)
        assert not y[n:, b].any()
        state = (hx[0][:, one], hx[1][:, one])
        y_b = torch.zeros(0, 1, 2 * H, dtype=torch.float64)
        if n > 0:
            of_sample = [
                LayerMasks(
                    x=m.x if m.x.dim() == 1 else m.x[one],
                    h=m.h if m.h.dim() == 1 else m.h[one],
                    g=m.g[:n, one],
                )
                for m in drawn
            ]
            y_b, state = ours(x[:n, one], state, masks=of_sample)
        assert relative_error(y[:n, one], y_b) < 1e-12
        for whole, alone in ((h_n, state[0]), (c_n, state[1])):
            assert relative_error(whole[:, one], alone) < 1e-12
        loss = loss + (upstream[0][:n, one] * y_b).sum()
        loss = loss + (upstream[1][:, one] * state[0]).sum() + (upstream[2][:, one] * state[1]).sum()
    expected = torch.autograd.grad(loss, [*leaves, *ours.parameters()])
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 1e-12


# ---------------------------------------------------------------- dropout between layers


def test_dropout_between_layers_of_0_and_1_is_exact():
    for p in (0.0, 1.0):
        theirs = nn.LSTM(I, H, 3, dropout=p, dtype=torch.float64)
        ours = LSTM.from_torch(theirs)
        x = torch.randn(T, B, I, dtype=torch.float64)
        assert_same(ours(x), theirs(x))


def test_dropout_between_layers_acts_in_training_only():
    ours = LSTM(I, H, 2, dropout=0.5)
    x = torch.randn(T, B, I)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])
    assert_same(ours(x), ours.to_torch()(x), torch.float32)


def test_dropout_between_layers_drops_at_its_rate():
    """With the upper layer an identity up to its gates: count the zeros it is given."""
    seen = []
    ours = LSTM(I, 50, 2, dropout=0.3)
    original = functional.lstm_layer
    ours.backend = "python"

    def spy(x, *args, **kwargs):
        seen.append(x)
        return original(x, *args, **kwargs)

    import rnndrop_cuda.stack as module

    module.lstm_layer = spy
    try:
        ours(torch.randn(40, 20, I))
    finally:
        module.lstm_layer = original
    below, above = seen
    assert below.shape[-1] == I
    assert abs((above == 0).double().mean() - 0.3) < 5 * (0.3 * 0.7 / above.numel()) ** 0.5


# ---------------------------------------------------------------- the system around


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_half_outputs_as_nn_lstm(dtype):
    theirs = nn.LSTM(I, H, 2, bidirectional=True)
    ours = LSTM.from_torch(theirs, input_dropout=0.5, candidate_dropout=0.5)
    x = torch.randn(T, B, I, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        output = ours(x)
        plain = LSTM.from_torch(theirs).eval()(x)
    assert [value.dtype for value in flat(output)] == [dtype] * 3
    (y, h_n, c_n), exact = flat(plain), flat(theirs(x))
    for value, expected in zip((y, h_n, c_n), exact, strict=True):
        assert relative_error(value, expected) < 0.02
    gradients(ours, output, [x])
    assert all(p.dtype == torch.float32 for p in ours.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_graph_break(training):
    ours = LSTM(I, H, 2, bidirectional=True, dtype=torch.float64).train(training)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    output = compiled(x)
    assert_same(output, ours(x))
    for a, e in zip(gradients(ours, output, [x]), gradients(ours, ours(x), [x]), strict=True):
        assert relative_error(a, e) < 1e-12
