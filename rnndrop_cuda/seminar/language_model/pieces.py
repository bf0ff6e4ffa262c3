"""A text in pieces, for truncated backpropagation through time: rows read side by side, so many steps at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rnndrop_cuda.seminar.data.text import PADDING

Piece = tuple[Tensor, Tensor, Tensor]
"""ids [B, T], targets [B, T], of which those that are PADDING do not count, and whether the rows begin here, [B]."""


class Pieces:
    """Of ids [N], N at least 2: every id but the first is a target once.

    batch_size: rows into which the text is cut, of about one length; fewer where the text is shorter. steps: T.
    """

    def __init__(self, ids: Tensor, batch_size: int, steps: int, device: torch.device) -> None:
        n = len(ids) - 1
        if n < 1:
            raise ValueError(f"ids: expected at least two, got {len(ids)}")
        B = min(batch_size, n)
        columns = -(-n // B)
        rows = torch.full((2, B * columns), PADDING, dtype=torch.int64)
        rows[0, :n], rows[1, :n] = ids[:-1], ids[1:]
        self.ids, self.targets = rows.view(2, B, columns).to(device)
        self.tokens, self.steps = n, steps

    def __len__(self) -> int:
        return -(-self.ids.shape[1] // self.steps)

    def __iter__(self) -> Iterator[Piece]:
        B, columns = self.ids.shape
        for t in range(0, columns, self.steps):
            begins = torch.full((B,), t == 0, device=self.ids.device)
            yield self.ids[:, t : t + self.steps], self.targets[:, t : t + self.steps], begins
