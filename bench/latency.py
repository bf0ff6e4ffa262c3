"""Times what a step of the persistent engines waits for, with bench/latency.cu: barriers, exchanges, loads, products.

    python -m bench.latency --out bench/results/latency.csv

The plan of the recurrence (csrc/cuda/recurrence_estimate.h) rests on these figures. Needs nvcc and a GPU.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils import cpp_extension

from bench.arguments import positive
from bench.machine import check_out, gpu_facts
from bench.records import Latency, columns, write

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "bench" / "latency.cu"
TILE = "L2 tile"
"""What the names of copies from the second cache begin with."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.latency argv...`; returns 0, 1 when a kernel is wrong, 2 on wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="bench.latency", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument(
        "--rounds", type=positive, default=5000, metavar="N", help="rounds in each launch (default: 5000)"
    )
    parser.add_argument(
        "--repeats", type=positive, default=21, metavar="N", help="launches of each kernel (default: 21)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.csv", help="write the latencies here, below a header of facts"
    )
    args = parser.parse_args(argv)
    try:
        check_out(args.out)
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device (`rnndrop info` says more)")
        gpu = torch.cuda.get_device_properties(0)
        with tempfile.TemporaryDirectory() as folder:
            program = build(Path(folder, "latency"), f"{gpu.major}{gpu.minor}")
            latencies, left_out = measure(program, args.rounds, args.repeats, gpu.multi_processor_count)
    except (OSError, RuntimeError) as error:
        print(f"bench.latency: {error}", file=sys.stderr)
        return 2
    except WrongKernelError as error:
        print(f"bench.latency: {error}", file=sys.stderr)
        return 1
    for line in left_out:
        print(f"left out: {line}")
    for row in latencies:
        print(f"{row.what:42} {row.blocks:4} blocks of {row.threads:3}  {row.bytes:6} bytes  {row.median_ns:9.1f} ns")
    print(*copies(latencies), sep="\n")
    if args.out:
        facts = gpu_facts(shlex.join(["python", "-m", "bench.latency", *argv]))
        facts["left out"] = "; ".join(left_out) or "nothing"
        write(args.out, facts, latencies)
        print(f"\nwritten: {args.out}")
    return 0


def copies(latencies: Sequence[Latency]) -> list[str]:
    """A line for each size of a tile: how fast all blocks at once copy it in each way, beside how the kernels do."""
    tiles = [row for row in latencies if row.what.startswith(TILE)]
    lines = []
    for size in sorted({row.bytes for row in tiles}):
        of_size = [row for row in tiles if row.bytes == size]
        # The most blocks of each way: clusters may leave a few multiprocessors without one.
        most = {row.what: row for row in sorted(of_size, key=lambda row: row.blocks)}
        as_kernels = most[f"{TILE} by cp.async"].median_ns
        ways = [
            f"{what.removeprefix(TILE).strip()} {size / row.median_ns:.0f} bytes a ns for each of {row.blocks} blocks "
            f"({as_kernels / row.median_ns:.2f} times as fast)"
            for what, row in most.items()
        ]
        lines.append(f"copies of {size} bytes: {'; '.join(sorted(ways))}")
    return lines


class WrongKernelError(Exception):
    """A barrier did not hold, or a load or a product was skipped."""


def build(program: Path, architecture: str) -> Path:
    """Compiles the program for an architecture such as "90".

    Raises RuntimeError if there is no nvcc, or with nvcc's errors and warnings.
    """
    nvcc = shutil.which("nvcc") or shutil.which(f"{cpp_extension.CUDA_HOME}/bin/nvcc")
    if nvcc is None:
        raise RuntimeError("nvcc is not on PATH: install the CUDA toolkit, or set CUDA_HOME")
    if int(architecture) >= 90:  # ptxas advises it for a multicast
        architecture += "a"
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    command = [nvcc, "-std=c++17", "-O3", target, f"-I{ROOT / 'csrc' / 'cuda'}", str(SOURCE), "-o", str(program)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or "warning" in done.stdout:
        raise RuntimeError(f"{SOURCE.name} does not compile cleanly:\n{done.stdout}")
    return program


def measure(
    program: Path, rounds: int, repeats: int, most_blocks: int, threads: int = 256
) -> tuple[list[Latency], list[str]]:
    """The latencies, and a line for each that cannot be measured here. Raises WrongKernelError."""
    command = [str(program), *map(str, (rounds, repeats, most_blocks, threads))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.splitlines()
    if done.returncode:
        wrong = [line for line in lines if line.startswith("FAIL")] or lines[-1:]
        raise WrongKernelError(f"exit status {done.returncode}: {'; '.join(wrong)}")
    table = csv.DictReader(line for line in lines if not line.startswith("# "))
    left_out = [line.removeprefix("# left out: ") for line in lines if line.startswith("# ")]
    kinds = columns(Latency)
    return [Latency(**{name: kind(row[name]) for name, kind in kinds.items()}) for row in table], left_out


if __name__ == "__main__":
    sys.exit(main())
