"""The language model: embedding, LSTM layers, and a head that says how likely the next word was.

    x_t = E[w_t],   h_t = LSTM_L(... LSTM_1(x_t)),   -log p(w_{t+1} | w_1 ... w_t) = head(h_t, w_{t+1})

The layers are modules of their own, each with a dropout before it; the states of a piece of text are handed on to the
next one, whose gradient does not go back beyond it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.dropout import LayerDropout
from rnndrop_cuda.seminar.embedding import DroppingEmbedding
from rnndrop_cuda.seminar.language_model.softmax import cross_entropy, linear

State = tuple[Tensor, ...]
"""h and c of each layer in turn, [1, B, H] each."""


class FullHead(nn.Module):
    """A softmax over all words; tied, with the embedding's weight [V, H] in the place of its own."""

    def __init__(self, n_hidden: int, n_words: int, embedding: nn.Embedding | None) -> None:
        super().__init__()
        linear = nn.Linear(n_hidden, n_words)
        self.bias = linear.bias
        if embedding is None:
            self.weight = linear.weight
        else:
            nn.init.zeros_(self.bias)
        self._embedding = [embedding]  # not a submodule: its weight would be saved twice

    def forward(self, h: Tensor, targets: Tensor) -> Tensor:
        """h [N, H], targets [N] -> -log p of each."""
        return cross_entropy(self._scores(h), targets)

    def log_probabilities(self, h: Tensor) -> Tensor:
        """h [N, H] -> [N, V]."""
        return self._scores(h).log_softmax(-1)

    def _scores(self, h: Tensor) -> Tensor:
        (embedding,) = self._embedding
        return linear(h, self.weight if embedding is None else embedding.weight, self.bias)


class AdaptiveHead(nn.Module):
    """nn.AdaptiveLogSoftmaxWithLoss: a tenth of the words is in its head, so is most of the text."""

    def __init__(self, n_hidden: int, n_words: int) -> None:
        super().__init__()
        cutoffs = sorted({c for c in (n_words // 10, n_words * 4 // 10) if 0 < c < n_words - 1})
        div_value = 4.0 if n_hidden >= 4 ** len(cutoffs) else 1.0  # else the rarest words get no feature at all
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(n_hidden, n_words, cutoffs or [n_words - 1], div_value)

    def forward(self, h: Tensor, targets: Tensor) -> Tensor:
        """As FullHead's; what the module's own forward gives, which knows neither `linear` nor `cross_entropy`.

        A frequent word is scored by the head, another one by that cluster's score in the head and its own in the
        cluster's tail; a tail that no target is in is left out.
        """
        head, ends = self.softmax.head, self.softmax.cutoffs
        tails: Any = self.softmax.tail
        in_head, of_tail = targets, []
        for k, (begin, end) in enumerate(itertools.pairwise(ends)):
            inside = (targets >= begin) & (targets < end)
            in_head = in_head.masked_fill(inside, self.softmax.shortlist_size + k)
            of_tail.append(inside.nonzero().squeeze(1))
        losses = cross_entropy(linear(h, head.weight, head.bias), in_head)
        rows, sizes = torch.cat(of_tail), [len(rows) for rows in of_tail]
        parts = zip(h.index_select(0, rows).split(sizes), targets[rows].split(sizes), tails, ends, strict=False)
        found = [
            cross_entropy(linear(linear(inputs, tail[0].weight), tail[1].weight), words - begin)
            for inputs, words, tail, begin in parts
            if len(words)
        ]
        return losses.index_add(0, rows, torch.cat(found)) if found else losses

    def log_probabilities(self, h: Tensor) -> Tensor:
        return self.softmax.log_prob(h)


HEADS = ("full", "tied", "adaptive")


class LanguageModel(nn.Module):
    """Embedding, layers and head.

    Args:
        n_words, n_emb: size of the embedding, V and E.
        layers: recurrent layers of one layer each, called as nn.LSTM is; the first takes E features.
        head: one of HEADS; a tied one wants E features from the last layer.
        embedding_dropout: probability of dropping a word of the vocabulary.
        dropouts: probabilities of dropping before the first layer, between the layers, and before the head.
        dropout_mask: as LayerDropout's.
        activation, slowness: weights of AWD-LSTM's two penalties.
    """

    def __init__(
        self,
        n_words: int,
        n_emb: int,
        layers: Sequence[nn.Module],
        head: str = "full",
        *,
        embedding_dropout: float = 0.0,
        dropouts: tuple[float, float, float] = (0.0, 0.0, 0.0),
        dropout_mask: str = "step",
        activation: float = 0.0,
        slowness: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = DroppingEmbedding(n_words, n_emb, embedding_dropout)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.rec = nn.ModuleList(layers)
        before, between, after = dropouts
        self.drop = nn.ModuleList(
            LayerDropout(p, dropout_mask) for p in (before, *[between] * (len(layers) - 1), after)
        )
        n_out = layers[-1].hidden_size
        assert isinstance(n_out, int)
        tied_to = self.embedding if head == "tied" else None
        self.head = AdaptiveHead(n_out, n_words) if head == "adaptive" else FullHead(n_out, n_words, tied_to)
        self.activation, self.slowness = activation, slowness

    def forward(self, ids: Tensor, targets: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """ids and targets [T, B] -> -log p of each target [T, B], the penalty, and the state that is handed on.

        state: as it was handed on by the piece of text before; none: zeros.
        """
        h, dropped, new_state = self.features(ids, state)
        losses = self.head(dropped.flatten(0, 1), targets.flatten()).view_as(targets)
        penalty = losses.new_zeros(())
        if self.training and self.activation:
            penalty = penalty + self.activation * dropped.square().mean()
        if self.training and self.slowness and len(h) > 1:
            penalty = penalty + self.slowness * (h[1:] - h[:-1]).square().mean()
        return losses, penalty, *new_state

    def features(self, ids: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, Tensor, State]:
        """The last layer's output [T, B, H], the same dropped out, and the state that is handed on."""
        h = self.embedding(ids)
        handed_on: list[Tensor] = []
        for k, (layer, drop) in enumerate(zip(self.rec, self.drop, strict=False)):
            h, of_layer = layer(drop(h), (state[2 * k], state[2 * k + 1]) if state else None)
            handed_on += of_layer
        return h, self.drop[-1](h), tuple(handed_on)

    def log_probabilities(self, ids: Tensor, state: Sequence[Tensor] = ()) -> tuple[Tensor, State]:
        """ids [T, B] -> log p of every word as the next one, [T, B, V], and the state that is handed on."""
        _, dropped, new_state = self.features(ids, state)
        found = self.head.log_probabilities(dropped.flatten(0, 1))
        return found.view(*ids.shape, -1), new_state
