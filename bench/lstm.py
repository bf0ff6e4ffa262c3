"""Times one LSTM layer: ours on every backend beside nn.LSTM, the nn.LSTMCell loop and the GEMMs alone.

On CUDA also ours on every engine and with plans that are timed, the loop in a CUDA graph and compiled, and Haste and
FlashRNN if they are installed; whatever cannot run is listed with the reason. The CUDA grid also has a stack of two
layers in both directions.

The outputs and gradients of every contender are first compared with the reference in float64; one that is wrong ends
the run. Then all are warmed up and measured in turn, A B C A B C, in one process, so that what slows the machine down
slows all of them. What is timed: drawing the masks, forward, and for "forward+backward" the gradients of x, weights
and biases, given random gradients on y, h_n and c_n, new ones in every round. "inference" is the forward in eval and
under no_grad, without dropout; "masks" is drawing our module's masks and nothing else.

With lengths, the sequences of the batch have from 1 to T steps, half of T on average.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.arguments import DTYPES, add_sizes, positive, probability
from bench.gemms import floors
from bench.grids import GRIDS, RAGGED, Case
from bench.lineups import LINEUPS
from bench.machine import check_out, load_averages, machine_facts, usable
from bench.markdown import case_table
from bench.problems import Problem, dropouts
from bench.records import STACK, Timing, write
from bench.stopwatch import measure
from bench.verification import VerificationError, verify
from rnndrop_cuda import functional


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.lstm argv...`; returns 0, 1 when a contender is wrong, 2 on wrong input, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    if args.lengths and not args.size:
        parser().error("argument --lengths: expected --size beside it; the grids have cases with lengths of their own")
    try:
        device, backends = usable(args.device, args.backends)
        check_out(args.out)  # now: after minutes of timing is too late
    except (OSError, RuntimeError) as error:
        print(f"bench.lstm: {error}", file=sys.stderr)
        return 2
    facts = {
        **machine_facts(device, shlex.join(["python", "-m", "bench.lstm", *argv])),
        "timed": "mask drawing + forward (+ backward); median, quartiles and extremes of the repeats",
    }
    runs = [(threads, case) for case in cases(args) for threads in args.threads or [torch.get_num_threads()]]
    timings: list[Timing] = []
    torch.manual_seed(args.seed)
    try:
        for n, (threads, case) in enumerate(runs, start=1):
            print(f"\n[{n}/{len(runs)}] {case}, CPU threads: {threads}\n", flush=True)
            torch.set_num_threads(threads)
            of_case, left_out = time_case(case, device, backends, args)
            if left_out:
                facts[f"left out of {case}"] = "; ".join(left_out)
            timings += of_case
            print(case_table(of_case), flush=True)
            if args.out:  # after every case: a run that is cut short keeps what it has measured
                so_far = {"measured": f"{n} of {len(runs)} cases", "load at the end": load_averages()}
                write(args.out, {**facts, **so_far}, timings)
    except VerificationError as error:
        print(f"bench.lstm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = f"; {args.out} has the sizes that were finished" if args.out and timings else ""
        print(f"bench.lstm: stopped{kept}", file=sys.stderr)
        return 130
    if args.out:
        print(f"\nwritten: {args.out}")
    return 0


def cases(args: argparse.Namespace) -> list[Case]:
    """Those asked for by size, or those of the grid; in the dtypes asked for, or in their own."""
    asked = [Case(size, who=RAGGED) if args.lengths else Case(size) for size in args.size]
    asked = asked or GRIDS[args.grid or args.device]
    return [case._replace(dtype=dtype) for case in asked for dtype in args.dtype or [case.dtype]]


def time_case(
    case: Case, device: torch.device, backends: list[str], args: argparse.Namespace
) -> tuple[list[Timing], list[str]]:
    """The timings, and a line for each contender that was left out. VerificationError if one of the others is wrong."""
    ragged, stack = case.who == RAGGED, case.who == STACK
    problem = Problem(case.size, DTYPES[case.dtype], device, ragged=ragged, stack=stack)
    lineup = LINEUPS[device.type][case.who](problem, backends, dropouts(case.ps or args.p, case.ps or args.p_g))
    for line in problem.left_out:
        print(f"left out: {line}", flush=True)
    verify(problem, lineup)
    return measure(problem, [*lineup, *floors(problem)], args.repeats), problem.left_out


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnndrop bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="examples:\n"
        "  rnndrop bench --grid quick                                  one small size, a few seconds\n"
        "  rnndrop bench --out bench/results/cpu.csv                   what the committed tables are made from\n"
        "  rnndrop bench --size 32,128,300,128 --p 0.25 0.5 0.75       one size, three probabilities\n"
        "  rnndrop bench --size 200,64,300,256 --lengths               nn.LSTM packed and padded, ours with lengths\n"
        "  rnndrop bench --device cuda --dtype float16 --out gpu.csv   the CUDA grid, all in float16\n\n"
        "Outside a git checkout, $RNNDROP_COMMIT names the commit in the CSV.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--grid", choices=GRIDS, help="a named set of sizes and dtypes (default: the one of the device)")
    add_sizes(what)
    parser.add_argument("--lengths", action="store_true", help="with --size: sequences of random lengths")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, help="in place of the grid's own (default with --size: float32)"
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=functional.BACKENDS[1:],
        help="(default: the one of the device, and on the CPU python too)",
    )
    parser.add_argument(
        "--p", nargs="+", type=probability, default=[0.5], help="probabilities of Gal's dropout (default: 0.5)"
    )
    parser.add_argument(
        "--p-g", nargs="+", type=probability, default=[0.3], help="probabilities of Semeniuta's dropout (default: 0.3)"
    )
    parser.add_argument("--threads", nargs="+", type=positive, metavar="N", help="CPU threads (default: torch's own)")
    parser.add_argument(
        "--repeats", type=positive, default=15, metavar="N", help="measurements of each contender (default: 15)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for data, weights and masks (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the timings here, below a header of facts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
