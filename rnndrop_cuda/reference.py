"""The layer in plain PyTorch, shaped like its equations: the oracle of every test and the ``python`` backend.

Nothing here is fast. It runs on any device and in any dtype, computes in that dtype, and can be differentiated to
any order; so it also serves the double backward of the fused op.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def lstm_step(
    x_t: Tensor,
    h_prev: Tensor,
    c_prev: Tensor,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    W_hr: Tensor | None,
    mask_x: Tensor | None,
    mask_h: Tensor | None,
    mask_g: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One step: ``(h_t [B, P], c_t [B, H])`` from ``x_t [B, I]`` and the state before it."""
    x_tilde = x_t if mask_x is None else mask_x * x_t
    h_tilde = h_prev if mask_h is None else mask_h * h_prev
    pre = F.linear(x_tilde, W_ih, b_ih) + F.linear(h_tilde, W_hh, b_hh)
    i_pre, f_pre, g_pre, o_pre = pre.chunk(4, dim=-1)
    i, f, o = torch.sigmoid(i_pre), torch.sigmoid(f_pre), torch.sigmoid(o_pre)
    g = torch.tanh(g_pre)
    if mask_g is not None:
        g = mask_g * g
    c = f * c_prev + i * g
    h = o * torch.tanh(c)
    if W_hr is not None:
        h = F.linear(h, W_hr)
    return h, c


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    W_hr: Tensor | None = None,
    mask_x: Tensor | None = None,
    mask_h: Tensor | None = None,
    mask_g: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`rnndrop_cuda.functional.lstm_layer` computes, same arguments and results, without its checks."""
    T = x.shape[0]
    h, c = h_0, c_0
    y: list[Tensor] = [x] * T
    for t in reversed(range(T)) if reverse else range(T):
        mask_g_t = mask_g[t] if mask_g is not None and mask_g.dim() == 3 else mask_g
        h_t, c_t = lstm_step(x[t], h, c, W_ih, W_hh, b_ih, b_hh, W_hr, mask_x, mask_h, mask_g_t)
        if lengths is None:
            h, c, y[t] = h_t, c_t, h_t
        else:
            running = (t < lengths).unsqueeze(-1)
            h = torch.where(running, h_t, h)
            c = torch.where(running, c_t, c)
            y[t] = torch.where(running, h_t, torch.zeros_like(h_t))
    return torch.stack(y), h, c
