"""The modules: nn.LSTM's contract for one layer, and the masks they use."""

import copy
import pickle

import pytest
import torch
from problems import relative_error
from torch import nn

from rnndrop_cuda import LSTM, GalLSTM, LayerMasks, SemeniutaLSTM, ops, reference

T, B, I, H = 5, 3, 4, 6


def twins(dtype=torch.float64, **kwargs):
    """nn.LSTM and ours with the same weights."""
    torch.manual_seed(1)
    theirs = nn.LSTM(I, H, dtype=dtype, **kwargs)
    torch.manual_seed(1)
    return theirs, LSTM(I, H, dtype=dtype, **kwargs)


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


@pytest.mark.parametrize("layer", [LSTM(I, H), GalLSTM(I, H, 0.5), SemeniutaLSTM(I, H, 0.3, batch_first=True)])
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
