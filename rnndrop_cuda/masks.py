"""Dropout masks, drawn with torch's generators.

A mask holds 0 with probability p and 1/(1-p) otherwise, so that its mean is 1. It is an ordinary tensor: it obeys
``torch.manual_seed`` and ``generator=``, and can be kept, given back and compared. Which masks there are is the table
in noises.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import onnx, ops
from rnndrop_cuda.checks import check_probability
from rnndrop_cuda.noises import IN_EVAL, NOISES, LayerMasks, MaskOptions, Noise, Shape, Sizes, sizes_by_name


def dropout_mask(
    shape: Sequence[int],
    p: float,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A mask of independent entries: 0 with probability p, else 1/(1-p). p=0 gives ones, p=1 zeros.

    p is rounded to 16 bits, at most 2^-17 away from what was asked: ``bernoulli_`` draws a float for each entry, which
    takes a fifth of a whole training step of the layer on a CPU.

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
    if device.type == "cpu" and ops.HAS_CPU_KERNELS and dtype in ops.KERNEL_DTYPES:
        seed = torch.randint(-(2**31), 2**31, (3,), dtype=torch.int32, device=device, **source)
        return ops.expand_dropout_mask(seed, shape, drop, dropped, kept, dtype)
    # One draw of 64 bits decides four entries. The one value of 2^64 that randint leaves out does not matter.
    entries = math.prod(shape)
    bits = torch.randint(-(2**63), 2**63 - 1, ((entries + 3) // 4,), dtype=torch.int64, device=device, **source)
    keeps = bits.view(torch.int16)[:entries] >= drop - 2**15
    return torch.where(keeps, torch.full((), kept, dtype=dtype, device=device), dropped).view(shape)


Drawn = tuple[Noise, float, Shape]
"""A noise that is drawn, its probability and its shape."""


def noises_on(layer: Any) -> list[Drawn]:
    """The noises whose probability is not 0 in an LSTM, in the table's order."""
    # A loop, since torch.compile cannot trace := inside a comprehension.
    drawn = []
    for row in NOISES:
        if p := getattr(layer, row.keyword):
            drawn.append((row, p, row.drawn_shape(layer)))
    return drawn


def draw(layer: Any, T: int, B: int, generator: torch.Generator | None) -> list[LayerMasks]:
    """The masks of each layer and direction of an LSTM, for T steps and a batch of B."""
    directions = 2 if layer.bidirectional else 1
    runs = layer.num_layers * directions
    on = noises_on(layer)
    if not on:
        return [LayerMasks()] * runs
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        onnx.refuse_drawing()
    in_last = [drawn for drawn in on if not drawn[0].between_layers]
    like, H, P = layer.weight_hh_l0, layer.hidden_size, layer.proj_size or layer.hidden_size
    where: dict[str, Any] = {"dtype": like.dtype, "device": like.device, "generator": generator}
    in_first, above = (sizes_by_name(T, B, I, H, P) for I in (layer.input_size, directions * P))
    return [
        _draw_run(on if k < runs - directions else in_last, in_first if k < directions else above, where)
        for k in range(runs)
    ]


def _draw_run(what: Sequence[Drawn], sizes: Sizes, where: dict[str, Any]) -> LayerMasks:
    """One layer's masks in one direction, in the table's order; ``where`` is noise's dtype, device and generator."""
    drawn = {}
    for row, p, shape in what:
        dropped, kept = row.values(p)
        drawn[row.field] = noise([sizes[size] for size in shape], p, dropped=dropped, kept=kept, **where)
    return LayerMasks(**drawn)


def masks_in_eval(layer: Any) -> LayerMasks:
    """What each layer and direction of an LSTM uses while its dropout is off: the expectation of zoneout."""
    expected = {}
    for row in IN_EVAL:
        if p := getattr(layer, row.keyword):
            size = layer.hidden_size if row.size == "H" else layer.proj_size or layer.hidden_size
            expected[row.field] = layer.weight_hh_l0.new_full((size,), row.expectation(p))
    return LayerMasks(**expected)


def cut(masks: LayerMasks, rows: slice, layer: MaskOptions) -> LayerMasks:
    """The masks of some samples, out of those that the layer drew for the whole batch."""
    of_rows: dict[str, Tensor] = {}
    for row in NOISES:
        mask = getattr(masks, row.field)
        if mask is not None and "B" in row.drawn_shape(layer):
            of_rows[row.field] = mask[..., rows, :]
    return masks._replace(**of_rows)
