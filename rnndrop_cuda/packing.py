"""The forms in which a batch of sequences may come, and the one that the layers take: time first, padded, lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnndrop_cuda import checks, ops


def time_first(input: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """``[T, B, ...]`` from ``[B, T, ...]`` with batch_first, from ``[T, ...]`` without a batch."""
    if not batched:
        return input.unsqueeze(1)
    return input.transpose(0, 1) if batch_first else input


def as_it_came(sequence: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """The inverse of time_first."""
    if not batched:
        return sequence.squeeze(1)
    return sequence.transpose(0, 1) if batch_first else sequence


def padded(packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, B, ...]`` with zeros past the ends, in the caller's order; the lengths; each row's place among the T * B.

    By index, since pad_packed_sequence's backward goes over the whole batch at every change of length.

    Raises:
        ValueError: sorted_indices and unsorted_indices are not each other's inverse, on the CPU.
    """
    if torch._C._get_tracing_state():
        return _padded_in_a_trace(packed)
    data, T, B = packed.data, len(packed.batch_sizes), int(packed.batch_sizes[0])
    if ops.runs_as_written():
        checks.check_orders(packed.sorted_indices, packed.unsorted_indices, B)
    running = torch.arange(B, device=packed.batch_sizes.device) < packed.batch_sizes.unsqueeze(
        1
    )  # [T, B], longest first
    places, lengths = (on_device(t, data.device) for t in (running.flatten().nonzero().squeeze(1), running.sum(0)))
    if packed.sorted_indices is not None and packed.unsorted_indices is not None:
        order = packed.sorted_indices
        places, lengths = places - places % B + order[places % B], lengths[packed.unsorted_indices]
    # In place: autocast has a say in index_copy, and refuses a 16-bit type that is not its own.
    x = data.new_zeros(T * B, *data.shape[1:]).index_copy_(0, places, data).unflatten(0, (T, B))
    return x, lengths, places


def _padded_in_a_trace(packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
    """What ``padded`` gives, in operations on batch_sizes: the tracer would keep its length and its first value."""
    data, batch_sizes, order = packed.data, packed.batch_sizes, packed.unsorted_indices
    x, lengths = torch._VF._pad_packed_sequence(data, batch_sizes, False, 0.0, -1)
    running = torch.arange(x.shape[1], device=data.device) < batch_sizes.to(data.device).unsqueeze(1)
    places, lengths = running.flatten().nonzero().squeeze(1), lengths.to(data.device)
    if packed.sorted_indices is not None and order is not None:
        B = x.shape[1]
        places = places - places % B + packed.sorted_indices[places % B]
        x, lengths = x.index_select(1, order), lengths[order]
    return x, lengths, places


def packed_like(like: PackedSequence, y: Tensor, places: Tensor) -> PackedSequence:
    """The inverse of padded."""
    data = y.flatten(0, 1).index_select(0, places)
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def lengths_of(x: Tensor, lengths: Tensor | Sequence[int] | None) -> Tensor | None:
    """lengths as int64 on x's device; on a CPU a copy, since a backward will read it, whatever the caller writes there.

    Raises:
        TypeError: they are not integers.
    """
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor):
        try:
            lengths = torch.as_tensor(lengths, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:  # torch has all three, and none names the argument
            raise TypeError(f"lengths: expected a tensor or a list of integers, got {lengths!r}") from error
        if lengths.numel() == 0:  # torch takes an empty list for floats
            lengths = lengths.to(torch.int64)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    return on_device(lengths.to(torch.int64, copy=lengths.is_cpu), x.device)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """``values.to(device)``, for which the host does not wait: from memory that is not pinned it would, on CUDA."""
    if device.type == "cuda" and values.is_cpu and not torch.compiler.is_compiling():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
