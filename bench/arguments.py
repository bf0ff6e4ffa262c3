"""Values of the commands' options: what they may be, and how they are read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from bench.records import FORWARD_BACKWARD, INFERENCE, Size, name_of
from bench.shapes import SMALLEST_BOUND
from rnndrop_cuda import functional

DTYPES = {name_of(dtype): dtype for dtype in functional.KERNEL_DTYPES}
SWEPT_PHASES = {"training": FORWARD_BACKWARD, "inference": INFERENCE}


def positive(text: str) -> int:
    return _at_least(1, text)


def whole(text: str) -> int:
    return _at_least(0, text)


def probability(text: str) -> float:
    try:
        p = float(text)
    except ValueError:
        p = math.nan
    if not 0 < p < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {text!r}")
    return p


def size(text: str) -> Size:
    numbers = text.split(",")
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"expected four whole numbers T,B,I,H, got {text!r}")
    return Size(*map(positive, numbers))


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def gflop(text: str) -> float:
    value = seconds(text)
    if value < SMALLEST_BOUND:
        raise argparse.ArgumentTypeError(f"expected at least {SMALLEST_BOUND}, got {text!r}")
    return value


def add_sizes(group: argparse._ActionsContainer, otherwise: str = "") -> None:
    """otherwise: what --help says of the default."""
    what = f"may be given several times{otherwise}"
    group.add_argument("--size", type=size, action="append", default=[], metavar="T,B,I,H", help=what)


def add_drawn_shapes(
    parser: argparse.ArgumentParser, *, shapes: int, max_gflop: float, budget: float, threads: Sequence[int]
) -> None:
    """The options of a command that times shapes drawn at random, with its defaults."""
    parser.add_argument("--seed", type=int, default=0, help="of the shapes, the weights and the data (default: 0)")
    parser.add_argument("--shapes", type=positive, default=shapes, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--max-gflop",
        type=gflop,
        default=max_gflop,
        metavar="X",
        help=f"largest work of a shape in training (default: {max_gflop:g})",
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        default=budget,
        metavar="SECONDS",
        help=f"for a shape in a setting (default: {budget:g})",
    )
    of_threads = " ".join(map(str, threads))
    parser.add_argument(
        "--threads", nargs="+", type=positive, default=[*threads], metavar="N", help=f"(default: {of_threads})"
    )
    parser.add_argument("--phases", nargs="+", choices=SWEPT_PHASES, default=list(SWEPT_PHASES), help="(default: both)")


def drawn_shapes(args: argparse.Namespace) -> dict[str, object]:
    """These options as facts of a file of results."""
    return {
        "shapes": f"{args.shapes} shapes drawn from seed {args.seed}, up to {args.max_gflop:g} GFLOP in training",
        "timed": f"medians of calls in turn, some {args.budget:g} s a shape and setting",
    }


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return int(text)
