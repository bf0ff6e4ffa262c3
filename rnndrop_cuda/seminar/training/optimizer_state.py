"""Whether an optimizer can go on from a state that was read.

torch takes any state, and fails, or computes something else, in the step after.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.training.rmsprop import ROW_STEP, LazyRMSprop


def check_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Tensor]], prefix: str) -> None:
    """ValueError where names, shapes or dtypes are not those the optimizer keeps, or a value is not finite.

    state: as in its state_dict. prefix: of the tensors' names in the checkpoint.
    """
    weights = [(weight, group) for group in optimizer.param_groups for weight in group["params"]]
    for index, values in state.items():
        if not 0 <= index < len(weights):
            raise ValueError(f"the checkpoint's optimizer has a state for weight {index} of {len(weights)}")
        kept = _kept(optimizer, *weights[index], by_rows=ROW_STEP in values)
        if values.keys() != kept.keys():
            expected, got = (", ".join(sorted(names)) or "nothing" for names in (kept, values))
            raise ValueError(f"the checkpoint's {prefix}{index}: expected {expected}, got {got}")
        for name, value in values.items():
            what = f"the checkpoint's {prefix}{index}.{name}"
            shape, dtype = kept[name]
            if [*value.shape] != shape:
                raise ValueError(f"{what}: expected shape {shape}, got {[*value.shape]}")
            if value.dtype != dtype:
                raise ValueError(f"{what}: expected {dtype}, got {value.dtype}")
            if not value.isfinite().all():
                raise ValueError(f"{what} has values that are not finite")


def _kept(
    optimizer: torch.optim.Optimizer, weight: Tensor, group: Mapping[str, object], by_rows: bool
) -> dict[str, tuple[list[int], torch.dtype]]:
    """Shape and dtype of what an optimizer of this kind keeps of such a weight, seen in the step of one of two rows."""
    small = nn.Parameter(weight.new_zeros([2] * weight.dim()))
    gradient = torch.zeros_like(small)
    small.grad = gradient.to_sparse(1) if by_rows and isinstance(optimizer, LazyRMSprop) else gradient
    other = type(optimizer)([{**group, "params": [small]}])  # type: ignore[call-arg]
    other.step()
    return {
        name: (
            [size if found == 2 else found for size, found in zip(weight.shape, value.shape, strict=False)],
            value.dtype,
        )
        for name, value in other.state[small].items()
    }
