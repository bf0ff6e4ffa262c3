"""Dropout of the vectors between a model's layers, which several processes draw as one would."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

MASKS = ("step", "sequence")


class LayerDropout(nn.Module):
    """Dropout of x [T, B, E] in training: what is kept is scaled by 1 / (1 - p).

    mask "step": a fresh mask for each step, as nn.Dropout draws it (Zaremba et al., arXiv 1409.2329). "sequence": one a
    sample, the same at every step (Gal & Ghahramani, arXiv 1512.05287; the locked dropout of AWD-LSTM).
    """

    def __init__(self, p: float = 0.0, mask: str = "step") -> None:
        super().__init__()
        self.p, self.mask = p, mask
        self.rows_of: Callable[[int], tuple[int, slice]] | None = None
        """Of a batch of so many samples: those of the whole batch, and which of them these are. None: all of them."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.p or not self.training:
            return x
        T, B, E = x.shape
        if self.rows_of is None and self.mask == "step":
            return F.dropout(x, self.p)
        whole, rows = (B, slice(None)) if self.rows_of is None else self.rows_of(B)
        mask = F.dropout(x.new_ones(T if self.mask == "step" else 1, whole, E), self.p)
        return x * mask[:, rows]

    def extra_repr(self) -> str:
        return f"p={self.p}, mask={self.mask!r}"
