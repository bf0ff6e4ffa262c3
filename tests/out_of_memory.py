"""Every allocation of the CPU's ops fails in turn: each time there is an error, and then the same bits as before.

Where one alone fails, memory kept from earlier calls may make up for it.

A program of its own, `python out_of_memory.py THREADS DTYPE`, with failing_memory.cpp's library preloaded: one that
aborts or hangs is seen from outside, by system/test_out_of_memory.py.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from rnndrop_cuda import LSTM, ops
from tests.problems import CONSTANTS, INPUTS, OUTPUTS, random_problem

# T, B, I, H: batches to share out; units; and too few rows to pack a weight for.
SIZES = [(6, 20, 24, 40), (9, 6, 40, 64), (2, 3, 64, 130)]
MASKS = ["none", "gal-batch", "gal-sample", "semeniuta-shared", "untied-batch", "all"]
Call = Callable[[], "list[Tensor]"]


def layer_calls(sizes: tuple[int, ...], dtype: torch.dtype, masks: str, *, proj: int = 0) -> Iterator[Call]:
    """The forward that saves, the one that does not, and the backward."""
    problem = random_problem(*sizes, masks=masks, proj=proj, lengths=True, reverse=True, dtype=dtype)
    inputs = [problem.inputs.get(name) for name in (*INPUTS, "W_hr")]
    tensors = [*inputs, *(problem.options.get(name) for name in CONSTANTS)]
    saved = torch.ops.rnndrop.lstm_layer(*tensors, True, True)
    upstream = [problem.upstream[name] for name in OUTPUTS]
    upstream[1:] = [upstream[1].to(dtype), upstream[2].to(saved[2].dtype)]
    forward, backward = torch.ops.rnndrop.lstm_layer, torch.ops.rnndrop.lstm_layer_backward
    yield partial(forward, *tensors, True, True)
    yield partial(forward, *tensors, True, False)
    y, _, _, gates, c, h_full = saved
    yield partial(backward, *tensors, True, y, gates, c, h_full, *upstream, True, True)


def plain_calls(sizes: tuple[int, ...], dtype: torch.dtype) -> Iterator[Call]:
    """Two directions, which two threads run at once, with weights as they are and packed; packing them; lengths."""
    T, B, I, H = sizes
    layer = LSTM(I, H, bidirectional=True, dtype=dtype).eval().requires_grad_(False)
    x = torch.randn(T, B, I, dtype=dtype)

    def call(packed: object, lengths: object = None, sequences: object = x) -> list[Tensor]:
        weights = layer, layer._parameters, layer._all_weights, layer._flat_weights
        is_packed = sequences is not x
        y, hx = ops.plain_call(
            sequences, is_packed, None, lengths, *weights, I, H, 0, True, False, None, packed, "auto", None
        )
        return [y, *hx]

    weights = [weight for of_run in layer._weights() for weight in of_run[:2]]
    yield partial(call, None)
    yield partial(call, ops.pack_layers(weights))
    yield lambda: call(ops.pack_layers(weights))
    lengths = [1 + b % T for b in range(B)]
    yield partial(call, None, lengths)
    yield partial(call, None, None, pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))


def training_calls(sizes: tuple[int, ...], dtype: torch.dtype) -> Iterator[Call]:
    """Two directions, their masks and their gradients: the module's forward and the node's backward."""
    T, B, I, H = sizes
    layer = LSTM(I, H, bidirectional=True, weight_dropout=0.5, dtype=dtype)
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=True)

    def train() -> list[Tensor]:
        torch.manual_seed(0)
        y, (h_n, _) = layer(x)
        return [y, *torch.autograd.grad((y, h_n), [x, *layer.parameters()], (y.detach(), h_n.detach()))]

    yield train


def mask_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Large enough for several threads."""
    seeds = torch.arange(6, dtype=torch.int32).view(2, 3)
    yield lambda: [torch.ops.rnndrop.expand_dropout_mask(seeds, (300, 200), 1 << 15, 0.0, 2.0, dtype)]

    def draw() -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return torch.ops.rnndrop.draw_dropout_masks(
            [2, 1], [300, 200, 7], [1 << 15, 9], [0.0, 0.0], [2.0, 1.0], dtype, generator=generator
        )

    yield draw


def fail_each(library: ctypes.CDLL, call: Call, *, and_all_after: bool) -> int:
    """How many allocations the call makes."""
    expected = call()
    n = 0
    while True:
        result = error = None
        library.arm(n, and_all_after)
        try:
            result = call()
        except (MemoryError, RuntimeError) as caught:
            error = caught
        n_failed = library.disarm()
        if n_failed and and_all_after and error is None:
            raise AssertionError(f"allocation {n} failed, and nobody noticed")
        if error is not None and not n_failed:
            raise error
        if result is None:
            result = call()
        if not all(torch.equal(*pair) for pair in zip(result, expected, strict=True)):
            raise AssertionError(f"other bits after a failure of allocation {n}")
        if not n_failed:
            return n
        n += 1


def count_made_up_for(library: ctypes.CDLL, dtype: torch.dtype) -> int:
    """How many single failures do no harm to a call that finds memory kept from smaller ones, none of it its size."""
    small, *_ = layer_calls((2, 64, 256, 256), dtype, "none")
    large, *_ = layer_calls((2, 64, 256, 640), dtype, "none")
    n = made_up_for = 0
    while True:
        small()
        library.arm(n, False)
        try:
            large()
        except (MemoryError, RuntimeError):
            library.disarm()
        else:
            if not library.disarm():
                return made_up_for
            made_up_for += 1
        n += 1


def main(threads: str, dtype_name: str) -> None:
    """Prints how often memory was short."""
    faulthandler.dump_traceback_later(150, exit=True)
    torch.manual_seed(0)
    torch.set_num_threads(int(threads))
    dtype = getattr(torch, dtype_name)
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.arm.argtypes = ctypes.c_int64, ctypes.c_bool
    library.disarm.restype = ctypes.c_int64
    if not count_made_up_for(library, dtype):
        raise AssertionError("memory was short, and none of what is kept was given back")
    calls = list(mask_calls(dtype))
    for sizes in SIZES:
        for masks in MASKS:
            calls += layer_calls(sizes, dtype, masks)
        calls += layer_calls(sizes, dtype, "all", proj=sizes[-1] // 2)
        calls += plain_calls(sizes, dtype)
    n = sum(fail_each(library, call, and_all_after=both) for call in calls for both in (False, True))
    for sizes in SIZES:  # torch's node of a C++ function ends the process where all fails
        n += sum(fail_each(library, call, and_all_after=False) for call in training_calls(sizes, dtype))
    print(n, "failures")


if __name__ == "__main__":
    main(*sys.argv[1:])
