"""The stack of layers and directions: masks on weights and between layers, masks given and returned, autocast."""

import copy
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from rnndrop_cuda import LSTM, LayerMasks, functional, ops, reference
from tests.modules import BACKENDS, B, H, I, T, assert_bit_for_bit, assert_same, flat, gradients, normal
from tests.problems import relative_error

EVERYTHING = {
    "dropout": 0.4, "input_dropout": 0.3, "hidden_dropout": 0.3, "candidate_dropout": 0.3, "weight_dropout": 0.3,
}  # fmt: skip


def stack(**options):
    """Two layers, two directions, every dropout."""
    return LSTM(I, H, 2, bidirectional=True, dtype=torch.float64, **EVERYTHING | options)


def assert_masks_equal(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        for a, e in zip(ours, theirs, strict=True):
            assert (a is None and e is None) or torch.equal(a, e)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_dropout_equals_the_reference_with_masked_weights(backend):
    """Outputs and every gradient; the gradient of a dropped weight is 0."""
    device = "cuda" if backend == "cuda" else "cpu"
    layer = LSTM(I, H, weight_dropout=0.5, dtype=torch.float64, device=device, backend=backend)
    before = layer.weight_hh_l0.detach().clone()
    x, upstream = normal(T, B, I).to(device), normal(T, B, H).to(device)
    y, _, (m,) = layer(x, return_masks=True)
    assert m.w.shape == (4 * H, H)
    zeros = x.new_zeros(B, H)
    W_ih, W_hh, b_ih, b_hh = layer.parameters()
    expected, _, _ = reference.lstm_layer(x, zeros, zeros, W_ih, W_hh * m.w, b_ih, b_hh)
    assert relative_error(y, expected) < 1e-12
    actual_gradients = torch.autograd.grad(y, list(layer.parameters()), upstream)
    expected_gradients = torch.autograd.grad(expected, list(layer.parameters()), upstream)
    for a, e in zip(actual_gradients, expected_gradients, strict=True):
        assert relative_error(a, e) < 1e-12
    assert (m.w == 0).any()
    assert not actual_gradients[1][m.w == 0].any()
    assert torch.equal(layer.weight_hh_l0, before)


def test_weight_masks_are_drawn_fresh_for_every_layer_direction_and_forward():
    layer = LSTM(I, 40, 2, bidirectional=True, weight_dropout=0.3)
    masks = [m.w for _ in range(2) for m in layer(torch.randn(T, B, I), return_masks=True)[2]]
    assert len(masks) == 8
    for k, mask in enumerate(masks):
        kept = mask != 0
        assert torch.equal(mask[kept], torch.full_like(mask[kept], 1 / 0.7))
        assert abs(kept.double().mean() - 0.7) <= 5 * (0.3 * 0.7 / mask.numel()) ** 0.5
        assert not any(torch.equal(mask, other) for other in masks[:k])


def test_weight_dropout_of_0_and_1_is_exact():
    plain = LSTM(I, H, dtype=torch.float64)
    x = normal(T, B, I)
    none, whole = (LSTM(I, H, weight_dropout=p, dtype=torch.float64) for p in (0.0, 1.0))
    none.load_state_dict(plain.state_dict())
    whole.load_state_dict(plain.state_dict())
    assert_bit_for_bit(none(x), plain(x))
    with torch.no_grad():
        plain.weight_hh_l0.zero_()
    assert_bit_for_bit(whole(x), plain(x))


def test_weight_dropout_leaves_the_module_an_ordinary_one():
    layer = LSTM(I, H, weight_dropout=0.5, dtype=torch.float64)
    x = normal(T, B, I)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x)[0].sum().backward()
    optimizer.step()
    assert list(layer.state_dict()) == list(nn.LSTM(I, H).state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(3)
        expected = layer(x)
        torch.manual_seed(3)
        assert_bit_for_bit(other(x), expected)
    assert relative_error(layer.eval()(x)[0], layer.to_torch()(x)[0]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weight_dropout_under_autocast(dtype):
    layer = LSTM(I, H, weight_dropout=0.5)
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", dtype=dtype):
        y, _, masks = layer(x, return_masks=True)
        y.sum().backward()
    assert y.dtype == dtype
    assert layer.weight_hh_l0.grad.dtype == torch.float32
    assert relative_error(y, layer(x, masks=masks)[0]) < 0.02


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("form", ["padded", "batch_first", "unbatched", "lengths", "packed"])
def test_returned_masks_give_the_same_output_bit_for_bit(form, scope, training):
    """With every dropout there is, that between layers among them; in training and in eval."""
    layer = stack(mask_scope=scope, batch_first=form == "batch_first")
    x = {"batch_first": normal(B, T, I), "unbatched": normal(T, I)}.get(form, normal(T, B, I))
    if form == "packed":
        x = pack_sequence([normal(n, I) for n in (3, T, 1)], enforce_sorted=False)
    options = {"lengths": [3, T, 0]} if form == "lengths" else {}
    output = layer(x, **options, return_masks=True)
    masks = output[2]
    assert len(masks) == 4
    assert all(m.x is not None and m.h is not None and m.g is not None and m.w is not None for m in masks)
    assert [m.y is not None for m in masks] == [True, True, False, False]
    layer.train(training)
    again = layer(x, **options, masks=masks, return_masks=True)
    assert_bit_for_bit(again, output)
    assert_masks_equal(again[2], masks)


def test_every_mask_with_a_projection():
    """Shapes, the reference with what was drawn, and the same output again."""
    layer = stack(proj_size=2, mask_scope="sample", learn_initial_state=True, init="orthogonal")
    assert layer.h_0.shape == (4, 1, 2) and layer.c_0.shape == (4, 1, H)
    nn.init.normal_(layer.h_0)
    x = normal(T, B, I)
    output = layer(x, return_masks=True)
    shapes = [[list(mask.shape) for mask in m if mask is not None] for m in output[2]]
    inside = [[B, 2], [T, B, H], [4 * H, 2]]
    assert shapes == [[[B, I], *inside, [T, B, 2]]] * 2 + [[[B, 4], *inside]] * 2
    assert_bit_for_bit(layer(x, masks=output[2]), output)
    y = x
    for k, (weights, m) in enumerate(zip(layer.all_weights, output[2], strict=True)):
        W_ih, W_hh, b_ih, b_hh, W_hr = weights
        assert relative_error(W_hh[:H].T @ W_hh[:H], torch.eye(2)) < 1e-12
        states = (layer.h_0[k].expand(B, -1), layer.c_0[k].expand(B, -1))
        run, h_n, c_n = reference.lstm_layer(
            y, *states, W_ih, W_hh * m.w, b_ih, b_hh, W_hr=W_hr, mask_x=m.x, mask_h=m.h, mask_g=m.g, reverse=k % 2 == 1
        )
        assert relative_error(output[1][0][k], h_n) < 1e-12
        assert relative_error(output[1][1][k], c_n) < 1e-12
        run = run if m.y is None else run * m.y
        if k % 2 == 0:
            forward = run
        else:
            y = torch.cat([forward, run], dim=-1)
    assert relative_error(output[0], y) < 1e-12


def test_masks_given_in_training_draw_nothing():
    layer, x = stack(), normal(T, B, I)
    masks = layer.draw_masks(T, B)
    before = torch.get_rng_state()
    layer(x, masks=masks)
    assert torch.equal(torch.get_rng_state(), before)


def test_returned_masks_in_eval_are_none():
    output = stack().eval()(normal(T, B, I), return_masks=True)
    assert output[2] == [LayerMasks()] * 4


def test_generator_draws_every_mask_and_nothing_else_does():
    layer, x = LSTM(50, 50, 2, bidirectional=True, **EVERYTHING), torch.randn(T, B, 50)
    before = torch.get_rng_state()
    outputs = [layer(x, generator=torch.Generator().manual_seed(seed), return_masks=True) for seed in (7, 7, 8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert_bit_for_bit(outputs[0], outputs[1])
    assert not torch.equal(outputs[0][0], outputs[2][0])
    for ours, others in zip(outputs[0][2], outputs[2][2], strict=True):
        assert not any(torch.equal(a, b) for a, b in zip(ours, others, strict=True) if a is not None)
    assert_masks_equal(layer.draw_masks(T, B, torch.Generator().manual_seed(7)), outputs[0][2])


def test_mask_between_layers_is_where_it_says():
    """The upper layer alone, on the lower layer's output times y of each direction."""
    layer = stack()
    x = normal(T, B, I)
    masks = layer.draw_masks(T, B)
    lower = LSTM(I, H, bidirectional=True, dtype=torch.float64)
    upper = LSTM(2 * H, H, bidirectional=True, dtype=torch.float64)
    weights = layer.state_dict()
    lower.load_state_dict({name: weights[name] for name in lower.state_dict()})
    upper.load_state_dict({name: weights[name.replace("l0", "l1")] for name in upper.state_dict()})
    between, _ = lower(x, masks=[m._replace(y=None) for m in masks[:2]])
    between = between * torch.cat([masks[0].y, masks[1].y], dim=-1)
    assert relative_error(layer(x, masks=masks)[0], upper(between, masks=masks[2:])[0]) < 1e-12


@pytest.mark.parametrize("given", [True, False])
def test_compiles_without_graph_break(given):
    """Drawing every mask, or given them; a generator is what torch.compile cannot trace."""
    torch._dynamo.reset()  # it stops at the eighth stack of a process, whatever file compiled the others
    layer, x = stack(learn_initial_state=True), normal(T, B, I)
    options = {"masks": layer.draw_masks(T, B)} if given else {}
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for call in (layer, compiled):
        torch.manual_seed(2)
        output = call(x, **options)
        results.append([*flat(output), *torch.autograd.grad(flat(output)[0].sum(), list(layer.parameters()))])
    for expected, actual in zip(*results, strict=True):
        assert relative_error(actual, expected) < 1e-12


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
    original = functional.run_layer
    ours.backend = "python"

    def spy(tensors, *options):
        seen.append(tensors[0])
        return original(tensors, *options)

    import rnndrop_cuda.stack as module

    module.run_layer = spy
    try:
        ours(torch.randn(40, 20, I))
    finally:
        module.run_layer = original
    below, above = seen
    assert below.shape[-1] == I
    assert abs((above == 0).double().mean() - 0.3) < 5 * (0.3 * 0.7 / above.numel()) ** 0.5


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


# ---------------------------------------------------------------- what a small call costs


class Ops(TorchDispatchMode):
    """The operators that run under it, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(op.__name__)
        return op(*args, **(kwargs or {}))


def python_calls(run):
    """How many Python functions a run calls, itself among them, once everything is warm."""
    calls = []
    run()
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        run()
    finally:
        sys.setprofile(None)
    return len(calls)


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")
def test_a_small_call_stays_small():
    """In front of the op each Python function takes a tenth of a microsecond or more, each operator nearly one."""
    layer, x = LSTM(8, 8).eval(), torch.randn(1, 1, 8)
    _, hx = layer(x)
    with torch.no_grad():
        with Ops() as without_hx:
            layer(x)
        with Ops() as with_hx:
            layer(x, hx)
        calls = [python_calls(lambda: layer(x)), python_calls(lambda: layer(x, hx))]
    assert without_hx.names == ["lstm_layer.default", *["stack.default"] * 2]
    assert with_hx.names == [*["unbind.int"] * 2, "lstm_layer.default", *["stack.default"] * 2]
    assert calls[0] <= 8 and calls[1] <= 8, calls  # all in C++
    assert python_calls(lambda: layer(x, hx)) <= 80  # with a gradient to come


@pytest.mark.parametrize("backend", BACKENDS)
def test_final_states_of_one_layer_are_no_views(backend):
    """Truncated backpropagation detaches them in place."""
    device = "cuda" if backend == "cuda" else "cpu"
    layer = LSTM(I, H, dtype=torch.float64, device=device, backend=backend)
    _, hx = layer(normal(T, B, I).to(device))
    for state in hx:
        assert not state._is_view() and state.shape == (1, B, H)
        state.detach_()
    layer(normal(T, B, I).to(device), hx)[0].sum().backward()
    assert layer.weight_hh_l0.grad is not None


@pytest.mark.parametrize("training", [True, False])
def test_a_subclass_of_tensor_goes_through(training):
    class Named(torch.Tensor):
        pass

    layer, x = LSTM(I, H, dtype=torch.float64).train(training), normal(T, B, I)
    output = layer(x.as_subclass(Named))
    assert all(type(value) is Named for value in flat(output))
    for actual, expected in zip(flat(output), flat(layer(x)), strict=True):
        assert torch.equal(actual.as_subclass(torch.Tensor), expected)
    assert torch.autograd.grad(flat(output)[0].sum(), layer.weight_hh_l0)[0].any()
