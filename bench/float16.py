"""Times our LSTM module in float16 against itself in float32, over the shapes that bench.sweep draws.

On a CPU float16 is widened and multiplied in float32, which should cost next to nothing. Each shape is
verified in both dtypes as in bench.sweep, then both are called in turn, A B A B, for --budget seconds, without garbage
collection and without dropout.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch

from bench.arguments import SWEPT_PHASES, add_drawn_shapes, drawn_shapes
from bench.machine import check_out, machine_facts, usable
from bench.problems import NO_DROPOUT
from bench.records import FORWARD_BACKWARD, MODULE, Shape, SweepTiming, write
from bench.shapes import draw
from bench.sweep_case import Contender, SweepCase, in_turn, summary, verify
from bench.sweep_report import float16_table
from bench.verification import VerificationError

OURS = Contender(MODULE, NO_DROPOUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.float16 argv...`; returns 0, 1 when a result is wrong, 2 on wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    timings: list[SweepTiming] = []
    try:
        device, _ = usable("cpu", ["cpu"])
        check_out(args.out)
        facts = {
            **machine_facts(device, shlex.join(["python", "-m", "bench.float16", *argv])),
            **drawn_shapes(args),
        }
        for phase, threads, shape in product(args.phases, args.threads, draw(args.seed, args.shapes, args.max_gflop)):
            torch.set_num_threads(threads)
            torch.manual_seed(args.seed)
            of_shape = measure(shape, SWEPT_PHASES[phase], args.budget)
            timings += of_shape
            float32, float16 = (t.median_ms for t in of_shape)
            print(f"{phase}, {threads} threads: {shape}: {float32:.3g} ms, ratio {float16 / float32:.2f}", flush=True)
            if args.out:
                write(args.out, facts, timings)
    except VerificationError as error:
        print(f"bench.float16: {error}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError) as error:
        print(f"bench.float16: {error}", file=sys.stderr)
        return 2
    print(f"\n{float16_table(timings)}")
    return 0


def measure(shape: Shape, phase: str, budget: float) -> list[SweepTiming]:
    """In float32, then in float16. VerificationError if either is wrong."""
    cases = [SweepCase(shape, dtype) for dtype in (torch.float32, torch.float16)]
    for case in cases:
        verify(case, phase)
    calls: list[Callable[[], object]] = [lambda case=case: case.call(OURS, phase) for case in cases]

    def new_upstream() -> None:
        for case in cases:
            case.new_upstream()

    for case in cases:
        case.train(phase == FORWARD_BACKWARD)
    numbers, samples = in_turn(calls, budget, new_upstream)
    return [
        summary(case, phase, OURS, number, sample, (0.0, 0.0))
        for case, number, sample in zip(cases, numbers, samples, strict=True)
    ]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.float16", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    add_drawn_shapes(parser, shapes=150, max_gflop=1.0, budget=0.3, threads=[1])
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the timings here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
