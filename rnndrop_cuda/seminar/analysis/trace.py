"""What a trained classifier does word by word: how each word moves its output, its hidden state and its gates.

The output is read after every word, as if the review ended there:

    z_t = w . h_t + b,    p_t = sigmoid(z_t)        z_0, p_0: after the padding and the start, before the first word

so that the words' influences z_t - z_{t-1} add up to z_T - z_0, and a unit's contribution to one of them is
w_u (h_t,u - h_{t-1},u). With concat pooling w also reads the mean and the maximum of h_1 ... h_t, and a contribution
is the sum of the three. The states are those of rnndrop_cuda.LSTM; the weights of other layers are copied into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rnndrop_cuda.functional import LayerStates
from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.mc_dropout import drops, mc_predict
from rnndrop_cuda.presets import GalLSTM, SemeniutaLSTM
from rnndrop_cuda.seminar.data.ids import Rows
from rnndrop_cuda.seminar.data.text import (
    PADDING,
    SPECIAL_WORDS,
    START,
    UNKNOWN,
    find_words,
    ids_of_words,
    without_line_breaks,
)
from rnndrop_cuda.seminar.layers import FastRNNLayer, MyLSTM, RNNLayer, lstm_weights
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.pooling import pool_each_step

Array = NDArray[np.float64]

GATES = ("i", "f", "o")
QUANTITIES = ("contribution", "h", "c", "i", "f", "g", "o")
BATCH = 128  # reviews of similar length that are computed together
MIN_COUNT = 5  # a mean over fewer occurrences of a word says little


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it: the text is before[0] words[0] before[1] words[1] ... rest, joined."""

    words: list[str]
    """The words that the model reads, as written."""
    before: list[str]
    """The text before each of them."""
    rest: str
    """The text after the last: where the model reads a fixed number of words, this may be most of it."""
    words_left_out: int
    """The number of words in the rest."""
    ids: list[int]
    """The words' ids, without the start."""

    @property
    def known(self) -> list[bool]:
        """For each word, whether the model's vocabulary has it."""
        return [i != UNKNOWN for i in self.ids]


@dataclass(frozen=True)
class Band:
    """Over n passes, each with its own set of dropout masks, the same for all T+1 outputs of the pass."""

    mean: Array
    """[T+1], of the probabilities."""
    sd: Array
    """[T+1], the standard deviation about that mean, with divisor n."""
    samples: Array
    """[n, T+1], the probabilities of each pass."""


@dataclass(frozen=True)
class Trace:
    """How a model reads one text of T words, with the U units of its top layer."""

    logits: Array
    """[T+1]: before the first word, and after each."""
    probabilities: Array
    """[T+1], that the text is positive."""
    influence: Array
    """[T]: how much each word changes the logit."""
    moved: Array
    """[T]: the norm of h_t - h_{t-1}."""
    states: dict[str, Array]
    """For each name in QUANTITIES, [T, U]: h, c, the gates and the candidate g at each word, and the contributions."""
    band: Band | None
    """None where the model has no dropout inside its recurrence."""

    @property
    def units(self) -> list[int]:
        """All units, those with the largest contributions (sums of absolute values) first."""
        weights = np.abs(self.states["contribution"]).sum(0)
        return [int(unit) for unit in np.argsort(-weights, kind="stable")]


@dataclass(frozen=True)
class WordEffects:
    """What words do to each unit of the top layer, averaged over their occurrences in a number of reviews."""

    ids: NDArray[np.int64]
    """[W], the words that occur MIN_COUNT times or more."""
    counts: NDArray[np.int64]
    """[W], how often each of them occurs."""
    means: dict[str, Array]
    """For each name in QUANTITIES, [W, U]: for h, c and the contribution, the change at the word; for a gate and for g,
    how far it is above the unit's mean over all words."""
    reviews: int

    def top(self, quantity: str, unit: int, k: int) -> tuple[list[int], list[int]]:
        """Indices into ids of the k words that raise the unit's quantity most, and of the k that lower it most."""
        means = self.means[quantity][:, unit]
        order = np.argsort(means, kind="stable")
        return [int(w) for w in order[::-1][:k] if means[w] > 0], [int(w) for w in order[:k] if means[w] < 0]


def read(text: str, vocabulary: Sequence[str], maxlen: int | None, contractions: str = "keep") -> Reading:
    """The text's words with their ids: the first maxlen - 1 of them, since the start is an id, too, or all.

    vocabulary[id] is an id's word. Raises ValueError where the text has no word or none that the model knows, and
    where the vocabulary has ranks instead of words.
    """
    id_of = ids_of_words(vocabulary, contractions)
    if not id_of:
        raise ValueError("vocabulary: expected words, got ranks instead: no text can be read with it")
    words = find_words(without_line_breaks(text), contractions)
    if not words:
        raise ValueError("text: expected at least one word, got none")
    found = len(words)
    words = words[: None if maxlen is None else maxlen - 1]
    ids = [id_of.get(word, UNKNOWN) for _, _, word in words]
    if all(i == UNKNOWN for i in ids):
        raise ValueError(f"text: expected a word that the model knows, got none in the {len(ids)} that it reads")
    ends = [0, *(end for _, end, _ in words)]
    return Reading(
        words=[text[start:end] for start, end, _ in words],
        before=[text[end:start] for end, (start, _, _) in zip(ends, words, strict=False)],
        rest=text[ends[-1] :],
        words_left_out=found - len(words),
        ids=ids,
    )


def of_row(row: NDArray[np.int64], vocabulary: Sequence[str]) -> Reading:
    """A row of load_reviews' X as a reading, where its text is not at hand: the words are the vocabulary's.

    Raises ValueError where the row has no word.
    """
    ids = [int(i) for i in row if i not in (PADDING, START)]
    if not ids:
        raise ValueError("row: expected at least one word, got none")
    return Reading([vocabulary[i] for i in ids], [""] + [" "] * (len(ids) - 1), "", 0, ids)


def fused(layer: nn.Module) -> LSTM:
    """The layer itself, or this package's LSTM with the layer's weights and dropout.

    Raises TypeError where it is not an LSTM, ValueError where it reads in both directions: then there is no output
    after each word.
    """
    if isinstance(layer, (LSTM, nn.LSTM)):
        if layer.bidirectional:
            raise ValueError("layer: expected one that reads in one direction only, got a bidirectional one")
        return layer if isinstance(layer, LSTM) else LSTM.from_torch(layer)
    if isinstance(layer, (RNNLayer, FastRNNLayer)):
        ours: LSTM = GalLSTM(layer.input_size, layer.hidden_size, dropout=layer.dropout)
    elif isinstance(layer, MyLSTM):
        ours = SemeniutaLSTM(layer.input_size, layer.hidden_size, dropout=layer.dropout)
    else:
        raise TypeError(f"layer: expected an LSTM of torch or of this package, got {type(layer).__name__}")
    with torch.no_grad():
        for weight, theirs in zip(lstm_weights(ours), lstm_weights(layer), strict=True):
            weight.copy_(theirs)
    return ours.train(layer.training)


@torch.no_grad()
def trace(model: RNNClassifier, ids: Sequence[int], maxlen: int | None, samples: int = 50, seed: int = 0) -> Trace:
    """Reads the words one by one with dropout off, then `samples` times with one set of masks for all of them.

    model: on the CPU, with one label. ids: of the words, without the start. maxlen: pad on the left to this length, as
    in training; None: do not pad. seed: of the masks.
    """
    row = torch.tensor([START, *ids])
    T = len(ids)
    if maxlen is not None:
        row = nn.functional.pad(row, (maxlen - len(row), 0), value=PADDING)
    layer = fused(model.rec_layer).eval()
    x = model.word_embeddings.eval()(row.unsqueeze(1))
    h_and_more = _states(layer, x)
    features = pool_each_step(h_and_more.h, model.pooling)
    logits = _double(model.output(features))[-T - 1 :, 0, 0]
    states = {name: _double(state)[-T:, 0] for name, state in h_and_more._asdict().items()}
    steps = np.diff(_double(h_and_more.h)[-T - 1 :, 0], axis=0)
    changes = features.double().diff(dim=0)[-T:, 0]
    states["contribution"] = _double(_of_units(changes * model.output.weight[0], layer.hidden_size))
    return Trace(
        logits=logits,
        probabilities=1 / (1 + np.exp(-logits)),
        influence=np.diff(logits),
        moved=np.linalg.norm(steps, axis=1),
        states={name: states[name] for name in QUANTITIES},
        band=_band(model, layer, x, T, samples, seed) if drops(layer) else None,
    )


@torch.no_grad()
def word_effects(model: RNNClassifier, rows: Rows) -> WordEffects:
    """What words do to each unit, over rows of load_reviews' X (a matrix or a list); dropout off. model: on the CPU."""
    layer = fused(model.rec_layer).eval()
    weight = model.output.weight[0]
    vocabulary_size = 1 + max((int(row.max()) for row in rows), default=UNKNOWN)
    counts = torch.zeros(vocabulary_size, dtype=torch.int64)
    sums: dict[str, Tensor] = {}
    ordered = sorted((torch.from_numpy(row) for row in rows), key=len)  # to pad little
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        ids = nn.utils.rnn.pad_sequence(batch, padding_value=PADDING)
        lengths = torch.tensor([len(row) for row in batch])
        states = _states(layer, model.word_embeddings.eval()(ids), lengths)._asdict()
        changes = {name: states[name].diff(dim=0) for name in ("h", "c")}
        features = pool_each_step(states["h"], model.pooling)
        # A row begins with padding or the start: there is no word at step 0.
        values = {
            **{name: state[1:] for name, state in states.items()},
            **changes,
            "contribution": _of_units(features.diff(dim=0) * weight, layer.hidden_size),
        }
        words = ids[1:]
        of_words = words >= len(SPECIAL_WORDS)
        places = words[of_words]
        counts += torch.bincount(places, minlength=vocabulary_size)
        for name in QUANTITIES:
            value = values[name][of_words].double()
            sums.setdefault(name, value.new_zeros(vocabulary_size, value.shape[1])).index_add_(0, places, value)
    often = counts >= MIN_COUNT
    means = {}
    for name, total in sums.items():
        mean = total[often] / counts[often].unsqueeze(1)
        if name in (*GATES, "g"):
            mean -= total.sum(0) / counts.sum().clamp_min(1)
        means[name] = mean.numpy()
    return WordEffects(often.nonzero()[:, 0].numpy(), counts[often].numpy(), means, len(rows))


class _EveryStep(nn.Module):
    """The classifier's output after the last T+1 steps of one row x [T', 1, I], as a batch of probabilities [T+1, 1].

    mc_predict draws the masks once a pass, so every prefix of the text is read with the same masks.
    """

    def __init__(self, model: RNNClassifier, layer: LSTM, T: int) -> None:
        super().__init__()
        self.layer, self.output, self.pooling, self.T = layer, model.output, model.pooling, T

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return torch.sigmoid(self.output(pool_each_step(y, self.pooling)[-self.T - 1 :, 0]))


def _band(model: RNNClassifier, layer: LSTM, x: Tensor, T: int, samples: int, seed: int) -> Band:
    prediction = mc_predict(_EveryStep(model, layer, T), x, samples, torch.Generator().manual_seed(seed))
    return Band(_double(prediction.mean)[:, 0], _double(prediction.std)[:, 0], _double(prediction.samples)[..., 0])


def _of_units(contributions: Tensor, U: int) -> Tensor:
    """[..., P * U], of all that the output layer reads -> [..., U]: each unit's P, one a pooling, added up."""
    return contributions.unflatten(-1, (-1, U)).sum(-2)


def _states(layer: LSTM, x: Tensor, lengths: Tensor | None = None) -> LayerStates:
    """Those of the top layer, over x [T, B, I]."""
    *_, states = layer(x, lengths=lengths, return_states=True)
    return states[-1]


def _double(tensor: Tensor) -> Array:
    array: Array = tensor.detach().double().numpy()
    return array
