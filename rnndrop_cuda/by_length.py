"""The batch in descending order of length, in which the CPU's kernels leave out what has ended.

They multiply the rows of a step from the first to the last that still runs (csrc/cpu/running_rows.h), so that sequences
of different lengths cost what they hold, where the longest comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rnndrop_cuda import ops
from rnndrop_cuda.functional import LayerStates
from rnndrop_cuda.noises import NOISES, LayerMasks
from rnndrop_cuda.stack import InitialStates, State, run_stack

FIELDS_OF_SAMPLES = {row.field for row in NOISES if any("B" in shape for shape in row.shapes)}


def run_longest_first(
    x: Tensor, hx: InitialStates, lengths: Tensor | None,
    all_weights: Sequence[Sequence[Tensor]], masks: Sequence[LayerMasks], *, backend: str, **options: Any,
) -> tuple[Tensor, State, list[LayerStates]]:  # fmt: skip
    """run_stack, over samples in the order that longest_first gives; what comes in and goes out is in the caller's."""
    H, P = all_weights[0][1].shape[0] // 4, all_weights[0][1].shape[1]
    directions = options["directions"]
    order = longest_first(x, lengths, H, P, len(all_weights) // directions, directions, backend)
    if order is None or lengths is None:
        return run_stack(x, hx, lengths, all_weights, masks, backend=backend, **options)
    h_0, c_0 = ([None if state is None else state.index_select(0, order) for state in states] for states in hx)
    masks = [select_masks(of_layer, order) for of_layer in masks]
    y, (h_n, c_n), states = run_stack(
        x.index_select(1, order), (h_0, c_0), lengths[order], all_weights, masks, backend=backend, **options
    )
    back = order.argsort()
    states = [LayerStates(*(state.index_select(1, back) for state in of_layer)) for of_layer in states]
    return y.index_select(1, back), (h_n.index_select(1, back), c_n.index_select(1, back)), states


def longest_first(
    x: Tensor, lengths: Tensor | None, H: int, P: int, layers: int, directions: int, backend: str
) -> Tensor | None:
    """The samples' order, [B], by csrc/by_length.h; None where they have it, or it would not pay. x: [T, B, I]."""
    T, B, I = x.shape
    if lengths is None or lengths.shape != (B,) or not _runs_on_the_cpu(x, lengths, backend):
        return None
    return ops.longest_first(lengths, T, I, H, P, layers, directions)


def _runs_on_the_cpu(x: Tensor, lengths: Tensor, backend: str) -> bool:
    """Whether these are the kernels' tensors, and their values can be read."""
    return (
        x.is_cpu
        and lengths.is_cpu
        and backend in ("auto", "cpu")
        and ops.have_kernels("cpu", x.dtype)
        and type(x) is type(lengths) is Tensor
        and ops.runs_as_written()
    )


def select_masks(masks: LayerMasks, order: Tensor) -> LayerMasks:
    """The masks of these samples, in that order; what the batch shares stays."""

    def select(field: str, mask: Tensor | None) -> Tensor | None:
        # Where samples have masks of their own they are the last dimension but one.
        of_samples = mask is not None and field in FIELDS_OF_SAMPLES and mask.dim() > 1 and mask.shape[-2] == len(order)
        return mask.index_select(-2, order) if mask is not None and of_samples else mask

    return LayerMasks(*map(select, masks._fields, masks))
