"""Times one LSTM layer: ours on every backend beside nn.LSTM, the nn.LSTMCell loop and the GEMMs alone.

On CUDA also ours on every engine, the loop in a CUDA graph and compiled, and Haste and FlashRNN where they import; who
cannot run is named, with the reason. The grid of CUDA has two layers in both directions too.

Every contender is first compared with the reference in float64, outputs and gradients; one that is wrong ends the
run. Then all are warmed up and measured in turn, A B C A B C, in one process, so that what slows the machine down
slows all of them. What is timed: drawing the masks, forward, and with "forward+backward" the gradients of x, weights
and biases for random gradients on y, h_n and c_n, new ones in every round. "inference" is the forward in eval and
under no_grad, without dropout; "masks" is their drawing alone, of our module.

With lengths, the sequences of the batch have from 1 to T steps, half of T on average.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from bench import contenders, tables
from bench.contenders import Contender, Problem, Size, VerificationError, dropouts, floors, verify
from bench.records import CELL_LOOP, INFERENCE, PHASES, STACK, Timing, write
from rnndrop_cuda import functional, ops
from rnndrop_cuda.files import check_writable
from rnndrop_cuda.provenance import facts as run_facts

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in functional.KERNEL_DTYPES}


class Case(NamedTuple):
    """What is timed together."""

    size: Size
    dtype: str = "float32"
    who: str = "all"
    """Which contenders: a key of the device's WHO."""
    ps: tuple[float, ...] = ()
    """Probabilities of either kind of dropout, in the place of --p and --p-g."""

    def __str__(self) -> str:
        form = {RAGGED: ", lengths from 1 to T", STACK: f", {STACK}"}.get(self.who, "")
        return f"{self.size}, {self.dtype}{form}"


RAGGED = "ragged"
OF_CPU = {
    "all": contenders.layers,
    "main": contenders.main_layers,
    RAGGED: contenders.ragged_layers,
    STACK: contenders.stack_layers,
}
OF_CUDA = OF_CPU | {"all": contenders.cuda_layers, RAGGED: contenders.cuda_ragged_layers}
WHO = {"cpu": OF_CPU, "cuda": OF_CUDA}

SEMINAR = Size(32, 128, 300, 128)
LONG = Size(200, 64, 300, 256)
CENTRE = Size(64, 64, 128, 128)
"""Of the scaling curves, which change one of its sizes, or p, and keep the others."""


def scaling() -> list[Case]:
    def around(**sizes: Sequence[int]) -> list[Case]:
        return [Case(CENTRE._replace(**{name: n}), who="main") for name, ns in sizes.items() for n in ns]

    return [
        Case(SEMINAR, "float32", "main"),
        Case(SEMINAR, "bfloat16", "main"),
        Case(CENTRE, who="main", ps=(0.1, 0.25, 0.3, 0.5, 0.75, 0.9)),
        *around(T=(16, 32, 128, 256, 512), B=(1, 4, 16, 256), I=(32, 64, 256, 512), H=(32, 64, 256, 512)),
    ]


GRIDS: dict[str, list[Case]] = {
    "quick": [Case(Size(16, 32, 64, 64))],
    "cpu": [
        Case(SEMINAR),
        Case(LONG, who="main"),
        Case(Size(400, 16, 128, 512), who="main"),
        Case(Size(64, 1, 128, 128)),
        Case(LONG, who=RAGGED),
    ],
    "scaling": scaling(),
    "cuda": [
        Case(SEMINAR),
        Case(SEMINAR, "bfloat16"),
        Case(Size(512, 64, 256, 256), "bfloat16"),
        Case(Size(512, 64, 256, 256), "bfloat16", RAGGED),
        Case(Size(256, 64, 256, 256), "bfloat16", STACK),
        Case(Size(512, 64, 512, 512), "bfloat16"),
        Case(Size(1024, 16, 768, 768), "float16"),
        Case(Size(512, 32, 1024, 1024), "bfloat16"),
    ],
}
WARM_UP_ROUNDS = 2
SHORTEST_MEASUREMENT_MS = 5.0
LOOPS_EVERY = 3
"""How many rounds from one measurement of a loop in Python to the next, so that a run ends in minutes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.lstm argv...`; returns 0, 1 when a contender is wrong, 2 on wrong input, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    if args.lengths and not args.size:
        parser().error("argument --lengths: expected --size beside it; a grid has cases with lengths of its own")
    try:
        device, backends = usable(args.device, args.backends)
        check_out(args.out)  # now: after minutes of timing is too late
    except (OSError, RuntimeError) as error:
        print(f"bench.lstm: {error}", file=sys.stderr)
        return 2
    cases = [Case(size, who=RAGGED if args.lengths else "all") for size in args.size]
    cases = cases or GRIDS[args.grid or args.device]
    cases = [case._replace(dtype=dtype) for case in cases for dtype in args.dtype or [case.dtype]]
    facts = {
        **machine_facts(device, shlex.join(["python", "-m", "bench.lstm", *argv])),
        "timed": "mask drawing + forward (+ backward); median, quartiles and extremes of the repeats",
    }
    runs = [(threads, case) for case in cases for threads in args.threads or [torch.get_num_threads()]]
    timings: list[Timing] = []
    torch.manual_seed(args.seed)
    try:
        for n, (threads, case) in enumerate(runs, start=1):
            print(f"\n[{n}/{len(runs)}] {case}, CPU threads: {threads}\n", flush=True)
            torch.set_num_threads(threads)
            ragged, stack = case.who == RAGGED, case.who == STACK
            problem = Problem(case.size, DTYPES[case.dtype], device, ragged=ragged, stack=stack)
            layers = WHO[device.type][case.who](problem, backends, dropouts(case.ps or args.p, case.ps or args.p_g))
            for line in problem.left_out:
                print(f"left out: {line}", flush=True)
            if problem.left_out:
                facts[f"left out of {case}"] = "; ".join(problem.left_out)
            verify(problem, layers)
            timings += (of_case := measure(problem, [*layers, *floors(problem)], args.repeats))
            print(tables.case_table(of_case), flush=True)
            if args.out:  # now: a run that is cut short leaves what it has
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


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.lstm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="examples:\n"
        "  rnndrop bench --grid quick                                  one small size, a few seconds\n"
        "  rnndrop bench --out bench/results/cpu.csv                   what the README's table is made from\n"
        "  rnndrop bench --size 32,128,300,128 --p 0.25 0.5 0.75       one size, three probabilities\n"
        "  rnndrop bench --size 200,64,300,256 --lengths               nn.LSTM packed and padded, ours with lengths\n"
        "  rnndrop bench --device cuda --dtype float16 --out gpu.csv   the CUDA grid, all in float16\n\n"
        "Where there is no git to ask, $RNNDROP_COMMIT names the commit in the CSV.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--grid", choices=GRIDS, help="sizes and their dtypes (default: the device's)")
    what.add_argument("--size", type=size, action="append", default=[], metavar="T,B,I,H", help="may be repeated")
    parser.add_argument("--lengths", action="store_true", help="with --size: sequences of random lengths")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, help="instead of the grid's (default for --size: float32)"
    )
    parser.add_argument(
        "--backends", nargs="+", choices=functional.BACKENDS[1:], help="(default: the device's; on the CPU python too)"
    )
    parser.add_argument("--p", nargs="+", type=probability, default=[0.5], help="of Gal's dropout (default: 0.5)")
    parser.add_argument("--p-g", nargs="+", type=probability, default=[0.3], help="of Semeniuta's (default: 0.3)")
    parser.add_argument("--threads", nargs="+", type=positive, metavar="N", help="CPU threads (default: torch's own)")
    parser.add_argument("--repeats", type=positive, default=15, metavar="N", help="(default: 15)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and masks (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="where to write the timings, below the facts")
    return parser


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


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


def usable(device: str, asked: list[str] | None) -> tuple[torch.device, list[str]]:
    """The device and the backends to time; RuntimeError where one cannot run: nothing is left out in silence."""
    if importlib.util.find_spec("tqdm") is None:
        raise RuntimeError("tqdm is not installed: pip install rnndrop_cuda[demo]")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("--device cuda: torch sees no CUDA device (`rnndrop info` says more)")
    # On CUDA the Python path is thousands of launches a call, beside which nothing else would find the time.
    backends = asked or ([device, "python"] if device == "cpu" else [device])
    for name in backends:
        if name not in (device, "python"):
            raise RuntimeError(f"--backends {name} does not run on --device {device}")
        if why := functional.usable_backends()[name]:
            raise RuntimeError(f"backend {name} cannot run: {why}; `--backends python` leaves it out")
    return torch.device(device, 0) if device == "cuda" else torch.device(device), backends


def check_out(out: Path | None) -> None:
    """OSError where the file cannot be written."""
    if out is None:
        return
    check_writable(out.parent)
    if out.is_dir():
        raise IsADirectoryError(f"--out {out}: expected a file, this is a folder")


def machine_facts(device: torch.device, command: str) -> dict[str, object]:
    """Everything that the timings depend on besides the settings."""
    facts = run_facts(device, command)
    del facts["threads"]  # a column
    facts["unusable backends"] = "; ".join(f"{name}: {why}" for name, why in facts["unusable backends"].items())
    if facts["commit"] == "unknown":
        facts["commit"] = os.environ.get("RNNDROP_COMMIT", "unknown")
    facts["cuda"] = torch.version.cuda or "none"
    if not ops.WHY_NOT_LOADED:
        from rnndrop_cuda import _C

        facts["vector code"] = _C.vector_isa()
    if device.type == "cuda":
        # The loop and the floor go through cuBLAS, whose switch for TF32 is another one: all get nn.LSTM's.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        facts["float32 GEMMs on cuda"] = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
        facts["cudnn"] = torch.backends.cudnn.version()
    facts["load at the start"] = load_averages()
    return facts


def load_averages() -> str:
    """Over 1, 5 and 15 minutes: well above the threads used, the machine was not ours alone."""
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


# ---------------------------------------------------------------- measuring


def measure(problem: Problem, contenders: Sequence[Contender], repeats: int) -> list[Timing]:
    """Times every contender in every phase that it has, in turn."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # here: it comes with the demo extra only

    stopwatch = cuda_stopwatch(problem.device) if problem.device.type == "cuda" else cpu_milliseconds
    timings = []
    for phase in PHASES:
        timed = [contender for contender in contenders if phase in contender.calls]
        calls = [contender.calls[phase] for contender in timed]
        problem.modules.train(phase != INFERENCE)
        numbers = [1] * len(calls)
        samples: list[list[float]] = [[] for _ in calls]
        rounds = tqdm(range(-WARM_UP_ROUNDS, repeats), desc=f"{problem.size}: {phase}", leave=False, disable=None)
        with no_garbage_collection():
            for round in rounds:
                problem.new_upstream()
                for k, call in enumerate(calls):
                    if is_loop(timed[k]) and round > 0 and round % LOOPS_EVERY:
                        continue
                    with timed[k].running():
                        milliseconds = stopwatch(call, numbers[k])
                    if round >= 0:
                        samples[k].append(milliseconds)
                    elif problem.device.type == "cpu":
                        numbers[k] = max(1, math.ceil(SHORTEST_MEASUREMENT_MS / milliseconds))
        timings += [
            timing(problem, contender, phase, number, sample)
            for contender, number, sample in zip(timed, numbers, samples, strict=True)
        ]
    return timings


def is_loop(contender: Contender) -> bool:
    """Whether its steps are Python's: several times slower than all others, and no bar hangs on it."""
    return contender.name == CELL_LOOP or contender.backend == "python"


def timing(problem: Problem, contender: Contender, phase: str, calls: int, sample: list[float]) -> Timing:
    q1, median, q3 = statistics.quantiles(sample, n=4, method="inclusive") if len(sample) > 1 else sample * 3
    return Timing(
        *problem.size,
        dtype=str(problem.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        sequences=contender.sequences,
        contender=contender.name,
        backend=contender.backend,
        dropout=contender.dropout.name,
        p=contender.dropout.p,
        p_g=contender.dropout.p_g,
        repeats=len(sample),
        phase=phase,
        calls=calls,
        median_ms=round(median, 5),
        q1_ms=round(q1, 5),
        q3_ms=round(q3, 5),
        min_ms=round(min(sample), 5),
        max_ms=round(max(sample), 5),
    )


def cpu_milliseconds(call: Callable[[], object], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) * 1e3 / number


def cuda_stopwatch(device: torch.device) -> Callable[[Callable[[], object], int], float]:
    """Times one call between two events, on a cold L2 cache.

    In training a layer finds other layers' data there, and what is small enough to stay would otherwise be measured
    at the cache's speed.
    """
    flush = torch.empty(2 * torch.cuda.get_device_properties(device).L2_cache_size, dtype=torch.int8, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def milliseconds(call: Callable[[], object], number: int) -> float:
        assert number == 1, "a second call would find a warm cache"
        torch.cuda.synchronize(device)
        flush.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    return milliseconds


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
