"""What the classifier's last layer reads of the LSTM's outputs h_1 ... h_T.

"last"     h_T
"concat"   [h_T, mean of h_1 ... h_T, maximum of h_1 ... h_T], the concat pooling of Howard & Ruder (ULMFiT, ACL 2018,
           section 3.3): a few words that decide may stand anywhere in a text.
"""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = {"last": 1, "concat": 3}
"""How many vectors of the hidden size each reads."""


def pool(y: Tensor, pooling: str, lengths: Tensor | None = None) -> Tensor:
    """y [T, B, H] -> [B, H] or, of "concat", [B, 3H].

    lengths: int64 [B], each in [1, T]: the first so many steps count, what follows is padding; None: all T do.
    """
    if lengths is None:
        return y[-1] if pooling == "last" else torch.cat([y[-1], y.mean(0), y.amax(0)], -1)
    lengths = lengths.to(y.device)
    last = y[lengths - 1, torch.arange(y.shape[1], device=y.device)]
    if pooling == "last":
        return last
    padding = (torch.arange(y.shape[0], device=y.device)[:, None] >= lengths)[..., None]
    mean = y.masked_fill(padding, 0).sum(0) / lengths[:, None]
    return torch.cat([last, mean.to(y.dtype), y.masked_fill(padding, -torch.inf).amax(0)], -1)


def pool_each_step(y: Tensor, pooling: str) -> Tensor:
    """As if the text ended at each step: y [T, B, H] -> [T, B, H] or [T, B, 3H], pool(y[: t + 1]) at t."""
    if pooling == "last":
        return y
    steps = torch.arange(1, y.shape[0] + 1, device=y.device)[:, None, None]
    return torch.cat([y, y.cumsum(0) / steps, y.cummax(0).values], -1)
