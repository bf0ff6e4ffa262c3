"""A few steps of everything the kernels can be asked for, at small odd sizes: food for compute-sanitizer.

    compute-sanitizer --tool memcheck python -m bench.small_case

Forward and backward in every dtype, with each shape of mask, lengths and reverse, each compared with the reference.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.correctness import in_float64, relative_error, tolerance
from rnndrop_cuda import dropout_mask, functional

T, B, I = 3, 5, 7
HIDDEN_SIZES = (16, 13)  # with vector loads, and without


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 1 where a result is wrong."""
    parser = argparse.ArgumentParser(
        prog="bench.small_case", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="(default: cuda)")
    device = torch.device(parser.parse_args(argv).device)
    torch.manual_seed(0)
    worst: dict[torch.dtype, float] = {}
    for dtype, H in itertools.product(functional.KERNEL_DTYPES, HIDDEN_SIZES):
        shapes_x, shapes_h = [None, (I,), (B, I)], [None, (H,), (B, H)]
        shapes_g = [None, (H,), (B, H), (T, B, H)]
        for k, (shape_x, shape_h, shape_g) in enumerate(itertools.product(shapes_x, shapes_h, shapes_g)):
            masks = {
                name: None if shape is None else dropout_mask(shape, 0.4, dtype=dtype)
                for name, shape in (("mask_x", shape_x), ("mask_h", shape_h), ("mask_g", shape_g))
            }
            lengths = torch.arange(B) % (T + 1) if k % 2 else None
            error = largest_error(device, dtype, H, {**masks, "lengths": lengths, "reverse": k % 3 == 0})
            worst[dtype] = max(error, worst.get(dtype, 0.0))
    for dtype, error in worst.items():
        verdict = "ok" if error <= tolerance(dtype, device) else "WRONG"
        print(f"{dtype}: largest relative error {error:.1e}, allowed {tolerance(dtype, device):.0e}: {verdict}")
    return int(any(error > tolerance(dtype, device) for dtype, error in worst.items()))


def largest_error(device: torch.device, dtype: torch.dtype, H: int, options: Mapping[str, Any]) -> float:
    """Over outputs and all gradients. The reference is computed on the CPU."""
    shapes = [(T, B, I), (B, H), (B, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    inputs = [(0.5 * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes]
    upstream = [torch.randn(shape).to(dtype) for shape in ((T, B, H), (B, H), (B, H))]
    expected = in_float64(inputs, upstream, options)

    there = [t.detach().to(device).requires_grad_() for t in inputs]
    options_there: dict[str, Any] = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()
    }
    output = functional.lstm_layer(*there, **options_there, backend=device.type)
    results = [*output, *torch.autograd.grad(output, there, [t.to(device) for t in upstream])]
    return max(relative_error(result.cpu(), wanted) for result, wanted in zip(results, expected, strict=True))


if __name__ == "__main__":
    sys.exit(main())
