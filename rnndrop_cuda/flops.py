"""What torch.utils.flop_counter counts for the layer: as everywhere there, two for each multiply-add of a product.

Masks change nothing in it: what a kernel leaves out because a mask drops it counts all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = Sequence[int]


def forward(x: Shape, h_0: Shape, c_0: Shape, W_ih: Shape, W_hh: Shape, *others: Any, **outputs: Any) -> int:
    """x_t W_ih^T and h_{t-1} W_hh^T of every step, and W_hr's product where there is a projection."""
    inputs, state, projection = _products(x, W_ih, W_hh, others)
    return inputs + state + projection


def backward(x: Shape, h_0: Shape, c_0: Shape, W_ih: Shape, W_hh: Shape, *others: Any, **outputs: Any) -> int:
    """Of each product the derivative in the state, in the weight where it is wanted, and in x where it is wanted."""
    inputs, state, projection = _products(x, W_ih, W_hh, others)
    *_, need_dx, need_dW = others
    through_time = state + projection
    return through_time + bool(need_dx) * inputs + bool(need_dW) * (inputs + through_time)


def _products(x: Shape, W_ih: Shape, W_hh: Shape, others: Sequence[Any]) -> tuple[int, int, int]:
    """The three products of a forward over all steps; the last is 0 without a projection."""
    steps = 2 * x[0] * x[1]
    W_hr = others[2]
    return steps * W_ih[0] * W_ih[1], steps * W_hh[0] * W_hh[1], steps * W_hr[0] * W_hr[1] if W_hr else 0


def register() -> None:
    """For the ops, which are loaded."""
    register_flop_formula(torch.ops.rnndrop.lstm_layer)(forward)
    register_flop_formula(torch.ops.rnndrop.lstm_layer_backward)(backward)
