"""What a trained classifier does word by word: how each word moves its output, its hidden state and its gates.

The output is read after every word, as if the review ended there:

    z_t = w . h_t + b,    p_t = sigmoid(z_t)        z_0, p_0: after the padding and the start, before the first word

so that the words' influences z_t - z_{t-1} add up to z_T - z_0, and a unit's contribution to one of them is
w_u (h_t,u - h_{t-1},u). The states are those of rnndrop_cuda.LSTM, into which layers of other make are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rnndrop_cuda.functional import LayerStates
from rnndrop_cuda.lstm import LSTM, GalLSTM, SemeniutaLSTM
from rnndrop_cuda.mc_dropout import drops, mc_predict
from rnndrop_cuda.seminar.data.reviews import PADDING, SPECIAL_WORDS, START, UNKNOWN, Rows, find_words, ids_of_words
from rnndrop_cuda.seminar.layers import FastRNNLayer, MyLSTM, RNNLayer, lstm_weights
from rnndrop_cuda.seminar.model import RNNClassifier

Array = NDArray[np.float64]

GATES = ("i", "f", "o")
QUANTITIES = ("contribution", "h", "c", "i", "f", "g", "o")
BATCH = 128  # reviews that are read together
MIN_COUNT = 5  # a mean over fewer occurrences of a word says little


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it: before[0] words[0] before[1] words[1] ... rest, put together, is the text."""

    words: list[str]
    """The words that the model reads, as they were written."""
    before: list[str]
    """What stands before each of them."""
    rest: str
    """What follows the last: with a model of a fixed length that may be most of the text."""
    words_left_out: int
    """In the rest."""
    ids: list[int]
    """Of the words, not the start."""

    @property
    def known(self) -> list[bool]:
        """Whether the model's vocabulary has each word."""
        return [i != UNKNOWN for i in self.ids]


@dataclass(frozen=True)
class Band:
    """Of passes with one set of dropout masks each, all T+1 outputs of a pass read with the same masks."""

    mean: Array
    """[T+1], probabilities."""
    sd: Array
    """[T+1], about that mean, divided by n."""
    samples: Array
    """[n, T+1]."""


@dataclass(frozen=True)
class Trace:
    """Of one text of T words, with the U units of the top layer."""

    logits: Array
    """[T+1]: before the first word, and after each."""
    probabilities: Array
    """[T+1], of the text being positive."""
    influence: Array
    """[T]: the difference that each word makes to the logit."""
    moved: Array
    """[T]: the norm of h_t - h_{t-1}."""
    states: dict[str, Array]
    """By the names in QUANTITIES, [T, U]: h, c, the gates and the candidate g after each word, the contributions."""
    band: Band | None
    """None where the model has no dropout inside."""

    @property
    def units(self) -> list[int]:
        """By their contributions, the sum of absolute values; the largest first."""
        weights = np.abs(self.states["contribution"]).sum(0)
        return [int(unit) for unit in np.argsort(-weights, kind="stable")]


@dataclass(frozen=True)
class WordEffects:
    """What the words of a number of reviews do to each unit of the top layer, on average over their occurrences."""

    ids: NDArray[np.int64]
    """[W], of the words that occur MIN_COUNT times or more."""
    counts: NDArray[np.int64]
    """[W]."""
    means: dict[str, Array]
    """By the names in QUANTITIES, [W, U]: of h, c and the contribution the change at the word, of a gate and of g how
    far it is above the unit's mean over all words."""
    reviews: int

    def top(self, quantity: str, unit: int, k: int) -> tuple[list[int], list[int]]:
        """Places in ids of the k words that raise the unit's quantity most, and of the k that lower it most."""
        means = self.means[quantity][:, unit]
        order = np.argsort(means, kind="stable")
        return [int(w) for w in order[::-1][:k] if means[w] > 0], [int(w) for w in order[:k] if means[w] < 0]


def read(text: str, vocabulary: Sequence[str], maxlen: int | None, contractions: str = "keep") -> Reading:
    """The text's words, the first maxlen - 1 of them (the start is an id, too) or all, with their ids.

    vocabulary[id] is an id's word. Raises ValueError where the text has no word, or none that the model knows; or the
    vocabulary has ranks in the place of words.
    """
    id_of = ids_of_words(vocabulary, contractions)
    if not id_of:
        raise ValueError("the model's vocabulary has ranks instead of words: no text can be read with it")
    words = find_words(text, contractions)
    if not words:
        raise ValueError("the text must have a word at least, got none")
    found = len(words)
    words = words[: None if maxlen is None else maxlen - 1]
    ids = [id_of.get(word, UNKNOWN) for _, _, word in words]
    if all(i == UNKNOWN for i in ids):
        raise ValueError(f"the text must have a word that the model knows, got none in the {len(ids)} that it reads")
    ends = [0, *(end for _, end, _ in words)]
    return Reading(
        words=[text[start:end] for start, end, _ in words],
        before=[text[end:start] for end, (start, _, _) in zip(ends, words, strict=False)],
        rest=text[ends[-1] :],
        words_left_out=found - len(words),
        ids=ids,
    )


def of_row(row: NDArray[np.int64], vocabulary: Sequence[str]) -> Reading:
    """A row of load_reviews' X where its text is not at hand: the words are the vocabulary's."""
    ids = [int(i) for i in row if i not in (PADDING, START)]
    if not ids:
        raise ValueError("the review must have a word at least, got none")
    return Reading([vocabulary[i] for i in ids], [""] + [" "] * (len(ids) - 1), "", 0, ids)


def fused(layer: nn.Module) -> LSTM:
    """The layer itself, or this package's LSTM with its weights and dropout.

    Raises TypeError where it is no LSTM, ValueError where it reads in both directions: then there is no output after
    each word.
    """
    if isinstance(layer, (LSTM, nn.LSTM)):
        if layer.bidirectional:
            raise ValueError("the model must read in one direction only, got a bidirectional layer")
        return layer if isinstance(layer, LSTM) else LSTM.from_torch(layer)
    if isinstance(layer, (RNNLayer, FastRNNLayer)):
        ours: LSTM = GalLSTM(layer.input_size, layer.hidden_size, dropout=layer.dropout)
    elif isinstance(layer, MyLSTM):
        ours = SemeniutaLSTM(layer.input_size, layer.hidden_size, dropout=layer.dropout)
    else:
        raise TypeError(f"the model's layer must be an LSTM of torch or of this package, got {type(layer).__name__}")
    with torch.no_grad():
        for weight, theirs in zip(lstm_weights(ours), lstm_weights(layer), strict=True):
            weight.copy_(theirs)
    return ours.train(layer.training)


@torch.no_grad()
def trace(model: RNNClassifier, ids: Sequence[int], maxlen: int | None, samples: int = 50, seed: int = 0) -> Trace:
    """Reads the words one by one with dropout off, and `samples` times with one set of masks for all of them.

    model: on the CPU, of one label. ids: of the words, not the start. maxlen: padded on the left to it, as in
    training; None: not padded. seed: of the masks.
    """
    row = torch.tensor([START, *ids])
    T = len(ids)
    if maxlen is not None:
        row = nn.functional.pad(row, (maxlen - len(row), 0), value=PADDING)
    layer = fused(model.rec_layer).eval()
    x = model.word_embeddings.eval()(row.unsqueeze(1))
    h_and_more = _states(layer, x)
    logits = _double(model.output(h_and_more.h))[-T - 1 :, 0, 0]
    states = {name: _double(state)[-T:, 0] for name, state in h_and_more._asdict().items()}
    steps = np.diff(_double(h_and_more.h)[-T - 1 :, 0], axis=0)
    states["contribution"] = steps * _double(model.output.weight)[0]
    return Trace(
        logits=logits,
        probabilities=1 / (1 + np.exp(-logits)),
        influence=np.diff(logits),
        moved=np.linalg.norm(steps, axis=1),
        states={name: states[name] for name in QUANTITIES},
        band=_band(layer, model.output, x, T, samples, seed) if drops(layer) else None,
    )


@torch.no_grad()
def word_effects(model: RNNClassifier, rows: Rows) -> WordEffects:
    """Over the rows of load_reviews' X, padded or of lengths of their own; dropout off. model: on the CPU."""
    layer = fused(model.rec_layer).eval()
    weight = model.output.weight[0]
    vocabulary_size = 1 + max((int(row.max()) for row in rows), default=UNKNOWN)
    counts = torch.zeros(vocabulary_size, dtype=torch.int64)
    sums: dict[str, Tensor] = {}
    ordered = sorted((torch.from_numpy(row) for row in rows), key=len)  # so that little is padded
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        ids = nn.utils.rnn.pad_sequence(batch, padding_value=PADDING)
        lengths = torch.tensor([len(row) for row in batch])
        states = _states(layer, model.word_embeddings.eval()(ids), lengths)._asdict()
        changes = {name: states[name].diff(dim=0) for name in ("h", "c")}
        # A row begins with padding or the start: step 0 is no word's.
        values = {
            **{name: state[1:] for name, state in states.items()},
            **changes,
            "contribution": changes["h"] * weight,
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

    So mc_predict, which takes each pass for one draw of the masks, gives the same masks to every prefix of the text.
    """

    def __init__(self, layer: LSTM, output: nn.Linear, T: int) -> None:
        super().__init__()
        self.layer, self.output, self.T = layer, output, T

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return torch.sigmoid(self.output(y[-self.T - 1 :, 0]))


def _band(layer: LSTM, output: nn.Linear, x: Tensor, T: int, samples: int, seed: int) -> Band:
    prediction = mc_predict(_EveryStep(layer, output, T), x, samples, torch.Generator().manual_seed(seed))
    return Band(_double(prediction.mean)[:, 0], _double(prediction.std)[:, 0], _double(prediction.samples)[..., 0])


def _states(layer: LSTM, x: Tensor, lengths: Tensor | None = None) -> LayerStates:
    """Of the top layer, over x [T, B, I]."""
    *_, states = layer(x, lengths=lengths, return_states=True)
    return states[-1]


def _double(tensor: Tensor) -> Array:
    array: Array = tensor.detach().double().numpy()
    return array
