"""Perplexity: against the whole text read at once, and averaged over passes as Gal & Ghahramani average it."""

import dataclasses
import math

import pytest
import torch

from rnndrop_cuda.seminar.language_model.evaluate import mc_score, mode, score, token_losses
from rnndrop_cuda.seminar.language_model.pieces import Pieces
from rnndrop_cuda.seminar.language_model.scores import TextScore
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings

V = 12
CPU = torch.device("cpu")
SETTINGS = LanguageModelSettings(n_emb=6, n_hidden=6, init_range=1.0, hidden_dropout=0.5, dropout_out=0.5)


@pytest.fixture
def ids():
    return torch.randint(1, V, (50,))


def test_a_text_in_pieces_scores_as_the_whole(ids):
    model = SETTINGS.build(V)
    with torch.no_grad():
        losses, *_ = model.eval()(ids[:-1].unsqueeze(1), ids[1:].unsqueeze(1))
    model.train()
    for steps in (1, 7, 100):
        assert score(model, Pieces(ids, 1, steps, CPU)).loss == pytest.approx(losses.mean().item(), rel=1e-6)
    assert model.training


def test_several_rows_each_begin_at_zeros(ids):
    """49 targets in 4 rows of 13, 13, 13 and 10."""
    model = SETTINGS.build(V).eval()
    expected = []
    for k in range(0, 49, 13):
        row = ids[k : k + 14]
        with torch.no_grad():
            expected.append(model(row[:-1].unsqueeze(1), row[1:].unsqueeze(1))[0].flatten())
    found = score(model, Pieces(ids, 4, 5, CPU))
    assert found.loss == pytest.approx(torch.cat(expected).mean().item(), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_the_average_over_passes_is_one_of_probabilities(ids):
    model = SETTINGS.build(V)
    pieces = Pieces(ids, 4, 5, CPU)
    found = mc_score(model, pieces, 5, seed=3)
    torch.manual_seed(3)
    with mode(model, training=True):
        p = torch.stack([(-token_losses(model, pieces).double()).exp() for _ in range(5)])
    assert found.loss == pytest.approx(-p.mean(0).log().mean().item(), rel=1e-9)
    assert found.loss < -p.log().mean().item(), "Jensen"
    assert mc_score(model, pieces, 5, seed=3) == found != mc_score(model, pieces, 5, seed=4)


def test_without_dropout_every_pass_is_the_same(ids):
    model = dataclasses.replace(SETTINGS, hidden_dropout=0.0, dropout_out=0.0).build(V)
    pieces = Pieces(ids, 4, 5, CPU)
    assert mc_score(model, pieces, 3, seed=0).loss == pytest.approx(score(model, pieces).loss, rel=1e-6)


def test_a_perplexity_beyond_numbers_is_infinite():
    assert TextScore.of(1e4).perplexity == math.inf
