"""Times a training step of Keras' LSTM with `dropout` and `recurrent_dropout` beside rnndrop_cuda.keras.LSTM.

Both on Keras' torch backend, in float32, with the same weights; nn.LSTM without dropout beside them. A step is the
forward in training and the gradients of input and weights. Without dropout the two layers are first compared, outputs
and gradients, and if they differ by more than rounding the run ends.

    pip install '.[keras]'
    python -m bench.keras_layers --out bench/results/keras.csv
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.arguments import add_sizes, positive
from bench.correctness import relative_error
from bench.machine import check_out, machine_facts, usable
from bench.markdown import sizes_table
from bench.records import FORWARD_BACKWARD, FULL, KERAS, KERAS_OURS, NN_LSTM, Size, Timing, write
from bench.stopwatch import SHORTEST_MEASUREMENT_MS, cpu_milliseconds, no_garbage_collection, quartiles
from bench.verification import VerificationError

SIZES = [Size(*of_size) for of_size in ((32, 64, 100, 128), (100, 32, 128, 256), (200, 16, 64, 64))]
P = 0.3
"""Of both kinds of dropout."""
ALLOWED = 1e-4
"""Relative error between two float32 layers whose sums have different orders."""
Step = Callable[[], list[Tensor]]
"""A training step: the output and the gradients."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.keras_layers argv...`; returns 0, 1 when a layer is wrong, 2 on wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        device, _ = usable("cpu", ["cpu"])
        check_out(args.out)
        import keras
    except (ImportError, OSError, RuntimeError) as error:
        print(f"bench.keras_layers: {error}", file=sys.stderr)
        return 2
    facts = machine_facts(device, shlex.join(["python", "-m", "bench.keras_layers", *argv]))
    facts[KERAS] = keras.__version__
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    timings: list[Timing] = []
    try:
        for of_size in args.size or SIZES:
            timings += measure(of_size, args.threads, args.repeats)
    except VerificationError as error:
        print(f"bench.keras_layers: {error}", file=sys.stderr)
        return 1
    print(sizes_table(timings))
    if args.out:
        write(args.out, facts, timings)
        print(f"\nwritten: {args.out}")
    return 0


def layers(of_size: Size, p: float) -> dict[str, Any]:
    """Keras' layer and ours, with the same weights."""
    import keras

    from rnndrop_cuda.keras import LSTM

    options = {"return_sequences": True, "dropout": p, "recurrent_dropout": p}
    found = {KERAS: keras.layers.LSTM(of_size.H, **options), KERAS_OURS: LSTM(of_size.H, **options)}
    for layer in found.values():
        layer.build((of_size.B, of_size.T, of_size.I))
    found[KERAS_OURS].set_weights(found[KERAS].get_weights())
    return found


def step(layer: Any, x: Tensor) -> Step:
    """Of a Keras layer over x ``[B, T, I]``."""
    leaves = [x, *(weight.value for weight in layer.trainable_weights)]

    def run() -> list[Tensor]:
        y = layer(x, training=True)
        return [y, *torch.autograd.grad(y.sum(), leaves)]

    return run


def plain_step(of_size: Size, x: Tensor) -> Step:
    """Of nn.LSTM, which has no such dropout."""
    lstm = nn.LSTM(of_size.I, of_size.H, batch_first=True)
    leaves = [x, *lstm.parameters()]

    def run() -> list[Tensor]:
        y, _ = lstm(x)
        return [y, *torch.autograd.grad(y.sum(), leaves)]

    return run


def verify(of_size: Size, found: dict[str, Any], x: Tensor) -> None:
    """Compares the two layers, made without dropout. VerificationError if they differ by more than rounding."""
    wanted, results = (step(found[name], x)() for name in (KERAS, KERAS_OURS))
    for result, right in zip(results, wanted, strict=True):
        if (error := relative_error(result.detach(), right.detach().double())) > ALLOWED:
            raise VerificationError(
                f"{KERAS_OURS} ({of_size}) is wrong and was not timed: off by {error:.2e} of the norm"
            )


def measure(of_size: Size, threads: int, repeats: int) -> list[Timing]:
    """Times the three in turn. VerificationError if ours is wrong."""
    T, B, I, _ = of_size
    x = torch.randn(B, T, I, requires_grad=True)
    verify(of_size, layers(of_size, 0.0), x)
    calls = {NN_LSTM: plain_step(of_size, x), **{name: step(of, x) for name, of in layers(of_size, P).items()}}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with no_garbage_collection():
        numbers = {
            name: math.ceil(SHORTEST_MEASUREMENT_MS / min(cpu_milliseconds(call, 1) for _ in range(2)))
            for name, call in calls.items()
        }
        for _ in range(repeats):
            for name, call in calls.items():
                samples[name].append(cpu_milliseconds(call, numbers[name]))
    return [timing(of_size, threads, name, numbers[name], sample) for name, sample in samples.items()]


def timing(of_size: Size, threads: int, name: str, calls: int, sample: list[float]) -> Timing:
    kind = ("none", 0.0) if name == NN_LSTM else ("dropout and recurrent_dropout", P)
    return Timing(
        *of_size, dtype="float32", threads=threads, sequences=FULL, contender=name, backend="", dropout=kind[0],
        p=kind[1], p_g=0.0, repeats=len(sample), phase=FORWARD_BACKWARD, calls=calls, **quartiles(sample),
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.keras_layers", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    add_sizes(parser)
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="(default: 2)")
    parser.add_argument(
        "--repeats", type=positive, default=9, metavar="N", help="measurements of each layer (default: 9)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for data and weights (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the timings here, below a header of facts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
