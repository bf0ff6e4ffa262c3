"""What LSTM offers beyond nn.LSTM: weight dropout, masks given and returned, a learned initial state, initialisers."""

import copy
import pickle
import re

import pytest
import torch
from problems import relative_error
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from rnndrop_cuda import LSTM, GalLSTM, LayerMasks, SemeniutaLSTM, functional, reference
from rnndrop_cuda.lstm import INITS

T, B, I, H = 5, 3, 4, 6
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(why), reason=why))
    for name, why in functional.usable_backends().items()
]
EVERYTHING = {
    "dropout": 0.4, "input_dropout": 0.3, "hidden_dropout": 0.3, "candidate_dropout": 0.3, "weight_dropout": 0.3,
}  # fmt: skip


def stack(**options):
    """Two layers, two directions, every dropout."""
    return LSTM(I, H, 2, bidirectional=True, dtype=torch.float64, **EVERYTHING | options)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def flat(output):
    y, (h_n, c_n) = output[:2]
    return [y.data if hasattr(y, "data") and not torch.is_tensor(y) else y, h_n, c_n]


def assert_bit_for_bit(actual, expected):
    for a, e in zip(flat(actual), flat(expected), strict=True):
        assert torch.equal(a, e)


def assert_masks_equal(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        for a, e in zip(ours, theirs, strict=True):
            assert (a is None and e is None) or torch.equal(a, e)


# ---------------------------------------------------------------- weight dropout


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


# ---------------------------------------------------------------- masks: drawn, given back, returned


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


# ---------------------------------------------------------------- learned initial state


@pytest.mark.parametrize("form", ["padded", "batch_first", "unbatched", "packed"])
def test_learned_initial_state_is_used_for_every_sample(form):
    layer = LSTM(
        I, H, 2, bidirectional=True, batch_first=form == "batch_first", learn_initial_state=True, dtype=torch.float64
    )
    assert layer.h_0.shape == layer.c_0.shape == (4, 1, H)
    assert not layer.h_0.any() and not layer.c_0.any()
    nn.init.normal_(layer.h_0), nn.init.normal_(layer.c_0)
    x = {"batch_first": normal(B, T, I), "unbatched": normal(T, I)}.get(form, normal(T, B, I))
    if form == "packed":
        x = pack_sequence([normal(n, I) for n in (3, T, 1)], enforce_sorted=False)
    states = (layer.h_0, layer.c_0)
    hx = tuple(s[:, 0] if form == "unbatched" else s.repeat(1, B, 1) for s in states)
    actual, expected = layer(x), layer(x, hx)
    assert_bit_for_bit(actual, expected)
    for a, e in zip(
        torch.autograd.grad(flat(actual)[0].sum(), states), torch.autograd.grad(flat(expected)[0].sum(), states),
        strict=True,
    ):  # fmt: skip
        assert a.any()
        assert relative_error(a, e) < 1e-12


def test_learned_initial_state_yields_to_hx():
    layer = LSTM(I, H, learn_initial_state=True, dtype=torch.float64)
    nn.init.ones_(layer.h_0)
    zeros = torch.zeros(1, B, H, dtype=torch.float64)
    x = normal(T, B, I)
    expected = layer.state_dict()
    del expected["h_0"], expected["c_0"]
    plain = LSTM(I, H, dtype=torch.float64)
    plain.load_state_dict(expected)
    assert_bit_for_bit(layer(x, (zeros, zeros)), plain(x))


def test_learned_initial_state_is_learned():
    """To give h_n of a fixed sequence a wished value, with every weight frozen."""
    torch.manual_seed(0)
    layer = LSTM(1, 4, learn_initial_state=True)
    optimizer = torch.optim.Adam([layer.h_0, layer.c_0], lr=0.1)
    x, wished = torch.zeros(2, 5, 1), torch.tensor([0.3, -0.3, 0.2, -0.2])
    losses = []
    for _ in range(100):
        loss = (layer(x)[1][0][0] - wished).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


def test_state_dict_of_nn_lstm_sets_the_initial_state_to_zeros():
    """Strictly, also inside another module; a state that lacks only one of the two is refused."""
    theirs = nn.Sequential(nn.LSTM(I, H))
    ours = nn.Sequential(LSTM(I, H, learn_initial_state=True))
    nn.init.ones_(ours[0].h_0)
    given = theirs.state_dict()
    ours.load_state_dict(given)
    assert list(given) == list(theirs.state_dict()), "the caller's dict is as it was"
    x = torch.randn(T, B, I)
    assert relative_error(ours(x)[0], theirs(x)[0]) < 1e-6

    nn.init.ones_(ours[0].c_0)
    own = ours.state_dict()
    again = copy.deepcopy(ours)
    again[0].reset_parameters()
    assert not again[0].c_0.any()
    again.load_state_dict(own)
    assert torch.equal(again[0].c_0, ours[0].c_0)
    del own["0.h_0"]
    with pytest.raises(RuntimeError, match="Missing key.*h_0"):
        again.load_state_dict(own)
    with pytest.raises(RuntimeError, match="Unexpected key.*c_0"):
        nn.Sequential(LSTM(I, H)).load_state_dict(own)


def test_learned_initial_state_survives_copies_and_not_to_torch():
    layer = LSTM(I, H, learn_initial_state=True)
    nn.init.normal_(layer.h_0)
    x = torch.randn(T, B, I)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_bit_for_bit(other(x), layer(x))
    with pytest.raises(ValueError, match="learn_initial_state: expected False, since nn.LSTM has no h_0"):
        layer.to_torch()
    ours = LSTM.from_torch(nn.LSTM(I, H, 2, bidirectional=True), learn_initial_state=True)
    assert ours.h_0.shape == (4, 1, H)
    assert not ours.h_0.any()


# ---------------------------------------------------------------- initialisers


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_init(init, dtype):
    layer = LSTM(I, 40, 2, bidirectional=True, init=init, dtype=dtype)
    bound, tolerance = 40**-0.5, 1e-5 if dtype == torch.float32 else 0.02
    for reset in (False, True):
        if reset:
            before = [p.clone() for p in layer.parameters()]
            layer.reset_parameters()
            assert not any(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
        for name, parameter in layer.named_parameters():
            p = parameter.detach().double()
            if init == "orthogonal" and "weight_hh" in name:
                for gate in p.chunk(4):
                    assert relative_error(gate @ gate.T, torch.eye(40)) < tolerance
                assert relative_error(p[:40], p[40:80]) > 0.1
            elif init == "normal" and "weight_hh" in name:
                assert abs(p.mean()) < 5 / p.numel() ** 0.5
                assert abs(p.var() - 1) < 5 * (2 / p.numel()) ** 0.5
            else:
                limit = 0.05 if init == "uniform" else bound
                assert 0.9 * limit < p.abs().max() <= limit * (1 + tolerance)
                assert abs(p.mean()) < 5 * limit / (3 * p.numel()) ** 0.5


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("forget_bias", [1, 0.0, -2.5])
def test_forget_bias_is_the_sum_of_both(init, forget_bias):
    layer = LSTM(I, H, 2, bidirectional=True, init=init, forget_bias=forget_bias)
    for reset in (False, True):
        if reset:
            layer.reset_parameters()
        for _, _, b_ih, b_hh in layer.all_weights:
            total = (b_ih + b_hh).chunk(4)
            assert torch.equal(total[1], torch.full((H,), float(forget_bias)))
            assert total[0].any() and total[2].any() and total[3].any()


def test_default_init_with_options_draws_what_nn_lstm_draws():
    torch.manual_seed(4)
    theirs = nn.LSTM(I, H)
    torch.manual_seed(4)
    ours = LSTM(I, H, forget_bias=1.0, learn_initial_state=True)
    assert all(torch.equal(getattr(ours, f"weight_{k}_l0"), getattr(theirs, f"weight_{k}_l0")) for k in ("ih", "hh"))
    after = torch.rand(1)
    torch.manual_seed(4)
    nn.LSTM(I, H)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("init", INITS)
def test_init_on_the_meta_device(init):
    layer = LSTM(I, H, init=init, learn_initial_state=True, device="meta", dtype=torch.float64)
    assert all(p.device.type == "meta" and p.dtype == torch.float64 for p in layer.parameters())


# ---------------------------------------------------------------- repr, errors


def test_repr_names_what_differs():
    layer = LSTM(
        I, H, weight_dropout=0.5, mc_dropout=True, learn_initial_state=True, init="orthogonal", forget_bias=1.0
    )
    assert repr(layer) == (
        "LSTM(4, 6, weight_dropout=0.5, mc_dropout=True, learn_initial_state=True, init='orthogonal', forget_bias=1.0)"
    )


@pytest.mark.parametrize("preset", [GalLSTM, SemeniutaLSTM])
def test_presets_take_the_options(preset):
    layer = preset(I, H, 0.5, weight_dropout=0.25, init="normal", forget_bias=1.0, learn_initial_state=True)
    assert (layer.weight_dropout, layer.init, layer.forget_bias, layer.h_0.shape) == (0.25, "normal", 1.0, (1, 1, H))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_dropout": 1.5}, ValueError, "weight_dropout: expected a probability, a number in [0, 1], got 1.5"),
        ({"weight_dropout": None}, ValueError, "weight_dropout: expected a probability"),
        ({"init": "xavier"}, ValueError, "init: expected one of 'default', 'orthogonal', 'normal', 'uniform', got"),
        ({"init": None}, ValueError, "init: expected one of"),
        ({"forget_bias": float("nan")}, ValueError, "forget_bias: expected a finite number or None, got nan"),
        ({"forget_bias": "1"}, ValueError, "forget_bias: expected a finite number or None, got '1'"),
        ({"forget_bias": True}, ValueError, "forget_bias: expected a finite number or None, got True"),
        ({"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias: expected None with bias=False, got 1.0"),
        ({"learn_initial_state": 1}, TypeError, "learn_initial_state: expected a bool, got int"),
        ({"mc_dropout": "yes"}, TypeError, "mc_dropout: expected a bool, got str"),
    ],
)
def test_bad_option(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        LSTM(I, H, **options)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ([LayerMasks(), None], TypeError, "masks[1]: expected a LayerMasks, got NoneType"),
        ([LayerMasks(), (None, None, None)], TypeError, "masks[1]: expected a LayerMasks, got tuple"),
        ([LayerMasks(h=0.5), LayerMasks()], TypeError, "masks[0].h: expected a Tensor or None, got float"),
        ([LayerMasks(w=torch.ones(H)), LayerMasks()], RuntimeError, "masks[0].w: expected shape [24, 6], got [6]"),
        ([LayerMasks(y=torch.ones(H)), LayerMasks()], RuntimeError, "masks[0].y: expected shape [5, 3, 6], got [6]"),
        ([LayerMasks(), LayerMasks(y=torch.ones(T, B, H))], ValueError, "masks[1].y: expected None, since there is no"),
        ([LayerMasks(x=torch.ones(B, 2)), LayerMasks()], RuntimeError, "mask_x: expected shape [4] or [3, 4]"),
    ],
)
def test_bad_masks(masks, error, message):
    with pytest.raises(error, match=re.escape(message)):
        LSTM(I, H, 2)(torch.zeros(T, B, I), masks=masks)


@pytest.mark.parametrize("training", [True, False])
def test_bad_generator(training):
    with pytest.raises(TypeError, match="generator: expected a torch.Generator, got int"):
        LSTM(I, H).train(training)(torch.zeros(T, B, I), generator=7)
