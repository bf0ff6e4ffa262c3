"""Which CUDA engine runs a recurrence: to choose one, and to ask which it would be and why.

The choice is made in csrc/cuda/recurrence_plan.h. It is arithmetic, so one can ask without a GPU; where there is one,
its driver has a say in it, and with ``torch.backends.cudnn.benchmark`` its clock (csrc/cuda/gpu_plans.h).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import torch

from rnndrop_cuda import ops

ENGINES = ("auto", "stepwise", "block", "cluster", "grid", "multicast")
DTYPES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class GPU(NamedTuple):
    """What the choice of an engine needs to know of a GPU."""

    major: int
    """Compute capability."""
    multiprocessors: int
    shared_memory: int
    """Bytes available to one block."""


GPUS = {"h100": GPU(9, 132, 232448), "h200": GPU(9, 132, 232448), "a100": GPU(8, 108, 166912)}


@contextmanager
def cuda_engine(name: str) -> Iterator[None]:
    """Fix the engine that runs recurrences on CUDA, in the whole process, while the context lasts.

    Args:
        name: ``"block"``, ``"cluster"``, ``"grid"`` or ``"multicast"``, which run all steps in one launch with W_hh on
            chip; ``"stepwise"``, a GEMM and a kernel for each step; ``"auto"``, the fastest by our estimate. A shape
            that the engine cannot run falls back to stepwise; :func:`explain_engine` says why. A backward uses the
            engine that is set when it runs.

    Raises:
        ValueError: the name is none of these.
        RuntimeError: the kernels were not built.
    """
    kernels = _kernels()
    before = kernels.cuda_engine()
    kernels.set_cuda_engine(name)
    try:
        yield
    finally:
        kernels.set_cuda_engine(before)


def explain_engine(
    T: int, B: int, I: int, H: int, dtype: torch.dtype = torch.float32, *, tf32: bool = True, gpu: GPU | None = None
) -> str:
    """Which CUDA engine would run a layer of this shape, forward and backward, and why: one line for each.

    This is the choice by the speed model; with ``torch.backends.cudnn.benchmark`` a GPU may choose otherwise.

    Args:
        T, B, I, H: steps, batch, input and hidden features. I makes no difference: its GEMM is cuBLAS'.
        dtype: float64, float32, bfloat16 or float16.
        tf32: whether float32 products may be rounded to TF32, as torch.backends.cudnn.allow_tf32 has it.
        gpu: one of ``GPUS["h100"]``, ``["h200"]`` and ``["a100"]``; by default the current one, or an H100 where
            there is none. Whether all blocks that wait for each other fit on it at once is asked of the driver for the
            current one, and computed for any other.

    Raises:
        ValueError: a size is not positive, or there is no kernel for the dtype.
        RuntimeError: the kernels were not built.
    """
    for name, size in {"T": T, "B": B, "I": I, "H": H}.items():
        if size < 1:
            raise ValueError(f"{name}: expected a size of at least 1, got {size}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES.values())}, got {dtype}")
    kernels = _kernels()
    if gpu is None and torch.cuda.is_available() and ops.HAS_CUDA_KERNELS:
        forward, backward = kernels.explain_on_current_gpu(DTYPES[dtype], tf32, T, B, H)
    else:
        forward, backward = kernels.explain_cuda_engine(DTYPES[dtype], tf32, T, B, H, *(gpu or current_gpu()))
    return f"forward   {forward}\nbackward  {backward}"


def timed_plans() -> list[str]:
    """What ``torch.backends.cudnn.benchmark`` has had timed so far: a line for each plan that a GPU was fastest with.

    Empty where the kernels for CUDA were not built, or nothing has been timed yet.
    """
    return _kernels().timed_cuda_plans() if ops.HAS_CUDA_KERNELS else []


def current_gpu() -> GPU:
    """The current CUDA device, or an H100 where there is none."""
    if not torch.cuda.is_available():
        return GPUS["h100"]
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    shared_memory = facts.shared_memory_per_block_optin  # type: ignore[attr-defined]  # torch's stub lacks it
    return GPU(facts.major, facts.multi_processor_count, shared_memory)


def _kernels() -> ModuleType:
    if ops.WHY_NOT_LOADED:
        raise RuntimeError(f"no CUDA engine: {ops.WHY_NOT_LOADED} (`rnndrop info` says how to get it)")
    from rnndrop_cuda import _C

    return _C
