"""What a classifier does word by word: its figures against plain loops, and texts as the model reads them."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from one_review import MAXLEN, READ, REST, TEXT, VOCABULARY, WORDS
from torch import nn

from rnndrop_cuda import LSTM
from rnndrop_cuda.seminar.analysis.trace import MIN_COUNT, QUANTITIES, fused, read, trace, word_effects
from rnndrop_cuda.seminar.commands.compare import LAYERS
from rnndrop_cuda.seminar.data.text import find_words, tokenize
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.pooling import POOLINGS, pool


def make_model(layer: str, dropout: float | None, pooling: str = "last") -> RNNClassifier:
    torch.manual_seed(0)
    model = RNNClassifier(6, 5, 20, 1, 4, rec_layer=LAYERS[layer], dropout=dropout, pooling=pooling)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that every gate moves
    return model


@pytest.mark.parametrize("maxlen", [9, None])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_outputs_are_the_classifiers_own_of_every_prefix(layer, pooling, maxlen):
    model = make_model(layer, None if layer == "nn.LSTM" else 0.5, pooling)
    ids = [5, 2, 19, 7, 7, 11]
    traced = trace(model, ids, maxlen, samples=2)
    row = torch.tensor([0] * ((maxlen or 7) - 7) + [1, *ids])
    with torch.no_grad():
        expected = [model.eval()(row[: len(row) - k].unsqueeze(1)).item() for k in range(6, -1, -1)]
    np.testing.assert_allclose(traced.probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(traced.probabilities, 1 / (1 + np.exp(-traced.logits)))
    assert (traced.band is None) == (layer == "nn.LSTM")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_influence_and_contributions_add_up(pooling):
    traced = trace(make_model("GalLSTM", 0.5, pooling), [5, 2, 19, 7, 7, 11], 9)
    assert traced.influence.sum() == pytest.approx(traced.logits[-1] - traced.logits[0], abs=1e-12)
    assert np.abs(traced.influence).min() > 0
    np.testing.assert_allclose(traced.states["contribution"].sum(1), traced.influence, atol=1e-6)
    weights = np.abs(traced.states["contribution"]).sum(0)
    assert sorted(traced.units) == list(range(5))
    assert list(weights[traced.units]) == sorted(weights, reverse=True)


def test_the_states_are_those_of_the_layer():
    model, ids = make_model("GalLSTM", 0.5).eval(), [5, 2, 19, 7, 7, 11]
    traced = trace(model, ids, 9)
    x = model.word_embeddings(torch.tensor([[0, 0, 1, *ids]]).T)
    _, _, (states,) = model.rec_layer(x, return_states=True)
    for name in states._fields:
        np.testing.assert_array_equal(traced.states[name], getattr(states, name)[3:, 0].detach().numpy(), name)
    h = states.h[2:, 0].double().detach().numpy()
    np.testing.assert_allclose(traced.moved, [np.sqrt(((h[t + 1] - h[t]) ** 2).sum()) for t in range(6)])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", ["RNNLayer", "FastRNNLayer", "MyLSTM", "GalLSTM", "SemeniutaLSTM"])
def test_the_band_is_of_samples_with_one_set_of_masks_each(layer, pooling):
    model, ids = make_model(layer, 0.5, pooling), [5, 2, 19, 7]
    band = trace(model, ids, 9, samples=7, seed=3).band
    ours, generator = fused(model.rec_layer).eval(), torch.Generator().manual_seed(3)
    x = model.word_embeddings(torch.tensor([[0] * 4 + [1, *ids]]).T)
    expected = []
    with torch.no_grad():
        for _ in range(7):
            y, _ = ours(x, masks=ours.draw_masks(9, 1, generator))
            read = torch.stack([pool(y[: t + 1], pooling)[0] for t in range(4, 9)])
            expected.append(torch.sigmoid(model.output(read))[:, 0].double().numpy())
    np.testing.assert_allclose(band.samples, expected, rtol=1e-6)
    np.testing.assert_allclose(band.mean, np.mean(expected, 0), rtol=1e-6)
    np.testing.assert_allclose(band.sd, np.std(expected, 0), rtol=1e-4)
    assert band.sd.min() > 0


def test_a_deeper_stack_shows_its_top_layer():
    torch.manual_seed(0)
    model = RNNClassifier(6, 5, 20, 1, 4, rec_layer=lambda E, H: nn.LSTM(E, H, num_layers=2, dropout=0.5))
    traced = trace(model, [5, 7], None, samples=5)
    with torch.no_grad():
        out, _ = model.eval().rec_layer(model.word_embeddings(torch.tensor([[1, 5, 7]]).T))
    np.testing.assert_allclose(traced.states["h"], out[1:, 0].numpy(), rtol=1e-5)
    assert traced.band.sd.min() > 0, "dropout between the layers"


@pytest.mark.parametrize("make", [nn.LSTM, LSTM])
def test_a_layer_without_an_output_word_by_word_is_refused(make):
    with pytest.raises(ValueError, match="one direction only, got a bidirectional"):
        fused(make(3, 4, bidirectional=True))
    with pytest.raises(TypeError, match="layer: expected an LSTM of torch or of this package, got GRU"):
        fused(nn.GRU(3, 4))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("ragged", [False, True])
def test_the_effects_of_words_are_averages_over_their_occurrences(ragged, pooling):
    model = make_model("GalLSTM", 0.5, pooling).eval()
    weights = model.output.weight[0].double().detach().numpy().reshape(-1, 5)
    rng = np.random.default_rng(0)
    rows = [np.array([1, *rng.integers(2, 9, size=n)]) for n in [*range(12), 3, 30]]
    rows = [np.where(row == 3, 9, row) for row in rows]
    rows[8][1:5] = 19  # once fewer than are asked for
    padded = [np.concatenate([np.zeros(40 - len(row), dtype=np.int64), row]) for row in rows]
    effects = word_effects(model, rows if ragged else np.stack(padded))

    values = defaultdict(list)
    for row in rows if ragged else padded:
        with torch.no_grad():
            _, _, (states,) = model.rec_layer(model.word_embeddings(torch.from_numpy(row)[:, None]), return_states=True)
        of = {name: getattr(states, name)[:, 0].double().numpy() for name in states._fields}
        ends = [of["h"][: t + 1] for t in range(len(row))]
        read = [np.stack([h[-1], h.mean(0), h.max(0)])[: len(weights)] for h in ends]
        for t in range(1, len(row)):
            if row[t] >= 4:
                change = {name: of[name][t] - of[name][t - 1] for name in ("h", "c")}
                change["contribution"] = ((read[t] - read[t - 1]) * weights).sum(0)
                for name in QUANTITIES:
                    values[name, int(row[t])].append(change[name] if name in change else of[name][t])
    counts = {word: len(found) for (name, word), found in values.items() if name == "h"}
    assert min(counts.values()) < MIN_COUNT < max(counts.values())
    assert list(effects.ids) == sorted(word for word, count in counts.items() if count >= MIN_COUNT)
    assert list(effects.counts) == [counts[word] for word in effects.ids]
    for name in QUANTITIES:
        of_all = np.concatenate([values[name, word] for word in counts]).mean(0)
        offset = of_all if name in ("i", "f", "g", "o") else 0
        expected = [np.mean(values[name, word], axis=0) - offset for word in effects.ids]
        np.testing.assert_allclose(effects.means[name], expected, atol=1e-6, err_msg=name)

    raises, lowers = effects.top("h", 2, 2)
    order = np.argsort(effects.means["h"][:, 2])
    assert raises == [w for w in order[::-1][:2] if effects.means["h"][w, 2] > 0]
    assert lowers == [w for w in order[:2] if effects.means["h"][w, 2] < 0]
    assert raises and lowers and not set(raises) & set(lowers)


LETTERS = st.characters(blacklist_characters="Σ", blacklist_categories=["Cs"])  # Σ: see below

PIECES = st.sampled_from(["don't", "it\u2019s", "'tis", "İt's", "he'd've", "rock 'n' roll", "“so—called”", "n't", "'"])


@pytest.mark.parametrize("contractions", ["keep", "split"])
@given(text=st.lists(st.one_of(st.text(LETTERS), PIECES)).map(" ".join))
def test_a_text_is_cut_where_the_tokeniser_cuts_it(contractions, text):
    words = tokenize(text, contractions)
    vocabulary = [*VOCABULARY[:4], *dict.fromkeys(words)]
    if not words:
        with pytest.raises(ValueError, match="at least one word|ranks instead"):
            read(text, vocabulary, None, contractions)
        return
    reading = read(text, vocabulary, None, contractions)
    assert [vocabulary[i] for i in reading.ids] == words
    together = "".join(itertools.chain(*zip(reading.before, reading.words, strict=True)))
    assert together + reading.rest == text


def test_a_line_break_of_html_is_no_word():
    """Not even to a model that was trained on Keras' "br"; it stays in the text that is shown."""
    text = "good<br /><BR>br film<br/>"
    reading = read(text, [*VOCABULARY[:4], "br", "good", "film"], None)
    assert reading.words == ["good", "br", "film"]
    assert reading.ids == [5, 4, 6]
    assert reading.before == ["", "<br /><BR>", " "]
    assert reading.rest == "<br/>"


def test_a_reading_keeps_what_was_written():
    reading = read(TEXT, VOCABULARY, MAXLEN)
    assert reading.words == READ
    assert [VOCABULARY[i] for i in reading.ids[:3]] == ["a", "script", "alert"]
    assert reading.known == [word.lower() in WORDS for word in READ]
    assert (reading.rest, reading.words_left_out) == (REST, 8)
    assert read("ΟΔΟΣ film", VOCABULARY, None).known == [False, True], "a final sigma does no harm"


@pytest.mark.parametrize(
    "text, words, before, rest",
    [
        ("Don't “STOP”—it\u2019s", ["Do", "n't", "STOP", "it", "\u2019s"], ["", "", " “", "”—", ""], ""),
        ("İt's 'ok' ΟΔΟΣ's!", ["İt", "'s", "ok", "ΟΔΟΣ", "'s"], ["", "", " '", "' ", ""], "!"),
    ],
)
def test_split_contractions_stand_where_they_were_written(text, words, before, rest):
    reading = read(text, [*VOCABULARY[:4], "do", "ok"], None, "split")
    found = find_words(text, "split")
    assert [text[start:end] for start, end, _ in found] == words
    assert [word for _, _, word in found] == tokenize(text, "split")
    assert (reading.words, reading.before, reading.rest) == (words, before, rest)
