"""The layer in plain PyTorch, shaped like its equations: the oracle of every test and the ``python`` backend.

Nothing here is fast. It runs on any device, computes in the dtype it is given, and can be differentiated to any order,
so that the double backward of the fused op uses it too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Step(NamedTuple):
    """Everything one step computes: ``h [B, P]``, the others ``[B, H]``; i, f, g, o are the activated gates."""

    h: Tensor
    c: Tensor
    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor


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
    mask_c: Tensor | None,
    zone_c: Tensor | None,
    zone_h: Tensor | None,
) -> Step:
    """One step from ``x_t [B, I]`` and the state before it."""
    pre = _masked_linear(x_t, W_ih, b_ih, mask_x) + _masked_linear(h_prev, W_hh, b_hh, mask_h)
    i_pre, f_pre, g_pre, o_pre = pre.chunk(4, dim=-1)
    i, f, o = torch.sigmoid(i_pre), torch.sigmoid(f_pre), torch.sigmoid(o_pre)
    g = torch.tanh(g_pre)
    c = f * c_prev + i * (g if mask_g is None else mask_g * g)
    if mask_c is not None:
        c = mask_c * c
    h = o * torch.tanh(c)
    if W_hr is not None:
        h = F.linear(h, W_hr)
    if zone_c is not None:
        c = zone_c * c_prev + (1 - zone_c) * c
    if zone_h is not None:
        h = zone_h * h_prev + (1 - zone_h) * h
    return Step(h, c, i, f, g, o)


def _masked_linear(x: Tensor, W: Tensor, b: Tensor | None, mask: Tensor | None) -> Tensor:
    """W (mask * x) + b for all gates; a mask of three dimensions has one mask for each gate's rows of W."""
    if mask is None or mask.dim() < 3:
        return F.linear(x if mask is None else mask * x, W, b)
    of_gates = [F.linear(m * x, W_gate) for m, W_gate in zip(mask.unbind(), W.chunk(4), strict=True)]
    product = torch.cat(of_gates, dim=-1)
    return product if b is None else product + b


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
    mask_c: Tensor | None = None,
    zone_c: Tensor | None = None,
    zone_h: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as :func:`rnndrop_cuda.functional.lstm_layer`, without its checks."""
    steps, h_n, c_n = lstm_steps(
        x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr=W_hr, mask_x=mask_x, mask_h=mask_h, mask_g=mask_g,
        mask_c=mask_c, zone_c=zone_c, zone_h=zone_h, lengths=lengths, reverse=reverse,
    )  # fmt: skip
    return torch.stack([step.h for step in steps]), h_n, c_n


def lstm_steps(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    mask_g: Tensor | None,
    zone_c: Tensor | None,
    zone_h: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    **constants: Tensor | None,
) -> tuple[list[Step], Tensor, Tensor]:
    """Every step in the order of t, all zero past a sample's end; then h_n and c_n."""

    def at_step(noise: Tensor | None, t: int) -> Tensor | None:
        return noise[t] if noise is not None and noise.dim() == 3 else noise

    T = x.shape[0]
    h, c = h_0, c_0
    steps: dict[int, Step] = {}
    for t in reversed(range(T)) if reverse else range(T):
        step = lstm_step(
            x[t], h, c, W_ih, W_hh, b_ih, b_hh, **constants,
            mask_g=at_step(mask_g, t), zone_c=at_step(zone_c, t), zone_h=at_step(zone_h, t),
        )  # fmt: skip
        if lengths is None:
            h, c, steps[t] = step.h, step.c, step
        else:
            running = (t < lengths).unsqueeze(-1)
            h = torch.where(running, step.h, h)
            c = torch.where(running, step.c, c)
            steps[t] = Step(*(torch.where(running, value, torch.zeros_like(value)) for value in step))
    return [steps[t] for t in range(T)], h, c
