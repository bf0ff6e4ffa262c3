"""Drawing dropout masks with torch's generators.

A mask holds 0 with probability p and 1/(1-p) otherwise, so that its mean is 1. It is an ordinary tensor: it obeys
``torch.manual_seed`` and ``generator=``, and can be kept, given back and compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnndrop_cuda import functional, ops


class LayerMasks(NamedTuple):
    """The masks of one layer in one direction, None where there is none; P, the width of h, is H mostly."""

    x: Tensor | None = None
    """``[I]`` or ``[B, I]``, on the input: Gal & Ghahramani. Untied, one for each gate, ``[4, 1, I]`` or
    ``[4, B, I]``."""
    h: Tensor | None = None
    """``[P]`` or ``[B, P]``, untied ``[4, 1, P]`` or ``[4, B, P]``, on the hidden state where the recurrence uses it:
    Gal & Ghahramani."""
    g: Tensor | None = None
    """``[H]``, ``[B, H]`` or ``[T, B, H]``, on the candidate: Semeniuta et al."""
    w: Tensor | None = None
    """``[4H, P]``, on W_hh, for all steps: DropConnect as in AWD-LSTM, Merity et al."""
    y: Tensor | None = None
    """``[T, B, P]``, on the output on its way into the layer above: nn.LSTM's own dropout."""
    c: Tensor | None = None
    """``[H]`` or ``[B, H]`` of 0 and 1, on the cell: RNNDrop, Moon et al."""
    z_c: Tensor | None = None
    """``[H]``, ``[B, H]`` or ``[T, B, H]``, how much of c stays as it was: zoneout, Krueger et al. 0 or 1, or its
    expectation."""
    z_h: Tensor | None = None
    """The same for h, with P for H."""


def check_probability(name: str, p: float) -> float:
    """``p`` itself, a probability of dropping.

    Raises:
        ValueError: p is not a number in [0, 1]; NaN and bool are none. The message names the argument.
    """
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability, a number in [0, 1], got {p!r}")
    return float(p)


def dropout_mask(
    shape: Sequence[int],
    p: float,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A mask of independent entries: 0 with probability p, else 1/(1-p). p=0 gives ones, p=1 zeros.

    p is taken to 16 bits, 2^-17 at most from what was asked: bernoulli_ draws a float an entry, and costs a fifth of
    a whole training step of the layer on a CPU.

    Raises:
        ValueError: p is not a probability.
    """
    keep = 1 - check_probability("p", p)
    scale = 1 / keep if keep else 1.0
    return noise(shape, p, dropped=0.0, kept=scale, dtype=dtype, device=device, generator=generator)


def noise(
    shape: Sequence[int],
    p: float,
    *,
    dropped: float,
    kept: float,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``dropout_mask`` of other values: each entry is ``dropped`` with probability p, else ``kept``."""
    shape = tuple(shape)
    dtype = dtype or torch.get_default_dtype()
    # Not get_default_device(), which torch.compile cannot trace.
    device = torch.empty(0).device if device is None else torch.device(device)
    drop = round(p * 2**16)  # of the 2^16 values of an entry's bits
    if drop in (0, 2**16):
        return torch.full(shape, dropped if drop else kept, dtype=dtype, device=device)
    # Not random_(), which torch.compile and vmap refuse; generator=None would keep sizes from being dynamic.
    source: dict[str, Any] = {} if generator is None else {"generator": generator}
    if device.type == "cpu" and ops.HAS_CPU_KERNELS and dtype in functional.KERNEL_DTYPES:
        seed = torch.randint(-(2**31), 2**31, (3,), dtype=torch.int32, device=device, **source)
        return ops.expand_dropout_mask(seed, shape, drop, dropped, kept, dtype)
    # One draw of 64 bits decides four entries. The one value of 2^64 that randint leaves out is no matter.
    entries = math.prod(shape)
    bits = torch.randint(-(2**63), 2**63 - 1, ((entries + 3) // 4,), dtype=torch.int64, device=device, **source)
    keeps = bits.view(torch.int16)[:entries] >= drop - 2**15
    return torch.where(keeps, torch.full((), kept, dtype=dtype, device=device), dropped).view(shape)
