"""The modules: nn.LSTM's contract for one layer, its parameters, a learned initial state, the presets."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from rnndrop_cuda import LSTM, GalLSTM, LayerMasks, SemeniutaLSTM, ops, reference
from tests.modules import B, H, I, T, assert_bit_for_bit, assert_same, flat, gradients, normal
from tests.problems import relative_error


def twins(**kwargs):
    """nn.LSTM and ours with the same weights."""
    torch.manual_seed(1)
    theirs = nn.LSTM(I, H, dtype=torch.float64, **kwargs)
    torch.manual_seed(1)
    return theirs, LSTM(I, H, dtype=torch.float64, **kwargs)


@pytest.mark.parametrize("bias", [True, False])
def test_same_seed_gives_nn_lstms_parameters(bias):
    theirs, ours = twins(bias=bias)
    expected, actual = dict(theirs.named_parameters()), dict(ours.named_parameters())
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_equals_nn_lstm(bias, batch_first, with_hx, batched, backend):
    theirs, ours = twins(bias=bias, batch_first=batch_first)
    ours.backend = backend
    shape = ((B, T, I) if batch_first else (T, B, I)) if batched else (T, I)
    state = (1, B, H) if batched else (1, H)
    x = torch.randn(shape, dtype=torch.float64)
    hx = (torch.randn(state, dtype=torch.float64), torch.randn(state, dtype=torch.float64)) if with_hx else None

    results = []
    for layer in (theirs, ours):
        leaf = x.clone().requires_grad_()
        y, (h_n, c_n) = layer(leaf, hx)
        loss = (y * y.detach().cos()).sum() + h_n.sum() + (c_n * 2).sum()
        results.append([y, h_n, c_n, *torch.autograd.grad(loss, [leaf, *layer.parameters()])])
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < 1e-12


def test_state_dict_goes_both_ways():
    theirs, _ = twins()
    ours = LSTM(I, H, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert relative_error(ours(x)[0], theirs(x)[0]) < 1e-12
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    assert relative_error(ours(x)[0], theirs(x)[0]) < 1e-12


@pytest.mark.parametrize(
    "layer", [LSTM(I, H), GalLSTM(I, H, dropout=0.5), SemeniutaLSTM(I, H, dropout=0.3, batch_first=True)]
)
def test_survives_copy_and_pickle(layer):
    x = torch.randn(T, T, I)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(3)
        expected = layer(x)[0]
        torch.manual_seed(3)
        assert torch.equal(other(x)[0], expected)
        assert repr(other) == repr(layer)


def test_repr_names_what_differs_from_the_defaults():
    assert repr(LSTM(4, 6)) == "LSTM(4, 6)"
    layer = LSTM(4, 6, bias=False, input_dropout=0.5, mask_scope="sample", backend="python")
    assert repr(layer) == "LSTM(4, 6, bias=False, input_dropout=0.5, mask_scope='sample', backend='python')"


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("candidate_mask", ["step", "sequence"])
def test_given_masks_are_used(scope, candidate_mask):
    """In eval too; and a forward in training equals the reference with the masks that it drew."""
    layer = LSTM(
        I, H, input_dropout=0.5, hidden_dropout=0.4, candidate_dropout=0.3, mask_scope=scope,
        candidate_mask=candidate_mask, dtype=torch.float64,
    )  # fmt: skip
    x, zeros = torch.randn(T, B, I, dtype=torch.float64), torch.zeros(B, H, dtype=torch.float64)
    torch.manual_seed(5)
    masks = layer.draw_masks(T, B)
    (m,) = masks
    expected, _, _ = reference.lstm_layer(x, zeros, zeros, *layer.parameters(), mask_x=m.x, mask_h=m.h, mask_g=m.g)
    torch.manual_seed(5)
    assert relative_error(layer(x)[0], expected) < 1e-12
    layer.eval()
    assert relative_error(layer(x, masks=masks)[0], expected) < 1e-12


def test_given_masks_may_be_partial():
    layer = LSTM(I, H, input_dropout=0.5)
    x = torch.randn(T, B, I)
    assert torch.equal(layer(x, masks=[LayerMasks()])[0], layer.eval()(x)[0])


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_kernels_and_python_path_agree():
    kernels = LSTM(I, H, input_dropout=0.5, hidden_dropout=0.5, candidate_dropout=0.3, backend="cpu")
    python = copy.deepcopy(kernels)
    python.backend = "python"
    x, masks = torch.randn(T, B, I), kernels.draw_masks(T, B)
    assert relative_error(kernels(x, masks=masks)[0], python(x, masks=masks)[0]) < 1e-6


def test_trains():
    """A layer with both dropouts learns to remember its first input."""
    torch.manual_seed(0)
    layer = LSTM(1, 16, input_dropout=0.0, hidden_dropout=0.1, candidate_dropout=0.1)
    head = nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(150):
        x = torch.randint(0, 2, (6, 64, 1)).float()
        loss = nn.functional.binary_cross_entropy_with_logits(head(layer(x)[0][-1]), x[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.3 < losses[0]


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


def test_state_dict_of_nn_lstm_sets_an_initial_state_of_two_widths():
    theirs, ours = nn.LSTM(I, H, proj_size=2), LSTM(I, H, proj_size=2, learn_initial_state=True)
    nn.init.ones_(ours.c_0)
    ours.load_state_dict(theirs.state_dict())
    assert (ours.h_0.shape, ours.c_0.shape) == ((1, 1, 2), (1, 1, H))
    assert not ours.c_0.any()


def test_state_dict_of_nn_lstm_is_assigned_to_a_layer_without_memory():
    theirs, ours = nn.LSTM(I, H), LSTM(I, H, learn_initial_state=True, device="meta")
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x = torch.randn(T, B, I)
    assert relative_error(ours(x)[0], theirs(x)[0]) < 1e-6


def test_learned_initial_state_survives_copies_and_not_to_torch():
    layer = LSTM(I, H, learn_initial_state=True)
    nn.init.normal_(layer.h_0)
    x = torch.randn(T, B, I)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_bit_for_bit(other(x), layer(x))
    with pytest.raises(ValueError, match="learn_initial_state=True, and nn.LSTM has no h_0"):
        layer.to_torch()
    ours = LSTM.from_torch(nn.LSTM(I, H, 2, bidirectional=True), learn_initial_state=True)
    assert ours.h_0.shape == (4, 1, H)
    assert not ours.h_0.any()


def test_repr_names_what_differs():
    layer = LSTM(
        I, H, weight_dropout=0.5, mc_dropout=True, learn_initial_state=True, init="orthogonal", forget_bias=1.0
    )
    assert repr(layer) == (
        "LSTM(4, 6, weight_dropout=0.5, mc_dropout=True, learn_initial_state=True, init='orthogonal', forget_bias=1.0)"
    )


@pytest.mark.parametrize("preset", [GalLSTM, SemeniutaLSTM])
def test_presets_take_the_options(preset):
    layer = preset(I, H, dropout=0.5, weight_dropout=0.25, init="normal", forget_bias=1.0, learn_initial_state=True)
    assert (layer.weight_dropout, layer.init, layer.forget_bias, layer.h_0.shape) == (0.25, "normal", 1.0, (1, 1, H))


def test_return_states_by_any_true_value_keeps_the_graph():
    y, _, states = LSTM(4, 6)(torch.randn(5, 3, 4), return_states=1)
    assert y.requires_grad
    assert states[0].c.shape == (5, 3, 6)
