"""Dropout masks, drawn with torch's generators.

A mask holds 0 with probability p and 1/(1-p) otherwise, so that its mean is 1. It is an ordinary tensor: it obeys
``torch.manual_seed`` and ``generator=``, and can be kept, given back and compared. Which masks there are is the table
in noises.py.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnndrop_cuda import onnx, ops
from rnndrop_cuda.checks import check_choice, check_drawing, check_probability, check_shape
from rnndrop_cuda.noises import IN_EVAL, NOISES, OPTIONS, LayerMasks, MaskOptions, Noise, Shape, sizes_by_name


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
        TypeError: shape is not a sequence of whole numbers.
        ValueError: p is not a probability, or dtype has whole numbers only.
    """
    if not torch.compiler.is_compiling():  # which cannot trace the check
        check_shape(shape)
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(f"dtype: expected a floating-point dtype, got {dtype}")
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
    if torch._C._get_tracing_state():  # TorchScript knows neither the op with sizes that vary nor a view of other bits
        keeps = torch.rand(shape, device=device, **source) >= drop / 2**16
        return torch.where(keeps, torch.full((), kept, dtype=dtype, device=device), dropped)
    if ops.have_kernels(device.type, dtype):
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
    """The noises whose probability is not 0 in an LSTM, in the table's order.

    Raises:
        ValueError: what was set after the layer was made is no probability, or none of an option's names.
    """
    # A loop, since torch.compile cannot trace := inside a comprehension.
    drawn = []
    for row in NOISES:
        if row.between_layers and not layer._drops_between_layers:
            continue
        if p := getattr(layer, row.keyword):
            drawn.append((row, check_probability(row.keyword, p), row.drawn_shape(layer)))
    for name, choices in OPTIONS.items() if drawn else ():
        check_choice(name, getattr(layer, name), choices)
    return drawn


class Plan(NamedTuple):
    """What a forward of an LSTM draws."""

    wanted: list[tuple[list[int], float, tuple[float, float]]]
    """Of each mask, in order: its shape, the probability p, and its values with p and otherwise."""
    places: list[list[int | None]]
    """Which of them each layer and direction has in each field of LayerMasks."""
    at_once: tuple[list[int], list[int], list[int], list[float], list[float]] | None
    """How many dimensions each has, their sizes, and what it drops, for the op that draws all of them; None where a p
    rounds to 0 or 1 and nothing is drawn."""


def plan(layer: Any, T: int, B: int) -> Plan:
    """``layer``: an LSTM, or its SETTINGS by their names."""
    directions = 2 if layer.bidirectional else 1
    runs, H, P = layer.num_layers * directions, layer.hidden_size, layer.proj_size or layer.hidden_size
    on = noises_on(layer)
    wanted: list[tuple[list[int], float, tuple[float, float]]] = []
    places: list[list[int | None]] = []
    for k in range(runs):
        sizes = sizes_by_name(T, B, layer.input_size if k < directions else directions * P, H, P)
        of_run = dict.fromkeys(LayerMasks._fields)
        for row, p, shape in on:
            if k < runs - directions or not row.between_layers:
                of_run[row.field] = len(wanted)
                wanted.append(([sizes[size] for size in shape], p, row.values(p)))
        places.append(list(of_run.values()))
    drops = [round(p * 2**16) for _, p, _ in wanted]
    if not all(0 < drop < 2**16 for drop in drops):
        return Plan(wanted, places, None)
    shapes, values = [shape for shape, _, _ in wanted], [of_mask for _, _, of_mask in wanted]
    sizes_of_all = [size for shape in shapes for size in shape]
    dropped, kept = [low for low, _ in values], [high for _, high in values]
    return Plan(wanted, places, ([len(shape) for shape in shapes], sizes_of_all, drops, dropped, kept))


SETTINGS = (
    *(row.keyword for row in NOISES), *MaskOptions.__annotations__,
    "num_layers", "bidirectional", "input_size", "hidden_size", "proj_size",
    "_drops_between_layers",
)  # fmt: skip
"""The attributes of an LSTM that a plan depends on."""
_settings_of = operator.attrgetter(*SETTINGS)


@functools.lru_cache(maxsize=256)
def _plan_for(settings: tuple[Any, ...], T: int, B: int) -> Plan:
    return plan(SimpleNamespace(**dict(zip(SETTINGS, settings, strict=True))), T, B)


def draw(layer: Any, T: int, B: int, generator: torch.Generator | None) -> list[LayerMasks]:
    """The masks of each layer and direction of an LSTM, for T steps and a batch of B."""
    if as_written := ops.runs_as_written():
        check_drawing(T, B, generator)
    what = _plan_for(_settings_of(layer), T, B) if as_written else plan(layer, T, B)
    if not what.wanted:
        return [LayerMasks()] * len(what.places)
    if not as_written:
        onnx.refuse_drawing()
    like = layer._weight("weight_hh_l0")  # whose device and dtype the masks have
    if as_written and what.at_once and ops.have_kernels("cpu" if like.is_cpu else like.device.type, like.dtype):
        # The bits of one by one, on the CPU; three calls of torch a mask are a sixth of a small layer's training step,
        # and reading the op's arguments by its schema takes as long as a small forward.
        masks = ops.draw_dropout_masks(*what.at_once, like, generator)
    else:
        masks = [
            noise(shape, p, dropped=dropped, kept=kept, dtype=like.dtype, device=like.device, generator=generator)
            for shape, p, (dropped, kept) in what.wanted
        ]
    return [LayerMasks(*[None if k is None else masks[k] for k in of_run]) for of_run in what.places]


def masks_in_eval(layer: Any) -> LayerMasks:
    """What each layer and direction of an LSTM uses while its dropout is off: the expectation of zoneout."""
    expected = {}
    for row in IN_EVAL:
        if p := getattr(layer, row.keyword):
            size = layer.hidden_size if row.size == "H" else layer.proj_size or layer.hidden_size
            mean = row.expectation(check_probability(row.keyword, p))
            expected[row.field] = layer._weight("weight_hh_l0").new_full((size,), mean)
    return LayerMasks(**expected)


def cut(masks: LayerMasks, rows: slice, layer: MaskOptions) -> LayerMasks:
    """The masks of some samples, out of those that the layer drew for the whole batch."""
    of_rows: dict[str, Tensor] = {}
    for row in NOISES:
        mask = getattr(masks, row.field)
        if mask is not None and "B" in row.drawn_shape(layer):
            of_rows[row.field] = mask[..., rows, :]
    return masks._replace(**of_rows)
