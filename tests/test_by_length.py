"""Sequences of different lengths: the order that the CPU's kernels like, and what they leave out in it."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_padded_sequence

from rnndrop_cuda import LSTM, LayerMasks, by_length, functional, reference
from tests.mask_bits import needs_op
from tests.problems import random_problem, relative_error

T, B, I, H = 20, 30, 16, 64
EVERY_NOISE = {
    "input_dropout": 0.3, "hidden_dropout": 0.3, "candidate_dropout": 0.3, "weight_dropout": 0.3, "dropout": 0.3,
    "cell_dropout": 0.3, "hidden_zoneout": 0.3, "cell_zoneout": 0.3,
}  # fmt: skip
DESCENDING = torch.arange(B, 0, -1) * T // B


def order_of(lengths, x=None, backend="auto"):
    return by_length.longest_first(torch.zeros(T, B, I) if x is None else x, lengths, H, H, 1, 1, backend)


@needs_op
def test_samples_come_longest_first_and_those_alike_as_they_were():
    lengths = torch.arange(B) % 5
    order = order_of(lengths)
    assert order.tolist() == sorted(range(B), key=lambda b: (-lengths[b], b))


@needs_op
@pytest.mark.parametrize(
    "order",
    [
        lambda: order_of(None),
        lambda: order_of(DESCENDING),
        lambda: order_of(torch.full((B,), T - 1)),
        lambda: order_of(torch.tensor([T - 1, *[T] * (B - 1)])),  # one step of B * T would be left out
        lambda: order_of(torch.arange(B - 1)),  # of another number of samples, for the checks to refuse
        lambda: order_of(DESCENDING.flip(0), backend="python"),
        lambda: order_of(DESCENDING.flip(0), torch.zeros(T, B, I, device="meta")),
        lambda: by_length.longest_first(torch.zeros(T, B, I), DESCENDING.flip(0), 8, 8, 1, 1, "auto"),  # too narrow
        lambda: order_of(torch.zeros(0, dtype=torch.int64), torch.zeros(T, 0, I)),
        lambda: (
            torch.func.vmap(lambda x: order_of(DESCENDING.flip(0), x) or x)(torch.zeros(1, T, B, I))[0, 0, 0, 0] or None
        ),
    ],
    ids=["none", "ordered", "alike", "little", "wrong", "python", "meta", "narrow", "no samples", "vmap"],
)
def test_who_keeps_the_order(order):
    assert order() is None


def test_masks_of_samples_follow_them_and_shared_ones_stay():
    order = torch.randperm(B)
    masks = LayerMasks(
        x=torch.rand(4, B, I), h=torch.rand(H), g=torch.rand(T, B, H), w=torch.rand(4 * B, B), y=torch.rand(T, B, H),
        c=torch.rand(B, H), z_c=torch.rand(4, 1, H),
    )  # fmt: skip
    selected = by_length.select_masks(masks, order)
    for field in ("x", "g", "y"):
        assert torch.equal(getattr(selected, field), getattr(masks, field)[:, order])
    assert torch.equal(selected.c, masks.c[order])
    for field in ("h", "w", "z_c"):
        assert getattr(selected, field) is getattr(masks, field)
    assert selected.z_h is None


@needs_op
@pytest.mark.parametrize(
    ("form", "noises", "scope", "proj_size"),
    [("lengths", {}, "batch", 0), ("lengths", EVERY_NOISE, "sample", 24), ("packed", EVERY_NOISE, "batch", 0)],
)
def test_a_module_in_any_order_is_the_reference(form, noises, scope, proj_size, monkeypatch):
    """Outputs, states and gradients of every argument, with hx and every mask in the caller's order."""
    ordered = []
    longest_first = by_length.longest_first
    monkeypatch.setattr(by_length, "longest_first", lambda *args: ordered.append(longest_first(*args)) or ordered[-1])
    options = {"num_layers": 2, "bidirectional": True, "proj_size": proj_size, "mask_scope": scope, **noises}
    ours = LSTM(I, H, backend="cpu", dtype=torch.float64, **options)
    reference = LSTM(I, H, backend="python", dtype=torch.float64, **options)
    reference.load_state_dict(ours.state_dict())
    lengths = torch.randint(1, T + 1, (B,))
    lengths[3] = T
    x, masks = torch.randn(T, B, I, dtype=torch.float64), ours.draw_masks(T, B)
    hx = torch.randn(4, B, proj_size or H, dtype=torch.float64), torch.randn(4, B, H, dtype=torch.float64)
    results, upstream = [], None
    for module in (ours, reference):
        inputs = [t.clone().requires_grad_() for t in (x, *hx)]
        if form == "packed":
            packed = pack_padded_sequence(inputs[0], lengths, enforce_sorted=False)
            output, state, states = module(packed, inputs[1:], masks=masks, return_states=True)
            output = output.data
        else:
            output, state, states = module(inputs[0], inputs[1:], lengths=lengths, masks=masks, return_states=True)
        outputs = [output, *state]
        upstream = upstream or [torch.randn_like(t) for t in outputs]
        gradients = torch.autograd.grad(outputs, [*inputs, *module.parameters()], upstream)
        results.append([*outputs, *gradients, *(s for of_layer in states for s in of_layer)])
    assert ordered[0] is not None
    assert ordered[1] is None
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


ORDERS = {
    "descending": DESCENDING,
    "ascending": DESCENDING.flip(0),
    "one runs": torch.tensor([0] * 17 + [T] + [0] * 12),
    "first and last": torch.tensor([T] + [0] * 28 + [T]),
    "none runs": torch.zeros(B, dtype=torch.int64),
}


@needs_op
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("masks", ["none", "both", "untied-sample", "semeniuta-shared"])
def test_what_a_product_leaves_out_keeps_nothing_of_before(dtype, lengths, reverse, masks):
    problem = random_problem(T, B, I, H, masks=masks, lengths=True, reverse=reverse).to(dtype)
    problem.options["lengths"] = lengths
    actual = problem.solve(functional.lstm_layer, backend="cpu")
    expected = problem.to(torch.float64).solve(reference.lstm_layer)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
    errors = {name: relative_error(actual[name], expected[name]) for name in expected}
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"backend": "python"}])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_lengths_may_be_changed_before_the_backward(kind, dropout, options):
    """A loader's buffer, say. That of NumPy counts no changes, so that torch could not tell."""
    layer = LSTM(5, 6, hidden_dropout=dropout, **options)
    x = torch.randn(4, 3, 5)

    def gradients(change):
        lengths = kind([4, 1, 2])
        torch.manual_seed(0)
        y, _ = layer(x, lengths=lengths)
        lengths -= change
        return torch.autograd.grad(y.sum(), list(layer.parameters()))

    assert all(map(torch.equal, gradients(1), gradients(0)))


def test_lengths_where_tensors_have_no_values():
    with FakeTensorMode():
        assert LSTM(5, 6)(torch.randn(4, 3, 5), lengths=[4, 2, 1])[0].shape == (4, 3, 6)
