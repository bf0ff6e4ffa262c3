"""The model against the same worked out by hand from nn.LSTM and log_softmax; heads, dropouts, sizes, penalties."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnndrop_cuda.seminar.language_model.evaluate import has_dropout
from rnndrop_cuda.seminar.language_model.model import HEADS
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings

V, T, B = 30, 7, 3
SETTINGS = LanguageModelSettings(n_emb=6, n_hidden=6)


@pytest.fixture
def piece():
    return torch.randint(0, V, (T, B)), torch.randint(0, V, (T, B))


def by_hand(model, ids, targets):
    """nn.LSTM with the model's weights, and the head's log-probabilities picked one by one."""
    h = model.embedding.weight[ids]
    for layer in model.rec:
        lstm = nn.LSTM(layer.input_size, layer.hidden_size)
        lstm.load_state_dict(layer.state_dict())
        h, _ = lstm(h)
    log_p = model.head.log_probabilities(h.flatten(0, 1))
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(T * B))
    return -log_p.gather(1, targets.flatten().unsqueeze(1)).view(T, B)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("layer, layers, n_hidden", [("LSTM", 1, 6), ("nn.LSTM", 2, 6), ("LSTM", 3, 8)])
def test_equals_what_nn_lstm_gives(head, layer, layers, n_hidden, piece):
    model = dataclasses.replace(SETTINGS, head=head, layer=layer, num_layers=layers, n_hidden=n_hidden).build(V).eval()
    losses, penalty, *state = model(*piece)
    torch.testing.assert_close(losses, by_hand(model, *piece), rtol=1e-5, atol=1e-5)
    assert penalty == 0
    assert len(state) == 2 * layers
    log_p, _ = model.log_probabilities(piece[0])
    torch.testing.assert_close(-log_p.gather(2, piece[1].unsqueeze(2)).squeeze(2), losses, rtol=1e-5, atol=1e-5)


def test_the_state_carries_a_text_on(piece):
    """Two pieces after one another are the whole, and the gradient ends where the state is detached."""
    model = dataclasses.replace(SETTINGS, num_layers=2).build(V)
    ids, targets = piece
    whole, *_ = model(ids, targets)
    first, _, *state = model(ids[:3], targets[:3])
    second, *_ = model(ids[3:], targets[3:], *state)
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_a_tied_head_has_the_embeddings_weight_and_its_gradient():
    model = dataclasses.replace(SETTINGS, head="tied").build(V)
    assert [name for name, _ in model.head.named_parameters()] == ["bias"]
    assert "head.weight" not in model.state_dict()
    other = copy.deepcopy(model)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    before = model(ids, ids)[0]
    with torch.no_grad():
        other.embedding.weight[5] += 1
    assert not torch.equal(other(ids, ids)[0], before), "the head of a copy is tied to the copy"
    assert torch.equal(model(ids, ids)[0], before)
    model(ids, ids)[0].sum().backward()
    assert bool(model.embedding.weight.grad[7].any()), "a word that is no input, but may be a target"


def test_the_last_layer_under_a_tied_head_has_the_embeddings_width():
    """The sizes of AWD-LSTM: 400, 1150, 1150, 400."""
    model = dataclasses.replace(SETTINGS, head="tied", num_layers=3, n_hidden=11).build(V)
    assert [layer.hidden_size for layer in model.rec] == [11, 11, 6]


@pytest.mark.parametrize(
    "options",
    [
        {"embedding_dropout": 0.5}, {"dropout_in": 0.5}, {"dropout_out": 0.5},
        {"dropout_between": 0.5, "num_layers": 2}, {"input_dropout": 0.5, "mask_scope": "sample"},
        {"candidate_dropout": 0.5}, {"weight_dropout": 0.5}, {"cell_dropout": 0.5}, {"cell_zoneout": 0.5},
        {"dropout_in": 0.5, "dropout_mask": "sequence"},
    ],
)  # fmt: skip
def test_a_dropout_acts_in_training_and_only_there(options, piece):
    model = dataclasses.replace(SETTINGS, **options).build(V)
    assert has_dropout(model)
    assert not torch.equal(model(*piece)[0], model(*piece)[0])
    model.eval()
    assert torch.equal(model(*piece)[0], model(*piece)[0])
    assert not has_dropout(dataclasses.replace(SETTINGS, num_layers=2).build(V))


def test_awd_lstms_penalties(piece):
    settings = dataclasses.replace(SETTINGS, activation=2.0, slowness=3.0, dropout_out=0.5)
    model = settings.build(V)
    seen = {}
    model.drop[-1].register_forward_hook(lambda _, args, output: seen.update(h=args[0], dropped=output))
    _, penalty, *_ = model(*piece)
    steps = seen["h"][1:] - seen["h"][:-1]
    torch.testing.assert_close(penalty, 2 * seen["dropped"].pow(2).mean() + 3 * steps.pow(2).mean())
    assert model.eval()(*piece)[1] == 0


def test_a_full_head_is_cross_entropy(piece):
    model = dataclasses.replace(SETTINGS, head="full").build(V).eval()
    h, *_ = model.features(piece[0], ())
    scores = h @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(
        model(*piece)[0].mean(), F.cross_entropy(scores.flatten(0, 1), piece[1].flatten()), rtol=1e-5, atol=1e-5
    )


def test_weights_from_a_range():
    model = dataclasses.replace(SETTINGS, init_range=0.03).build(V)
    assert all(0.02 < weight.abs().max() <= 0.03 for weight in model.parameters() if weight.numel() > 30)
    again = dataclasses.replace(SETTINGS, init_range=0.03).build(V)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
