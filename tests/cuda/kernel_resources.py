"""What nvcc says each CUDA kernel takes of a GPU: registers, stack, shared memory and spills.

`python tests/cuda/kernel_resources.py` compiles every kernel file (no GPU needed) and writes
bench/results/cuda_resources.csv; the test beside it holds the kernels to that file and to no spills.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from torch.utils import cpp_extension

REPO = Path(__file__).resolve().parents[2]
CSV = REPO / "bench" / "results" / "cuda_resources.csv"
ARCHITECTURES = ("80", "90")
Row = TypeVar("Row")  # a dataclass of names and counts


@dataclass(frozen=True, order=True)
class Resources:
    """One kernel on one architecture; registers are a thread's, the rest bytes."""

    file: str
    kernel: str
    arch: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared_memory: int


def find_nvcc() -> str | None:
    """The nvcc of $CUDA_HOME, of $PATH, or of the usual place; None where there is none."""
    homes = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    likely = [f"{home}/bin/nvcc" for home in homes if home]
    return next((path for name in ("nvcc", *likely) if (path := shutil.which(name))), None)


def nvcc_version(nvcc: str) -> str:
    """As "13.0.88"."""
    banner = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    version = re.search(r"V(\d+\.\d+\.\d+)", banner)
    if version is None:
        raise RuntimeError(f"{nvcc} --version names no version:\n{banner}")
    return version[1]


def flags(architectures: Sequence[str] = ARCHITECTURES) -> list[str]:
    """Those of setup.py's build, and ptxas' report."""
    generate = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
    return ["-O3", *cpp_extension.COMMON_NVCC_FLAGS, *generate, "-Xptxas=-v"]


def compiled_sources() -> list[Path]:
    """The kernel files and all that they include of csrc/."""
    found: set[Path] = set()
    open_files = list((REPO / "csrc" / "cuda").glob("*.cu"))
    while open_files:
        source = open_files.pop()
        found.add(source)
        for name in re.findall(r'^#include "(.+)"', source.read_text(), re.MULTILINE):
            places = (folder / name for folder in (source.parent, REPO / "csrc"))
            # The emulation's own header is in neither place.
            open_files += [path for path in places if path.exists() and path not in found]
    return sorted(found)


def sources_hash() -> str:
    """Of all that nvcc compiles, under csrc/: where it is the report's, compiling again would give the same report."""
    sha256 = hashlib.sha256()
    for path in compiled_sources():
        sha256.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha256.hexdigest()


@functools.cache  # compiled once for both reports
def compile_kernels(nvcc: str, source: Path, arch: str) -> tuple[bytes, str]:
    """Machine code of a kernel file, and what the compiler said.

    Raises:
        RuntimeError: the file does not compile; the message is the compiler's output.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "out.cubin")
        command = [nvcc, *flags([arch]), f"-I{REPO / 'csrc'}", "-cubin", source, "-o", cubin]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stdout}")
        return cubin.read_bytes(), done.stdout


def for_each_file(
    of_file: Callable[[Path, str], list[Row]], architectures: Sequence[str], files: str = "*.cu"
) -> list[Row]:
    """The rows of every kernel file, or of those of a pattern, for every one of the architectures, sorted."""
    tasks = [(source, arch) for source in sorted((REPO / "csrc" / "cuda").glob(files)) for arch in architectures]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sorted(row for rows in pool.map(lambda task: of_file(*task), tasks) for row in rows)


def measure(nvcc: str, architectures: Sequence[str] = ARCHITECTURES, files: str = "*.cu") -> list[Resources]:
    """Compile every kernel file, or those of a pattern, for every one of the architectures.

    Raises:
        RuntimeError: a file does not compile; the message is the compiler's output.
    """

    def of_file(source: Path, arch: str) -> list[Resources]:
        return _parse(source.name, compile_kernels(nvcc, source, arch)[1])

    return for_each_file(of_file, architectures, files)


def kernel_name(signature: str) -> str:
    """A kernel's name with its template arguments, engines by name: "recurrence_forward_kernel<Tf32, block, true>"."""
    # c++filt writes an enumerator as a cast: (rnndrop::cuda::Engine)2.
    cast = r"\((?:\w+::)*Engine\)(\d+)"
    signature = re.sub(cast, lambda number: _engine_names()[int(number[1])], signature)
    signature = signature.replace("(anonymous namespace)::", "")
    return re.sub(r"\w+::", "", signature.partition("(")[0]).removeprefix("void ")


@functools.cache
def _engine_names() -> list[str]:
    """In the order of their enumerators."""
    source = (REPO / "csrc" / "cuda" / "recurrence_tiling.h").read_text()
    names = re.search(r"kEngineNames\[\] = \{(.*)\}", source)
    if names is None:
        raise RuntimeError("recurrence_tiling.h has no kEngineNames")
    return re.findall(r'"(\w+)"', names[1])


def _parse(file: str, ptxas_output: str) -> list[Resources]:
    readable = subprocess.run(["c++filt"], input=ptxas_output, check=True, capture_output=True, text=True).stdout
    return [_parse_entry(file, entry) for entry in readable.split("Compiling entry function ")[1:]]


def _parse_entry(file: str, entry: str) -> Resources:
    def find(pattern: str) -> str:
        match = re.search(pattern, entry)
        if match is None:
            raise RuntimeError(f"{file}: ptxas' report has nothing like {pattern!r}:\n{entry}")
        return match[1]

    return Resources(
        file=file,
        kernel=kernel_name(find(r"'(.*)' for")),
        arch=find(r"' for 'sm_(\d+)"),
        registers=int(find(r"Used (\d+) registers")),
        stack=int(find(r"(\d+) bytes stack frame")),
        spill_stores=int(find(r"(\d+) bytes spill stores")),
        spill_loads=int(find(r"(\d+) bytes spill loads")),
        # ptxas is silent about what a kernel has none of.
        shared_memory=int(find(r"(\d+) bytes smem")) if " bytes smem" in entry else 0,
    )


def read_report(path: Path, row: type[Row]) -> tuple[dict[str, str], list[Row]]:
    """A committed report: its header of facts, and its rows."""
    lines = path.read_text().splitlines()
    facts = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    rows = csv.DictReader(line for line in lines if not line.startswith("# "))
    return facts, [
        row(**{f.name: of[f.name] if f.type == "str" else int(of[f.name]) for f in fields(row)}) for of in rows
    ]


def write_report(path: Path, program: str, nvcc: str, rows: Sequence[Row]) -> None:
    """With what made it, and of which sources."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.write(f"# command: python tests/cuda/{program}\n# nvcc: {nvcc_version(nvcc)}\n")
        file.write(f"# flags: {' '.join(flags())}\n# sources: {sources_hash()}\n")
        writer = csv.DictWriter(file, [f.name for f in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def read_csv() -> tuple[dict[str, str], list[Resources]]:
    """The committed report."""
    return read_report(CSV, Resources)


def main() -> None:
    """Write the report."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("no nvcc was found: set CUDA_HOME")
    rows = measure(nvcc)
    write_report(CSV, "kernel_resources.py", nvcc, rows)
    spilled = sum(r.spill_stores + r.spill_loads for r in rows)
    print(f"{CSV.relative_to(REPO)}: {len(rows)} kernels, {spilled} bytes spilled")


if __name__ == "__main__":
    main()
