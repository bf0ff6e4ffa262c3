"""How far a layer may be from the reference in float64, by dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import LayerMasks, reference

# Of ||out - ref|| / ||ref||: about five times the worst that a contender reached on a CPU with T up to 100. A mask that
# is ignored, or used a step too late, is off by 0.1 or more.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
TF32_TOLERANCE = 5e-3  # the worst seen with float16, which has TF32's 10 bits, was 3e-3


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    tf32 = device.type == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return TF32_TOLERANCE if tf32 else TOLERANCES[dtype]


def in_float64(inputs: Sequence[Tensor], upstream: Sequence[Tensor], options: Mapping[str, Any]) -> list[Tensor]:
    """The reference's y, h_n, c_n, and the gradients of those inputs that require one.

    Args:
        inputs: x, h_0, c_0, W_ih, W_hh, b_ih, b_hh in any dtype.
        upstream: gradients on y, h_n and c_n.
        options: the reference's masks, lengths and reverse.
    """
    inputs = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    masks = {name: value.double() for name, value in options.items() if name.startswith("mask") and value is not None}
    output = reference.lstm_layer(*inputs, **{**options, **masks})
    wanted = [t for t in inputs if t.requires_grad]
    gradients = torch.autograd.grad(output, wanted, [t.double() for t in upstream])
    return [result.detach() for result in (*output, *gradients)]


def masks_in(dtype: torch.dtype, masks: LayerMasks) -> LayerMasks:
    return LayerMasks(*(None if mask is None else mask.to(dtype) for mask in masks))


def relative_error(result: Tensor, expected: Tensor) -> float:
    """||result - expected|| / ||expected||: 0 where both are zero, infinite where the result has a NaN."""
    difference = (result.detach().double() - expected).norm()
    error = float(difference / expected.norm().clamp_min(1e-300))
    return math.inf if math.isnan(error) else error
