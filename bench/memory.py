"""Peak memory of one forward and backward of a layer: ours beside nn.LSTM and the nn.LSTMCell loop.

On a CPU every measurement is a process of its own, and the figure is the kernel's count of its resident memory: the
highest (VmHWM, reset before the call) less the level before the call. So everything counts that the call touches:
outputs, what is saved for the backward, gradients, packed weights and the libraries' scratch, which torch's own
profiler does not see. Not counted: x, weights, upstream gradients, code (pages of files), and threads, which a call at
a small size has started before. The allocator is told to return every block above 64 KiB at once, so that no memory
freed earlier is reused unnoticed, and the kernel not to use huge pages, which would count 2 MB for a byte. The count is
accurate to about 0.3 MB.

On CUDA it is the most that torch's allocator had handed out, less what it had handed out before.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import multiprocessing
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from bench.arguments import DTYPES, add_sizes, positive
from bench.contenders import LayerContender
from bench.grids import GRIDS
from bench.lineups import main_layers
from bench.machine import check_out, load_averages, machine_facts, usable
from bench.markdown import peaks_table
from bench.problems import Dropout, Problem, dropouts
from bench.records import FORWARD_BACKWARD, FULL, Peak, Size, write
from bench.verification import VerificationError, verify
from rnndrop_cuda import functional

SMALL = Size(16, 32, 64, 64)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PR_SET_THP_DISABLE = 41  # of the kernel's prctl.h
Result = TypeVar("Result")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.memory argv...`; returns 0, 1 when a contender is wrong, 2 on wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    try:
        device, backends = usable(args.device, args.backends)
        check_out(args.out)
        if device.type == "cpu":
            Path("/proc/self/clear_refs").write_text("5")
    except (OSError, RuntimeError) as error:
        print(f"bench.memory: {error}", file=sys.stderr)
        return 2
    facts = {
        **machine_facts(device, shlex.join(["python", "-m", "bench.memory", *argv])),
        "weighed": "forward+backward, bytes above the level before; "
        + ("allocated by torch" if device.type == "cuda" else "resident, VmHWM"),
    }
    threads = args.threads or torch.get_num_threads()
    peaks: list[Peak] = []
    try:
        for size in args.size or dict.fromkeys(case.size for case in GRIDS[device.type]):
            case = Case(size, args.dtype, device, backends, threads, args.seed)
            of_case = []
            for k, (name, backend, dropout) in enumerate(in_a_process(check, case)):
                sample = [in_a_process(peak, case, k) for _ in range(args.repeats)]
                of_case.append(
                    Peak(
                        *size, args.dtype, threads, FULL, name, backend, dropout.name, dropout.p, dropout.p_g,
                        len(sample), round(statistics.median(sample)), min(sample), max(sample),
                    )
                )  # fmt: skip
            peaks += of_case
            print(f"\nMB, {args.dtype}, CPU threads: {threads}\n\n{peaks_table(of_case)}", flush=True)
            if args.out:
                write(args.out, {**facts, "load at the end": load_averages()}, peaks)
    except VerificationError as error:
        print(f"bench.memory: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.memory", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    add_sizes(parser, " (default: the sizes of bench.lstm)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: float32)")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=functional.BACKENDS[1:],
        help="(default: the one of the device)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: torch's own)")
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="processes for each contender (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for data, weights and masks (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the peaks here, below a header of facts")
    return parser


class Case(NamedTuple):
    size: Size
    dtype: str
    device: torch.device
    backends: list[str]
    threads: int
    seed: int

    def contenders(self, size: Size) -> tuple[Problem, list[LayerContender]]:
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)
        problem = Problem(size, DTYPES[self.dtype], self.device)
        return problem, main_layers(problem, self.backends, dropouts([0.5], [0.3]))


def in_a_process(call: Callable[..., Result], *args: object) -> Result:
    """What the call returns or raises in a process of its own.

    Forked, so that torch is loaded already: this process has computed nothing, so it has no threads that a fork would
    lose. CUDA does not survive a fork.
    """
    # Torch's first gradient imports this, in 2 s: once here, not in each process.
    importlib.import_module("torch.fx.experimental.symbolic_shapes")
    context = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(call, *args).result()


def check(case: Case) -> list[tuple[str, str, Dropout]]:
    """Name, backend and dropout of each contender. Raises VerificationError if one of them is wrong."""
    problem, contenders = case.contenders(case.size)
    verify(problem, contenders)
    return [(contender.name, contender.backend, contender.dropout) for contender in contenders]


def peak(case: Case, k: int) -> int:
    """In bytes, of the k-th contender."""
    _, at_a_small_size = case.contenders(SMALL)
    at_a_small_size[k].calls[FORWARD_BACKWARD]()
    problem, contenders = case.contenders(case.size)
    problem.modules.train()
    return peak_of(contenders[k].calls[FORWARD_BACKWARD], case.device)


def peak_of(call: Callable[[], object], device: torch.device) -> int:
    """Bytes above the level before the call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    count_what_is_touched()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM = VmRSS
    before, files_before = resident("VmRSS", "RssFile")
    call()
    highest, files = resident("VmHWM", "RssFile")
    return max(0, highest - before - (files - files_before))


def count_what_is_touched() -> None:
    """Gives free memory back to the system, and takes none in huge pages, now and from here on."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    libc.mallopt(M_MMAP_THRESHOLD, 64 << 10)
    libc.mallopt(M_TRIM_THRESHOLD, 64 << 10)
    libc.malloc_trim(0)


def resident(*fields: str) -> list[int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return [int(sizes[field].split()[0]) << 10 for field in fields]


if __name__ == "__main__":
    sys.exit(main())
