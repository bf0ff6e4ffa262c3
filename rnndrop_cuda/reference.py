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
    h_0: Tensor | None,
    c_0: Tensor | None,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    **others: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as :func:`rnndrop_cuda.functional.lstm_layer`, without its checks; ``others`` are W_hr and the masks."""
    steps, h_n, c_n = lstm_steps(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, lengths=lengths, reverse=reverse, **others)
    return torch.stack([step.h for step in steps]), h_n, c_n


def initial_state(x: Tensor, h_0: Tensor | None, c_0: Tensor | None, W_hh: Tensor) -> tuple[Tensor, Tensor]:
    """h_0 and c_0, zeros where there is none."""
    B, H, P = x.shape[1], W_hh.shape[0] // 4, W_hh.shape[1]
    return x.new_zeros(B, P) if h_0 is None else h_0, x.new_zeros(B, H) if c_0 is None else c_0


# The masks that may have one for each step: [T, B, ...].
BY_STEP = ("mask_g", "zone_c", "zone_h")


def lstm_steps(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    lengths: Tensor | None,
    reverse: bool,
    **others: Tensor | None,
) -> tuple[list[Step], Tensor, Tensor]:
    """Every step in the order of t, all zero past a sample's end; then h_n and c_n."""
    by_step = [(name, others.get(name)) for name in BY_STEP]
    new_each_step = {name: mask for name, mask in by_step if mask is not None and mask.dim() == 3}
    T = x.shape[0]
    h, c = initial_state(x, h_0, c_0, W_hh)
    steps: dict[int, Step] = {}
    for t in reversed(range(T)) if reverse else range(T):
        of_step = {**others, **{name: mask[t] for name, mask in new_each_step.items()}}
        x_t = x[t]
        if lengths is not None:
            running = (t < lengths).unsqueeze(-1)
            x_t = torch.where(running, x_t, torch.zeros_like(x_t))  # padding may be NaN: 0 times it is, too
        step = lstm_step(x_t, h, c, W_ih, W_hh, b_ih, b_hh, **of_step)
        if lengths is None:
            h, c, steps[t] = step.h, step.c, step
        else:
            h = torch.where(running, step.h, h)
            c = torch.where(running, step.c, c)
            steps[t] = Step(*(torch.where(running, value, torch.zeros_like(value)) for value in step))
    return [steps[t] for t in range(T)], h, c
