"""Times our LSTM module against nn.LSTM over shapes drawn at random: without dropout, with Gal's, with Semeniuta's.

Every shape is verified first: ours against nn.LSTM with the same weights, outputs and gradients, and where it is
cheap, each dropout against the python backend with the same masks. One that is wrong ends the run. Then nn.LSTM and
ours are called in turn, A B C D A B C D, for --budget seconds, without garbage collection. All settings are measured
in one process, one after another: torch.set_num_threads sets the threads between them.

In training a call is the forward and the gradients of x, weights and biases; inference is in eval, under no_grad and
without dropout. Where ours is slower, torch's profiler says how much of a call is spent within its ops.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from bench.arguments import DTYPES, SWEPT_PHASES, add_drawn_shapes, drawn_shapes, seconds
from bench.machine import check_out, load_averages, machine_facts, usable
from bench.records import Shape, SweepTiming, read, write
from bench.shapes import draw as draw_shapes
from bench.sweep_case import SweepCase, measure, verify
from bench.sweep_report import Setting, draw, ratios, slow_table, statistics_table
from bench.verification import VerificationError

SAME = ("shapes", "commit", "machine", "torch", "vector code")
"""Facts that a run must share with the one it continues."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.sweep argv...`; returns 0, 1 when a contender is wrong, 2 on wrong input, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    try:
        if args.show:
            show(args.show)
            return 0
        device, _ = usable("cpu", ["cpu"])
        check_out(args.out)
        command = shlex.join(["python", "-m", "bench.sweep", *argv])
        facts = {**machine_facts(device, command), **settings_of_run(args)}
        timings = begin(args, facts)
        done = run(args, facts, timings)
    except VerificationError as error:
        print(f"bench.sweep: {error}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError) as error:
        print(f"bench.sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.sweep: stopped; --continue measures the rest", file=sys.stderr)
        return 130
    if args.out and done:
        show(args.out)
    elif done:
        report(timings)
    return 0


def settings_of_run(args: argparse.Namespace) -> dict[str, object]:
    return {
        **drawn_shapes(args),
        "threads": "one process, torch.set_num_threads between the settings",
    }


def begin(args: argparse.Namespace, facts: dict[str, object]) -> list[SweepTiming]:
    """What the run to continue has measured; nothing otherwise. Raises ValueError if it is of another machine."""
    if not (args.resume and args.out and args.out.exists()):
        return []
    before, timings = read(args.out, SweepTiming)
    for name in SAME:
        if before.get(name) != str(facts.get(name)):
            raise ValueError(f"--continue: {args.out} has {name} {before.get(name)}, this run {facts.get(name)}")
    facts.update(before)
    return timings


def run(args: argparse.Namespace, facts: dict[str, object], timings: list[SweepTiming]) -> bool:
    """Measures what `timings` lacks and adds it there, writing --out after every shape. Says whether that was all."""
    start = time.monotonic()
    shapes = draw_shapes(args.seed, args.shapes, args.max_gflop)
    settings = [Setting(SWEPT_PHASES[p], d, t) for p, d, t in product(args.phases, args.dtypes, args.threads)]
    todo = list(product(settings, shapes))
    measured = {(Setting(t.phase, t.dtype, t.threads), t.shape) for t in timings}
    with_dropout = int(str(facts.get("shapes whose dropout was verified", 0)))
    for n, (setting, shape) in enumerate(todo, start=1):
        if (setting, shape) in measured:
            continue
        if time.monotonic() - start > args.stop_after:
            print(f"stopped after {args.stop_after:g} s; --continue measures the rest")
            return False
        of_shape, checked = measure_shape(shape, setting, args.seed, args.budget)
        with_dropout += checked
        timings += of_shape
        nn_lstm, *ours = (t.median_ms for t in of_shape)
        line = "  ".join(f"{nn_lstm / ms:.2f}" for ms in ours)
        print(f"[{n}/{len(todo)}] {setting}: {shape}: nn.LSTM {nn_lstm:.3g} ms, ratios {line}", flush=True)
        facts["shapes whose dropout was verified"] = with_dropout
        measured.add((setting, shape))
        facts["measured"] = f"{len(measured.intersection(todo))} of {len(todo)} cases"
        facts["load at the end"] = load_averages()
        if args.out:
            write(args.out, facts, timings)
    return True


def measure_shape(shape: Shape, setting: Setting, seed: int, budget: float) -> tuple[list[SweepTiming], bool]:
    """The timings, and whether those with dropout were verified too. VerificationError if ours is wrong."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(seed)
    case = SweepCase(shape, DTYPES[setting.dtype])
    checked = verify(case, setting.phase)
    return measure(case, setting.phase, budget), checked


def show(file: Path) -> None:
    """The tables on standard output, the picture beside the file."""
    facts, timings = read(file, SweepTiming)
    report(timings)
    png = file.with_suffix(".png")
    draw(png, ratios(timings), facts)
    print(f"\nmeasured: {file}\npicture: {png}")


def report(timings: Sequence[SweepTiming]) -> None:
    found = ratios(timings)
    print(f"\n{statistics_table(found)}\n\nSlower than nn.LSTM:\n\n{slow_table(found)}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="examples:\n"
        "  python -m bench.sweep --shapes 20 --max-gflop 1 --budget 0.2         a few minutes\n"
        "  python -m bench.sweep --seed 1 --out bench/results/sweep-seed1.csv   other shapes, some two hours\n"
        "  python -m bench.sweep --show bench/results/sweep-seed1.csv           its tables and picture again",
    )
    add_drawn_shapes(parser, shapes=200, max_gflop=60.0, budget=2.0, threads=[1, 2])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"], help="(default: both)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the timings here, and a picture beside it")
    parser.add_argument(
        "--continue", dest="resume", action="store_true", help="measure what --out lacks, on the same commit"
    )
    parser.add_argument(
        "--stop-after", type=seconds, default=math.inf, metavar="SECONDS", help="begin no shape after that time"
    )
    parser.add_argument("--show", type=Path, metavar="FILE.csv", help="measure nothing, show what was measured")
    return parser


if __name__ == "__main__":
    sys.exit(main())
