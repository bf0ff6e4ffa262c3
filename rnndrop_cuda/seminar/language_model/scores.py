"""What a language model is scored by: the mean loss of a token in nats, and its exponential, the perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnndrop_cuda.seminar.data.text import PADDING


class TextScore(NamedTuple):
    """loss: nats a token; perplexity: its exponential."""

    loss: float
    perplexity: float

    @classmethod
    def of(cls, loss: float) -> TextScore:
        return cls(loss, math.exp(loss) if loss < 700 else math.inf)

    def __str__(self) -> str:
        return f"perplexity {self.perplexity:.2f}"


class TokenSums(NamedTuple):
    """Of some pieces of text: the sum of the tokens' losses, and how many tokens there were."""

    loss: float
    tokens: int

    def plus(self, other: TokenSums) -> TokenSums:
        """Of both's tokens."""
        return TokenSums(self.loss + other.loss, self.tokens + other.tokens)

    def score(self) -> TextScore:
        """ValueError where there was no token."""
        if self.tokens == 0:
            raise ValueError("expected at least one token in the text, got none")
        return TextScore.of(self.loss / self.tokens)


NO_TOKENS = TokenSums(0.0, 0)


class Reader:
    """Reads a text piece by piece with the state carried on, and is the Measure of a language model in training."""

    def __init__(self, over: str = "tokens") -> None:
        self.over = over
        self.state: list[Tensor] = []
        self.whole: Callable[[Tensor], int] = len
        """Rows of the batch that a share of it is of."""

    def read(self, model: torch.nn.Module, piece: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of a piece as Pieces gives it: losses [T, B], which of them count, and the penalty."""
        ids, targets, begins = piece
        state = self.state if self.state and self.state[0].shape[1] == len(ids) else []  # else another text begins
        state = [s * ~begins.unsqueeze(-1) for s in state]
        losses, penalty, *state = model(ids.T, targets.T, *state)
        self.state = [s.detach() for s in state]
        return losses, targets.T != PADDING, penalty

    def measure(
        self, model: torch.nn.Module, lossfun: torch.nn.Module, batch: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor | int, ...]]:
        """As loop.Measure, with TokenSums; a share's losses add up to those of the whole batch."""
        losses, counts, penalty = self.read(model, batch)
        loss_sum = (losses * counts).sum()
        T, B = losses.shape
        whole = self.whole(batch[0])
        loss = loss_sum / (whole * T if self.over == "tokens" else whole) + penalty * (B / whole)
        return loss, (loss_sum.detach(), counts.sum())
