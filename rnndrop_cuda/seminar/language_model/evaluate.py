"""The perplexity of a trained language model on a text: with dropout off, and as an average over passes with it on.

    perplexity = exp(-1/N sum_t log p(w_t)),   with MC dropout  p(w_t) = 1/S sum_s p_s(w_t)

Gal & Ghahramani (arXiv 1512.05287, section 5.1): the probabilities are averaged, not their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.language_model.model import LanguageModel
from rnndrop_cuda.seminar.language_model.pieces import Pieces
from rnndrop_cuda.seminar.language_model.scores import Reader, TextScore


@torch.no_grad()
def token_losses(model: nn.Module, pieces: Pieces) -> Tensor:
    """-log p of every token in the mode that the model is in, [N], piece by piece."""
    reader = Reader()
    found = []
    for piece in pieces:
        losses, counts, _ = reader.read(model, piece)
        found.append(losses[counts])
    return torch.cat(found)


def score(model: LanguageModel, pieces: Pieces) -> TextScore:
    """With dropout off; the model's mode is restored."""
    with mode(model, training=False):
        return TextScore.of(token_losses(model, pieces).double().mean().item())


def mc_score(model: LanguageModel, pieces: Pieces, samples: int, seed: int) -> TextScore:
    """With every dropout on, the probability of a token averaged over so many passes; the mode is restored."""
    total: Tensor | None = None
    torch.manual_seed(seed)
    with mode(model, training=True):
        for _ in range(samples):
            log_p = -token_losses(model, pieces).double()
            total = log_p if total is None else torch.logaddexp(total, log_p)
    assert total is not None
    return TextScore.of(math.log(samples) - total.mean().item())


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """The model in training mode or in eval."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def has_dropout(model: LanguageModel) -> bool:
    """Whether two passes in training mode differ."""
    with mode(model, training=True), torch.no_grad():
        ids = torch.ones(2, 1, dtype=torch.int64, device=model.embedding.weight.device)
        state = torch.get_rng_state()
        model.features(ids, ())
        return not torch.equal(state, torch.get_rng_state())
