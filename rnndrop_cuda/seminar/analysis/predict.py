"""The sentiment of texts by a trained classifier, and how sure it is, by Monte Carlo dropout.

A text is split into words, cropped and padded as the reviews were that the classifier was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.mc_dropout import drops, mc_predict
from rnndrop_cuda.seminar.data.text import START, UNKNOWN, tokenize, without_line_breaks

BATCH = 128  # texts of similar length that are computed together


@dataclass(frozen=True)
class Encoded:
    """A text as in training: its ids, start first, cropped but not padded."""

    ids: list[int]
    words: int
    """That are read, unknown ones included."""
    unknown: int
    """Of these words, those that the model does not know."""


@dataclass(frozen=True)
class Prediction:
    """For one text. Without dropout inside the recurrence there is one pass, and no deviation."""

    probability: float
    """That the text is positive: the mean over the samples."""
    std: float | None
    entropy: float
    """Of the probability, in nats: at most log 2."""
    mutual_information: float | None
    """In nats: the part of the entropy that comes from the model's uncertainty."""


def encode(text: str, id_of: dict[str, int], maxlen: int | None, contractions: str = "keep") -> Encoded:
    """The text's ids, start included: all of them, or the first maxlen. id_of: as ids_of_words gives it."""
    words = tokenize(without_line_breaks(text), contractions)[: None if maxlen is None else maxlen - 1]
    ids = [id_of.get(word, UNKNOWN) for word in words]
    return Encoded([START, *ids], len(ids), ids.count(UNKNOWN))


def predict(
    model: nn.Module, rows: Sequence[Sequence[int]], maxlen: int | None, samples: int, seed: int
) -> list[Prediction]:
    """The classifier's prediction for each row of ids, from `samples` passes with masks drawn with `seed`.

    maxlen: pad rows on the left to this length, as in training; None: on the right, and tell the model the lengths.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    dropout = any(isinstance(layer, LSTM) and drops(layer) for layer in model.modules())
    by_length = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    predictions: dict[int, Prediction] = {}
    for start in range(0, len(rows), BATCH):
        batch = by_length[start : start + BATCH]
        x = [tensor.to(device) for tensor in _padded([rows[k] for k in batch], maxlen)]
        if dropout:
            mc = mc_predict(_OfOneArgument(model), x, samples, generator)
            columns = (mc.mean[:, 0], mc.std[:, 0], mc.predictive_entropy, mc.mutual_information)
            predictions |= {
                k: Prediction(*values) for k, *values in zip(batch, *(c.tolist() for c in columns), strict=True)
            }
        else:
            with torch.no_grad():
                p = model.eval()(*x)[:, 0]
            entropy = torch.special.entr(torch.stack([p, 1 - p])).sum(0)
            predictions |= {
                k: Prediction(mean, None, h, None)
                for k, mean, h in zip(batch, p.tolist(), entropy.tolist(), strict=True)
            }
    return [predictions[k] for k in range(len(rows))]


class _OfOneArgument(nn.Module):
    """The model as mc_predict calls it: with one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: list[Tensor]) -> Tensor:
        probabilities: Tensor = self.model(*x)
        return probabilities


def _padded(rows: list[Sequence[int]], maxlen: int | None) -> list[Tensor]:
    """[ids [T, B]] or, where maxlen is None, [ids [T, B], lengths [B]]."""
    if maxlen is None:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows])
        return [ids, torch.tensor([len(row) for row in rows])]
    ids = torch.zeros(maxlen, len(rows), dtype=torch.int64)
    for column, row in enumerate(rows):
        ids[maxlen - len(row) :, column] = torch.tensor(row)
    return [ids]
