"""From a language model to the classifier: what is taken over, word by word, and what does not fit."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS
from rnndrop_cuda.seminar.language_model.pretrained import Pretrained
from rnndrop_cuda.seminar.layers import lstm_weights
from rnndrop_cuda.seminar.settings import LAYERS, ModelSettings
from rnndrop_cuda.seminar.training.start import transfer

WORDS = [*SPECIAL_WORDS, "bad", "good", "film"]
SIZES: dict[str, Any] = {"n_emb": 3, "n_hidden": 4}


def language_model(n_emb: int = 3, n_hidden: int = 4, num_layers: int = 1, **settings: Any) -> Pretrained:
    torch.manual_seed(7)
    lstm = nn.LSTM(n_emb, n_hidden, num_layers)
    sizes = {"n_emb": n_emb, "n_hidden": n_hidden, "num_layers": num_layers, "level": "word", "contractions": "keep"}
    weights = {name: weight.detach() for name, weight in lstm.named_parameters()}
    return Pretrained(WORDS, torch.randn(len(WORDS), n_emb), weights, SimpleNamespace(**{**sizes, **settings}))


def test_words_go_by_their_spelling_and_what_is_lacking_was_read_as_unknown():
    found = language_model()
    words = [*SPECIAL_WORDS, "film", "superb", "bad"]
    model = ModelSettings(layer="nn.LSTM", pretrained="there", **SIZES).build_model(len(words) + 2)
    beyond = model.word_embeddings.weight[-2:].clone()
    facts = transfer(model, words, found)
    row = dict(zip(WORDS, found.embedding, strict=True))
    expected = [
        torch.zeros(3),
        row["<start>"],
        row["<unknown>"],
        row["<unused>"],
        row["film"],
        row["<unknown>"],
        row["bad"],
    ]
    torch.testing.assert_close(model.word_embeddings.weight[:-2], torch.stack(expected), rtol=0, atol=0)
    assert torch.equal(model.word_embeddings.weight[-2:], beyond), "no word has these ids"
    assert model.word_embeddings.padding_idx == 0
    assert (facts["words found"], facts["words not found"]) == (2, 1)
    assert len(facts["sha256"]) == 64
    weights = {**found.lstm, "bias_ih_l0": found.lstm["bias_ih_l0"] + 1}
    changes: list[dict[str, Any]] = [{"embedding": found.embedding + 1}, {"words": WORDS[::-1]}, {"lstm": weights}]
    others = {transfer(model, words, dataclasses.replace(found, **change))["sha256"] for change in changes}
    assert len(others - {facts["sha256"]}) == 3


@pytest.mark.parametrize("layer", [name if name == "nn.LSTM" else f"{name}:0.5" for name in LAYERS])
def test_every_layer_takes_over_the_lstm(layer):
    found = language_model()
    model = ModelSettings(layer=layer, pretrained="there", **SIZES).build_model(len(WORDS))
    output = model.output.weight.clone()
    transfer(model, WORDS, found)
    for weight, theirs in zip(lstm_weights(model.rec_layer), found.lstm.values(), strict=True):
        assert torch.equal(weight, theirs)
    assert torch.equal(model.output.weight, output), "drawn"
    lstm = nn.LSTM(3, 4)
    lstm.load_state_dict(found.lstm)
    ids = torch.tensor([[1, 4, 5, 6]]).T
    with torch.no_grad():
        y = model.eval().rec_layer(model.word_embeddings(ids))[0]
        torch.testing.assert_close(y, lstm(found.embedding[ids])[0])


def test_more_layers_and_a_learned_initial_state():
    found = language_model(num_layers=2)
    settings = ModelSettings(
        layer="GalLSTM:0.5", num_layers=2, options=(("learn_initial_state", True),), pretrained="there", **SIZES
    )
    model = settings.build_model(len(WORDS))
    transfer(model, WORDS, found)
    for name, weight in found.lstm.items():
        assert torch.equal(model.rec_layer.get_parameter(name), weight)
    assert not model.rec_layer.h_0.any()


@pytest.mark.parametrize(
    "has, message",
    [
        ({"n_emb": 5}, "n_emb: expected the language model's 5, got 3"),
        ({"n_hidden": 6}, "n_hidden: expected the language model's 6, got 4"),
        ({"num_layers": 2}, "num_layers: expected the language model's 2, got 1"),
        ({"level": "character"}, "pretrained: expected a language model of words, got one of characters"),
    ],
)
def test_what_does_not_fit_is_named(has, message):
    model = ModelSettings(layer="nn.LSTM", pretrained="there", **SIZES).build_model(len(WORDS))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        transfer(model, WORDS, language_model(**has))
    assert all(map(torch.equal, before, model.parameters())), "nothing is half done"


def test_layers_of_several_sizes_fit_no_classifier():
    found = language_model(num_layers=2)
    last = nn.LSTM(4, 3)  # as wide as the embedding it is tied to
    found.lstm.update({name.replace("l0", "l1"): weight.detach() for name, weight in last.named_parameters()})
    model = ModelSettings(layer="GalLSTM:0", num_layers=2, pretrained="there", **SIZES).build_model(len(WORDS))
    with pytest.raises(ValueError, match="n_hidden: expected the language model's 4 and 3, got 4"):
        transfer(model, WORDS, found)


def test_a_language_model_of_none_of_the_words():
    model = ModelSettings(layer="nn.LSTM", pretrained="there", **SIZES).build_model(6)
    with pytest.raises(
        ValueError, match="pretrained: expected a language model of some of the 6 words, got one of none"
    ):
        transfer(model, [*SPECIAL_WORDS, "#1", "#2"], language_model())
