"""Text from a language model, and how far passes with different dropout masks agree on each of its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnndrop_cuda.seminar.data.text import PADDING, SPECIAL_WORDS, START
from rnndrop_cuda.seminar.language_model.evaluate import mode
from rnndrop_cuda.seminar.language_model.model import LanguageModel, State

NEVER = [k for k in range(len(SPECIAL_WORDS)) if k != START]
"""Ids that are not drawn: padding, unknown words, and what is no word."""


class Spread(NamedTuple):
    """Of each word of a text after the first: its probability by passes with dropout on, their mean and deviation."""

    mean: list[float]
    std: list[float]


@torch.no_grad()
def generate(model: LanguageModel, prompt: Sequence[int], n: int, temperature: float, seed: int) -> list[int]:
    """The prompt's ids and n more, drawn from p^(1 / temperature) with dropout off; the prompt begins with <start>.

    FloatingPointError where the model's output is no number.
    """
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt)
    state: State = ()
    step = torch.tensor(ids, device=device).unsqueeze(1)
    with mode(model, training=False):
        for _ in range(n):
            log_p, state = model.log_probabilities(step, state)
            scores = log_p[-1, 0].double().cpu()
            scores[NEVER] = -torch.inf
            scores = (scores - scores.max()) / temperature  # the likeliest has 0, however low the temperature
            if scores.isnan().any():
                raise FloatingPointError("the model's output is no number: it was not trained to a finite loss")
            ids.append(int(torch.multinomial(scores.softmax(-1), 1, generator=generator)))
            step = torch.tensor([[ids[-1]]], device=device)
    return ids


@torch.no_grad()
def spread(model: LanguageModel, ids: Sequence[int], samples: int, seed: int) -> Spread:
    """Over so many passes, each with masks of its own for the whole text; the deviation is divided by `samples`."""
    text = torch.tensor(ids, device=model.embedding.weight.device).unsqueeze(1)
    torch.manual_seed(seed)
    with mode(model, training=True):
        p = torch.stack([_probabilities(model, text) for _ in range(samples)])
    return Spread(p.mean(0).tolist(), p.std(0, correction=0).tolist())


def _probabilities(model: LanguageModel, text: Tensor) -> Tensor:
    losses, *_ = model(text[:-1], text[1:])
    found: Tensor = (-losses[:, 0]).double().exp().cpu()
    return found


def as_text(ids: Sequence[int], words: Sequence[str], level: str) -> str:
    """<start> as a new line."""
    pieces = ["\n" if k == START else "" if k == PADDING else words[k] for k in ids]
    joined = ("" if level == "character" else " ").join(pieces)
    return "\n".join(line.strip() for line in joined.split("\n")).strip("\n")
