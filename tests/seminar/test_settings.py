"""Settings: a layer's name is parsed once, the classifier is built from them, and what does not fit is named."""

import dataclasses

import pytest
import torch
from torch import nn

from rnndrop_cuda.presets import GalLSTM
from rnndrop_cuda.seminar.settings import LAYERS, Layer, RunSettings, TrainSettings
from rnndrop_cuda.seminar.training.comparison import CompareSettings
from rnndrop_cuda.seminar.training.experiment import Experiment

SMALL = {"vocab_size": 20, "n_emb": 6, "n_hidden": 4}


@pytest.mark.parametrize("text", ["nn.LSTM", *(f"{name}:0.25" for name in LAYERS if name != "nn.LSTM")])
def test_a_layer_is_read_as_it_is_written(text):
    layer = Layer.parse(text)
    assert str(layer) == text
    assert layer.label == text.replace(":", " ")
    assert layer.kind is LAYERS[text.partition(":")[0]]
    assert layer.dropout == (None if text == "nn.LSTM" else 0.25)


def test_a_probability_is_not_left_out():
    with pytest.raises(ValueError, match="^MyLSTM needs the probability of its dropout, as in MyLSTM:0.5; MyLSTM:0 is"):
        Layer.parse("MyLSTM")


@pytest.mark.parametrize(
    "text, message",
    [
        ("GRU", "no layer 'GRU': choose from nn.LSTM, RNNLayer"),
        ("GalLSTM:1.5", r"expected a dropout probability in \[0, 1\], got '1.5'"),
        ("GalLSTM:x", "got 'x'"),
        ("GalLSTM:nan", "got 'nan'"),
        ("nn.LSTM:0.5", "nn.LSTM has no dropout inside"),
    ],
)
def test_a_wrong_layer_is_a_plain_error(text, message):
    with pytest.raises(ValueError, match=message):
        Layer.parse(text)
    with pytest.raises(ValueError, match="^layer: "):
        RunSettings(layer=text).check()


def test_all_runs_share_their_settings():
    shared = {field.name for field in dataclasses.fields(RunSettings)}
    for kind in (CompareSettings, Experiment, TrainSettings):
        names = {field.name for field in dataclasses.fields(kind)}
        assert names >= shared
        assert kind().maxlen == 32 and not kind().variable_length


def test_reviews_without_a_maxlen_keep_their_lengths():
    assert RunSettings(maxlen=None) == RunSettings(maxlen=None, variable_length=True)
    assert RunSettings(maxlen=5).padded_to == 5
    assert RunSettings(maxlen=5, variable_length=True).padded_to is None


@pytest.mark.parametrize("maxlen, variable_length", [(5, False), (5, True), (None, True)])
def test_reviews_are_loaded_as_the_settings_say(npz, maxlen, variable_length):
    settings = RunSettings(data=str(npz), unverified_data=True, vocab_size=20, maxlen=maxlen)
    settings = dataclasses.replace(settings, variable_length=variable_length)
    reviews = settings.load()
    lengths = {len(row) for row in reviews.X_train}
    assert max(lengths) == (maxlen or 12)
    assert (len(lengths) > 1) == variable_length
    assert len(reviews.y_train) == 48


def test_the_seed_draws_the_weights():
    first, again, other = (RunSettings(**SMALL, seed=seed).build() for seed in (1, 1, 2))
    for weight, same, different in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, same)
        assert not torch.equal(weight, different)


def test_options_reach_the_layer_and_the_embedding():
    settings = RunSettings(
        **SMALL, layer="GalLSTM:0.25", num_layers=2, mask_scope="sample", options=(("forget_bias", 2.0),),
        embedding_init="uniform", embedding_dropout=0.5, embedding_dropout_scope="element",
    )  # fmt: skip
    settings.check()
    model = settings.build(sparse=True)
    layer, embedding = model.rec_layer, model.word_embeddings
    assert isinstance(layer, GalLSTM)
    assert (layer.input_dropout, layer.num_layers, layer.mask_scope) == (0.25, 2, "sample")
    bias = sum(weight[4:8] for name, weight in layer.named_parameters() if name in ("bias_ih_l0", "bias_hh_l0"))
    assert torch.equal(bias, torch.full((4,), 2.0))
    assert (embedding.p, embedding.scope, embedding.sparse) == (0.5, "element", True)
    assert embedding.weight.abs().max() <= 0.05
    assert isinstance(RunSettings(**SMALL, num_layers=2).build().rec_layer, nn.LSTM)


def test_given_vectors_are_what_the_embedding_starts_from():
    """No number is drawn for them: the other weights are those of an embedding of no words."""
    settings = RunSettings(**SMALL, vectors="somewhere", freeze_vectors=True)
    vectors = torch.randn(20, 6)
    model = settings.build(vectors=vectors)
    assert torch.equal(model.word_embeddings.weight, vectors)
    assert model.word_embeddings.weight.data_ptr() != vectors.data_ptr()
    assert not model.word_embeddings.weight.requires_grad
    torch.manual_seed(0)
    assert torch.equal(model.rec_layer.weight_ih_l0, nn.LSTM(6, 4).weight_ih_l0)
    with pytest.raises(ValueError, match=r"vectors: expected shape \[20, 6\], got \[20, 5\]"):
        settings.build(vectors=vectors[:, :5])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer": "RNNLayer:0", "num_layers": 2}, "num_layers: expected 1 with RNNLayer, got 2"),
        ({"layer": "MyLSTM:0", "mask_scope": "sample"}, "mask_scope: expected batch with MyLSTM, got sample"),
        ({"options": (("forget_bias", 1.0),)}, "options: expected none with nn.LSTM"),
        ({"freeze_vectors": True}, "freeze_vectors: expected vectors to freeze, got none"),
        ({"embedding_init": "zeros"}, "embedding_init: expected one of normal, uniform, got zeros"),
        ({"embedding_dropout_scope": "x"}, "embedding_dropout_scope: expected one of word, element, got x"),
        ({"layer": "FastRNNLayer:0", "maxlen": None}, "variable_length: expected nn.LSTM or"),
        ({"data": "imdb", "contractions": "split"}, "contractions: expected keep for imdb"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        RunSettings(**changes).check()


@pytest.mark.parametrize(
    "wrong",
    [
        {"checkpoint_every": 0},
        {"vocab_size": 2**40},
        {"num_layers": 10**9},
        {"batch_size": -1},
        {"compile": "nonsense"},
    ],
)
def test_what_no_flag_can_say_is_refused_of_a_checkpoint_too(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        TrainSettings(**wrong).check()
