"""The batch in descending order of length, in which the CPU's kernels leave out what has ended.

They multiply the rows of a step from the first to the last that still runs (csrc/cpu/running_rows.h), so that sequences
of different lengths cost what they hold, where the longest comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnndrop_cuda import ops
from rnndrop_cuda.noises import NOISES, LayerMasks

FIELDS_OF_SAMPLES = {row.field for row in NOISES if any("B" in shape for shape in row.shapes)}
# Copying an element of x or y takes as long as so many multiplications.
COPY = 48


def longest_first(x: Tensor, lengths: Tensor | None, H: int, outputs: int, backend: str) -> Tensor | None:
    """The samples' order, [B]; None where they have that order, or too little would be left out to pay for the copies.

    x: [T, B, I]. outputs: features of y.
    """
    T, B, I = x.shape
    if lengths is None or lengths.shape != (B,) or not _runs_on_the_cpu(x, lengths, backend):
        return None
    left_out = (T * B - int(lengths.sum())) * 4 * H * (I + H)
    if left_out <= COPY * T * B * (I + outputs) or bool((lengths[1:] <= lengths[:-1]).all()):
        return None
    return lengths.argsort(descending=True, stable=True)


def _runs_on_the_cpu(x: Tensor, lengths: Tensor, backend: str) -> bool:
    """Whether these are the kernels' tensors, and their values can be read."""
    return (
        x.is_cpu
        and lengths.is_cpu
        and backend in ("auto", "cpu")
        and ops.have_kernels("cpu", x.dtype)
        and type(x) is type(lengths) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def select_masks(masks: LayerMasks, order: Tensor) -> LayerMasks:
    """The masks of these samples, in that order; what the batch shares stays."""

    def select(field: str, mask: Tensor | None) -> Tensor | None:
        # Where samples have masks of their own they are the last dimension but one.
        of_samples = mask is not None and field in FIELDS_OF_SAMPLES and mask.dim() > 1 and mask.shape[-2] == len(order)
        return mask.index_select(-2, order) if mask is not None and of_samples else mask

    return LayerMasks(*map(select, masks._fields, masks))


def select_states(hx: tuple[Sequence[Tensor], Sequence[Tensor]], order: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """h_0 and c_0 of these samples, each [B, ...]."""
    h_0, c_0 = ([state.index_select(0, order) for state in states] for states in hx)
    return h_0, c_0
