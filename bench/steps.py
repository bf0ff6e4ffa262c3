"""Times inference with one LSTM layer, one step at a time and over sequences, beside ONNX Runtime if it is installed.

One step at a time is T=1 in a loop that carries the state from call to call, as in streaming, reinforcement learning
and generation: nn.LSTM, nn.LSTMCell, our module as it is and after pack_weights, ONNX Runtime's LSTM. All in float32,
in eval and under no_grad; the outputs of each are first compared with nn.LSTM's, and one that is wrong ends the run.

    pip install '.[bench]'
    python -m bench.steps --threads 2 --out bench/results/steps.csv

They are measured in turn. Both libraries' threads spin for a while after a call, which would slow down whoever comes
next on the same cores: there is a pause before each measurement, and calls that are not timed after the pause.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import onnx_lstm
from bench.arguments import add_sizes, positive
from bench.correctness import relative_error, tolerance
from bench.machine import check_out, load_averages, machine_facts, usable
from bench.markdown import sizes_table
from bench.records import FULL, INFERENCE, LSTM_CELL, MODULE, NN_LSTM, ONNX_RUNTIME, PACKED_MODULE, Size, Timing, write
from bench.stopwatch import SHORTEST_MEASUREMENT_MS, cpu_milliseconds, no_garbage_collection, quartiles
from bench.verification import VerificationError
from rnndrop_cuda import LSTM, pack_weights

ONE_STEP = [Size(1, *rest) for rest in ((1, 128, 128), (16, 256, 512), (1, 256, 512), (8, 64, 256), (64, 128, 128))]
SEQUENCES = [
    Size(*of_size)
    for of_size in (
        (128, 1, 256, 512),
        (32, 128, 300, 128),
        (64, 1, 128, 128),
        (400, 16, 128, 512),
        (200, 64, 300, 256),
    )
]
PAUSE = 0.1
"""Seconds, longer than either library's threads spin: after 0.02, nn.LSTM next to ONNX Runtime took twice its time."""
VERIFIED_CALLS = 3
Layer = Callable[[Any], tuple[Any, Any]]
"""From a state to the output and the next state."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.steps argv...`; returns 0, 1 when a contender is wrong, 2 on wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    try:
        device, _ = usable("cpu", ["cpu"])
        check_out(args.out)
    except (OSError, RuntimeError) as error:
        print(f"bench.steps: {error}", file=sys.stderr)
        return 2
    facts = machine_facts(device, shlex.join(["python", "-m", "bench.steps", *argv]))
    facts[ONNX_RUNTIME] = onnx_runtime_version()
    timings: list[Timing] = []
    torch.manual_seed(args.seed)
    try:
        for threads in args.threads:
            torch.set_num_threads(threads)
            of_threads: list[Timing] = []
            for of_size in args.size or [*ONE_STEP, *SEQUENCES]:
                of_threads += measure(of_size, threads, args.repeats)
            print(f"\n{threads} thread{'s' * (threads > 1)}, milliseconds (nn.LSTM's time / this):\n")
            print(sizes_table(of_threads), flush=True)
            timings += of_threads
    except VerificationError as error:
        print(f"bench.steps: {error}", file=sys.stderr)
        return 1
    if args.out:
        write(args.out, {**facts, "load at the end": load_averages()}, timings)
        print(f"\nwritten: {args.out}")
    return 0


def onnx_runtime_version() -> str:
    try:
        import onnx  # noqa: F401  the models are written with it
        import onnxruntime
    except ModuleNotFoundError as error:
        return f"left out, {error.name} is not installed"
    return str(onnxruntime.__version__)


def layers(of_size: Size, threads: int) -> tuple[dict[str, Layer], tuple[Tensor, Tensor]]:
    """The contenders by name, all with the same weights and input, and the state to begin with."""
    T, B, I, H = of_size
    lstm = nn.LSTM(I, H).eval()
    x, hx = torch.randn(T, B, I), (torch.randn(1, B, H), torch.randn(1, B, H))
    ours, packed = LSTM.from_torch(lstm, backend="cpu"), LSTM.from_torch(lstm, backend="cpu")
    pack_weights(packed)
    found: dict[str, Layer] = {
        NN_LSTM: lambda hx: lstm(x, hx),
        MODULE: lambda hx: ours(x, hx),
        PACKED_MODULE: lambda hx: packed(x, hx),
    }
    if T == 1:
        found[LSTM_CELL] = one_cell(lstm, x)
    if onnx_runtime_version()[0].isdigit():
        found[ONNX_RUNTIME] = onnx_lstm.layer(onnx_lstm.session(lstm, threads), x)
    return found, hx


def one_cell(lstm: nn.LSTM, x: Tensor) -> Layer:
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size)
    cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh = lstm.all_weights[0]
    x_0 = x[0]

    def layer(hx: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, c = cell(x_0, hx)
        return h, (h, c)

    return layer


def first_state(name: str, hx: tuple[Tensor, Tensor]) -> Any:
    """In the form that the contender takes and returns."""
    if name == ONNX_RUNTIME:
        return hx[0].numpy(), hx[1].numpy()
    return (hx[0][0], hx[1][0]) if name == LSTM_CELL else hx


class Carrying:
    """A call of a layer; at T=1 from the state that the last call returned."""

    def __init__(self, layer: Layer, hx: Any, carries: bool) -> None:
        self.layer, self.hx, self.carries = layer, hx, carries

    def __call__(self) -> tuple[Any, Any, Any]:
        y, hx = self.layer(self.hx)
        if self.carries:
            self.hx = hx
        return y, *hx


def verify(of_size: Size, found: dict[str, Layer], hx: tuple[Tensor, Tensor]) -> None:
    """Compares y, h_n and c_n of some calls with nn.LSTM's. VerificationError if they differ by more than rounding."""
    results = {}
    for name, layer in found.items():
        call = Carrying(layer, first_state(name, hx), of_size.T == 1)
        results[name] = [torch.as_tensor(t).flatten() for _ in range(VERIFIED_CALLS) for t in call()]
    allowed = tolerance(torch.float32, torch.device("cpu"))
    for name, tensors in results.items():
        for result, wanted in zip(tensors, results[NN_LSTM], strict=True):
            if (error := relative_error(result, wanted.double())) > allowed:
                raise VerificationError(
                    f"{name} ({of_size}) is wrong and was not timed: off by {error:.2e} of the norm"
                )


@torch.no_grad()
def measure(of_size: Size, threads: int, repeats: int) -> list[Timing]:
    """Times every contender in turn. VerificationError if one of them is wrong."""
    found, hx = layers(of_size, threads)
    verify(of_size, found, hx)
    calls = {name: Carrying(layer, first_state(name, hx), of_size.T == 1) for name, layer in found.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    numbers = dict.fromkeys(calls, 1)
    with no_garbage_collection():
        for round in range(-1, repeats):
            for name, call in calls.items():
                time.sleep(PAUSE)
                ms = cpu_milliseconds(call, max(1, numbers[name] // 4))
                if round < 0:
                    numbers[name] = math.ceil(SHORTEST_MEASUREMENT_MS / cpu_milliseconds(call, 1 + (ms < 1) * 4))
                else:
                    samples[name].append(cpu_milliseconds(call, numbers[name]))
    return [timing(of_size, threads, name, numbers[name], sample) for name, sample in samples.items()]


def timing(of_size: Size, threads: int, name: str, calls: int, sample: list[float]) -> Timing:
    return Timing(
        *of_size,
        dtype="float32",
        threads=threads,
        sequences=FULL,
        contender=name,
        backend="cpu" if name in (MODULE, PACKED_MODULE) else "",
        dropout="none",
        p=0.0,
        p_g=0.0,
        repeats=len(sample),
        phase=INFERENCE,
        calls=calls,
        **quartiles(sample),
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.steps", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    add_sizes(parser)
    parser.add_argument("--threads", nargs="+", type=positive, default=[2], metavar="N", help="(default: 2)")
    parser.add_argument(
        "--repeats", type=positive, default=15, metavar="N", help="measurements of each contender (default: 15)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for data and weights (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the timings here, below a header of facts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
