"""Text from a model: what is likely is written, and how far passes with dropout agree."""

import dataclasses

import pytest
import torch

from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS, START, UNKNOWN
from rnndrop_cuda.seminar.language_model.generate import as_text, generate, spread
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings

WORDS = [*SPECIAL_WORDS, "a", "b", "c"]
SETTINGS = LanguageModelSettings(n_emb=6, n_hidden=6, head="full", init_range=0.5, hidden_dropout=0.5)


@pytest.fixture
def counting():
    """A model that knows after which word which comes: a b c <start> a b ..."""
    model = SETTINGS.build(len(WORDS))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    ids = torch.tensor([START, 4, 5, 6] * 10).unsqueeze(1)
    for _ in range(80):
        optimizer.zero_grad()
        model.train()(ids[:-1], ids[1:])[0].mean().backward()
        optimizer.step()
    return model


def test_it_writes_what_it_learned(counting):
    ids = generate(counting, [START, 4], 7, temperature=0.1, seed=0)
    assert as_text(ids, WORDS, "word") == "a b c\na b c"
    assert as_text(ids, WORDS, "character") == "abc\nabc"
    assert counting.training


def test_the_seed_and_the_temperature_decide():
    model = SETTINGS.build(len(WORDS))
    texts = {seed: generate(model, [START], 30, 1.0, seed) for seed in (0, 0, 1)}
    assert generate(model, [START], 30, 1.0, 0) == texts[0] != texts[1]
    assert {k for text in texts.values() for k in text} == {START, 4, 5, 6}, "every word, and no id that is none"


def test_the_spread_of_each_word(counting):
    ids = [START, 4, 5, UNKNOWN]
    mean, std = spread(counting, ids, 20, seed=0)
    assert len(mean) == len(std) == 3
    assert min(mean[:2]) > 0.5 > 0.1 > mean[2]
    assert std[0] == 0 < min(std[1:]), "the dropout is on h, and there is none before the first word"
    still = dataclasses.replace(SETTINGS, hidden_dropout=0.0).build(len(WORDS))
    still.load_state_dict(counting.state_dict())
    mean, std = spread(still, ids, 3, seed=0)
    assert max(std) < 1e-9
    log_p, _ = still.eval().log_probabilities(torch.tensor(ids[:-1]).unsqueeze(1))
    assert mean == pytest.approx([log_p[k, 0, ids[k + 1]].exp().item() for k in range(3)], rel=1e-5)


def test_the_lowest_temperature_takes_the_likeliest(counting):
    assert generate(counting, [START, 4], 7, temperature=5e-324, seed=0) == [START, 4, 5, 6, START, 4, 5, 6, START]


def test_a_model_that_is_no_number_writes_nothing(counting):
    with torch.no_grad():
        counting.head.bias[4] = float("nan")
    with pytest.raises(FloatingPointError, match="the model's output is no number"):
        generate(counting, [START], 3, temperature=1.0, seed=0)
