"""Both directions of a layer at once, on two CUDA streams."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def has_streams(x: Tensor) -> bool:
    """Whether work on x may go to another CUDA stream: not while it is only traced or mapped."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or type(x) is not Tensor
    return x.is_cuda and not traced


def at_once(
    first: Callable[[], tuple[Any, ...]],
    second: Callable[[], tuple[Any, ...]],
    device: torch.device,
    used: Iterable[Tensor | None],
) -> list[tuple[Any, ...]]:
    """The results of both, the second computed from the tensors ``used`` on a stream of its own.

    Only events order the two, so that a CUDA graph can capture them. Autograd runs the second's backward on that
    stream too, and may have freed what it used by then; so the allocator is told, and does not reuse that memory before
    the stream is done with it. Two launches that want all multiprocessors run one after the other and cannot block each
    other half started: a cooperative launch begins when there is room for all of its blocks, a cluster for all of its.
    """
    here, side = torch.cuda.current_stream(device), side_stream(device, threading.get_ident())
    side.wait_stream(here)  # before the first is launched, or it would wait for that as well
    for tensor in used:
        if tensor is not None and tensor.device == device:  # lstm_layer refuses any other
            tensor.record_stream(side)
    of_first = first()
    with torch.cuda.stream(side):
        of_second = second()
    here.wait_stream(side)
    for tensor in tree_leaves(of_second):
        tensor.record_stream(here)
    return [of_first, of_second]


@functools.cache
def side_stream(device: torch.device, thread: int) -> torch.cuda.Stream:
    """One for each device and thread, since cuBLAS keeps a workspace for every stream."""
    return torch.cuda.Stream(device)
