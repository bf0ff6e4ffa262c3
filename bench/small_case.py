"""A few steps of everything the kernels can do, at small odd sizes, to be run under compute-sanitizer.

    compute-sanitizer --tool memcheck python -m bench.small_case

Forward and backward in every dtype, with each shape of mask, lengths and reverse, all compared with the reference. On
CUDA the cases go to the engines in turn.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import rnndrop_cuda
from bench.arguments import DTYPES
from bench.correctness import in_float64, relative_error, tolerance
from bench.lineups import ENGINES
from bench.records import name_of
from rnndrop_cuda import dropout_mask, functional

T, B, I = 3, 5, 7
HIDDEN_SIZES = (16, 13)  # with vector loads, and without


class Case(NamedTuple):
    dtype: torch.dtype
    tf32: bool
    H: int
    options: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 if a result is wrong."""
    parser = argparse.ArgumentParser(
        prog="bench.small_case", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="(default: cuda)")
    parser.add_argument("--engine", choices=ENGINES, help="CUDA engine for all cases (default: each in turn)")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), metavar="DTYPE", help=f"of {', '.join(DTYPES)}"
    )
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if args.engine and args.device == "cpu":
        parser.error("argument --engine: expected --device cuda")
    torch.manual_seed(0)
    engines = [args.engine] if args.engine else ENGINES
    worst: dict[str, tuple[float, float]] = {}
    for k, case in enumerate(cases()):
        if name_of(case.dtype) not in args.dtypes:
            continue
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=case.tf32):
            if device.type == "cuda":
                name = f"{case.dtype}{', tf32' * case.tf32}, {engines[k % len(engines)]}"
                with rnndrop_cuda.cuda_engine(engines[k % len(engines)]):
                    error = largest_error(device, case)
            else:
                name, error = str(case.dtype), largest_error(device, case)
            allowed = tolerance(case.dtype, device)
        worst[name] = max(error, worst.get(name, (0.0, 0.0))[0]), allowed
    for name, (error, allowed) in worst.items():
        verdict = "ok" if error <= allowed else "WRONG"
        print(f"{name}: largest relative error {error:.1e}, allowed {allowed:.0e}: {verdict}")
    return int(any(error > allowed for error, allowed in worst.values()))


def cases() -> Iterator[Case]:
    """One of each combination in each dtype."""
    numbers = itertools.count()
    dtypes = [*((dtype, False) for dtype in functional.KERNEL_DTYPES), (torch.float32, True)]
    for (dtype, tf32), H in itertools.product(dtypes, HIDDEN_SIZES):
        shapes_x, shapes_h = [None, (I,), (B, I)], [None, (H,), (B, H)]
        shapes_g = [None, (H,), (B, H), (T, B, H)]
        for shape_x, shape_h, shape_g in itertools.product(shapes_x, shapes_h, shapes_g):
            masks = {
                name: None if shape is None else dropout_mask(shape, 0.4, dtype=dtype)
                for name, shape in (("mask_x", shape_x), ("mask_h", shape_h), ("mask_g", shape_g))
            }
            k = next(numbers)
            # Lengths and reverse vary independently of the engine, which changes with every case.
            lengths = torch.arange(B) % (T + 1) if k // len(ENGINES) % 2 else None
            yield Case(dtype, tf32, H, {**masks, "lengths": lengths, "reverse": k % 3 == 0})


def largest_error(device: torch.device, case: Case) -> float:
    """Over outputs and all gradients. The reference is computed on the CPU."""
    dtype, _, H, options = case
    shapes = [(T, B, I), (B, H), (B, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    inputs = [(0.5 * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes]
    upstream = [torch.randn(shape).to(dtype) for shape in ((T, B, H), (B, H), (B, H))]
    expected = in_float64(inputs, upstream, options)

    there = [t.detach().to(device).requires_grad_() for t in inputs]
    options_there: Mapping[str, Any] = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()
    }
    output = functional.lstm_layer(*there, **options_there, backend=device.type)
    results = [*output, *torch.autograd.grad(output, there, [t.to(device) for t in upstream])]
    return max(relative_error(result.cpu(), wanted) for result, wanted in zip(results, expected, strict=True))


if __name__ == "__main__":
    sys.exit(main())
