"""What the machine code of each persistent kernel does in its time loop, step after step: counted, so that it is held.

`python tests/cuda/time_loops.py` compiles every recurrence (no GPU needed), disassembles it and writes
bench/results/cuda_time_loops.csv; the test beside it says what may stand there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernel_resources import (
    ARCHITECTURES,
    REPO,
    compile_kernels,
    find_nvcc,
    for_each_file,
    kernel_name,
    read_report,
    write_report,
)

CSV = REPO / "bench" / "results" / "cuda_time_loops.csv"
FILES = "recurrence_*.cu"
STORES = ("STG", "ST", "STS", "STAS", "RED", "REDG")
"""Whose first operand is read."""
NO_SCOREBOARD = 7


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly: `@P0 LDG.E.U16 R4, desc[UR4][R2.64]`."""

    opcode: str
    operands: str
    label: str = ""
    """What a branch may go to; then there is no opcode."""
    scoreboard: int = NO_SCOREBOARD
    """The counter that says when what it loads has come."""
    waits: int = 0
    """A bit for each counter that it waits for, before it is issued."""

    @property
    def name(self) -> str:
        """`LDG` of `LDG.E.U16`."""
        return self.opcode.partition(".")[0]

    @property
    def is_fetch(self) -> bool:
        """A load from memory for the next step's cell: not of a flag, which is polled."""
        return self.name == "LDG" and "STRONG" not in self.opcode

    @property
    def is_wait(self) -> bool:
        """Of all of a block's threads, or for what comes to an mbarrier."""
        return self.opcode.startswith(("BAR.SYNC", "SYNCS.PHASECHK"))

    @property
    def is_arrival(self) -> bool:
        """What tells the other blocks of a group; in a cluster it is the data."""
        return self.name == "STAS" or (self.name in ("RED", "REDG") and "STRONG" in self.opcode)

    @property
    def target(self) -> str:
        """Of a branch."""
        found = re.search(r"`\((\.L\w+)\)", self.operands) if self.name == "BRA" else None
        return found[1] if found else ""

    @property
    def registers(self) -> list[str]:
        """Those that a load fills."""
        first, width = re.match(r"R(\d+)", self.operands), re.search(r"\.(64|128)\b", self.opcode)
        return [f"R{int(first[1]) + k}" for k in range(int(width[1]) // 32 if width else 1)] if first else []

    def reads(self, register: str) -> bool:
        """Whether the register is among the operands that are not written."""
        read = self.operands.partition(",")[2]
        return bool(re.search(rf"\b{register}\b", self.operands if self.name in STORES else read))

    def writes(self, register: str) -> bool:
        """Whether the register is what the instruction computes."""
        return self.name not in STORES and bool(re.match(rf"{register}\b", self.operands))


@dataclass(frozen=True, order=True)
class TimeLoop:
    """Counts over one kernel's time loop on one architecture."""

    file: str
    kernel: str
    arch: str
    instructions: int
    fetches: int
    """Loads from memory for the next step's cell."""
    fetches_used_before_wait: int
    """Of those, what some instruction between the load and the next barrier reads: it waits for memory first."""
    early_waits: int
    """Instructions that wait for such loads ahead of a barrier behind which these are read first: a thread waits for a
    scoreboard, which counts several loads, and nvcc cannot always see that a register is not one of theirs."""
    fences: int
    """MEMBAR of the whole GPU: each waits until all that the thread has stored is seen."""
    proxy_fences: int
    """FENCE.VIEW.ASYNC: what others have stored is seen by bulk copies."""
    stores_before_arrival: int
    """Stores to memory ahead of the arrival, which the fence there waits for."""
    divisions: int
    """Of integers: a dozen instructions each, of which the first converts to a float."""
    calls: int
    """Of a subroutine, as for a division of floats: nothing before it goes side by side with what is behind it. Not of
    a label, by which an sm_80 brings a warp together."""
    loops_of_one_load: int
    """Innermost loops that load once an iteration and use it: each waits for the one before."""
    products: int
    """Instructions of the tensor cores, in all of the loop's ways through."""
    matrices: int
    """8 by 8 of them, which LDSM reads from shared memory: two a product are h~ or da, the others W_hh."""


def parse(listing: str) -> list[Instruction]:
    """The instructions and labels of one function in nvdisasm's listing.

    An instruction's upper half follows in a line of its own. Its bits 41 to 61 are what ptxas tells the scheduler: four
    of cycles, one, three of the scoreboard that counts what it loads, three, and six of those that it waits for.
    """
    found: list[Instruction] = []
    for line in listing.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            found.append(Instruction("", "", label[1]))
        elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            found.append(Instruction(code[1], code[2]))
        elif upper := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/", line):
            control = int(upper[1], 16) >> 41
            found[-1] = replace(found[-1], scoreboard=control >> 5 & 7, waits=control >> 11 & 63)
    return found


def loops(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """(first, last) of every branch back to a label, that is of every loop. A branch to itself ends a kernel."""
    labels = {instruction.label: k for k, instruction in enumerate(code) if instruction.label}
    backward = ((labels.get(instruction.target, k), k) for k, instruction in enumerate(code) if instruction.target)
    return [(first, last) for first, last in backward if first < last - 1]


def time_loop(code: Sequence[Instruction]) -> Sequence[Instruction]:
    """The longest loop that meets a barrier.

    What ends the kernel is in none: a jump back over it leads from code that nvcc has put behind the loop to what comes
    before it.
    """

    def is_loop(first: int, last: int) -> bool:
        body = code[first:last]
        return any(i.is_wait for i in body) and not any(i.name == "EXIT" for i in body)

    first, last = max((span for span in loops(code) if is_loop(*span)), key=lambda span: span[1] - span[0])
    return code[first : last + 1]


def innermost(code: Sequence[Instruction]) -> Iterable[Sequence[Instruction]]:
    """Bodies of the loops that hold no other."""
    spans = loops(code)
    for first, last in spans:
        if not any(first <= f and b <= last and (f, b) != (first, last) for f, b in spans):
            yield code[first : last + 1]


def used_before_wait(code: Sequence[Instruction], k: int) -> bool:
    """Whether what instruction k loads is read before the next barrier, in the order in which the code lies."""
    for register in code[k].registers:
        for later in code[k + 1 :]:
            if later.is_wait or (later.writes(register) and not later.reads(register)):
                break
            if later.reads(register):
                return True
    return False


def early_waits(loop: Sequence[Instruction]) -> int:
    """As TimeLoop has them: twice through the loop, since what one step fetches the next one waits for."""
    found = set()
    coming: dict[int, set[str]] = {}  # by scoreboard, the registers that are loaded
    waited: dict[int, set[str]] = {}  # by instruction, those that it waited for and nobody has read yet
    for k, instruction in [*enumerate(loop), *enumerate(loop)]:
        if instruction.is_wait:
            found.update(waited)
            waited.clear()
        for scoreboard in [s for s in coming if instruction.waits >> s & 1]:
            waited.setdefault(k, set()).update(coming.pop(scoreboard))
        waited = {at: fetched for at, fetched in waited.items() if not any(map(instruction.reads, fetched))}
        if instruction.is_fetch:
            coming.setdefault(instruction.scoreboard, set()).update(instruction.registers)
    return len(found)


def matrices_of(instruction: Instruction) -> int:
    """That an `LDSM.16.M88.4` reads, here four."""
    if instruction.name != "LDSM":
        return 0
    number = re.search(r"\.([24])$", instruction.opcode)
    return int(number[1]) if number else 1


def count(file: str, kernel: str, arch: str, code: Sequence[Instruction]) -> TimeLoop:
    """The figures of one kernel."""
    loop = time_loop(code)
    arrival = next((k for k, instruction in enumerate(loop) if instruction.is_arrival), 0)
    fetched = [k for k, instruction in enumerate(loop) if instruction.is_fetch]
    return TimeLoop(
        file=file,
        kernel=kernel,
        arch=arch,
        instructions=sum(1 for instruction in loop if instruction.opcode),
        fetches=len(fetched),
        fetches_used_before_wait=sum(used_before_wait(loop, k) for k in fetched),
        early_waits=early_waits(loop),
        fences=sum(instruction.opcode.startswith("MEMBAR") and "CTA" not in instruction.opcode for instruction in loop),
        proxy_fences=sum(instruction.opcode.startswith("FENCE.VIEW.ASYNC") for instruction in loop),
        stores_before_arrival=sum(instruction.name == "STG" for instruction in loop[:arrival]),
        divisions=sum(bool(re.match(r"I2F\.(U\d+\.)?RP|I2F\.U64", instruction.opcode)) for instruction in loop),
        calls=sum(i.name == "CALL" and "$__" in i.operands for i in loop),
        loops_of_one_load=sum(
            sum(i.name in ("LDS", "LD", "LDSM") or i.is_fetch for i in body) == 1 for body in innermost(loop)
        ),
        products=sum(instruction.name == "HMMA" for instruction in loop),
        matrices=sum(map(matrices_of, loop)),
    )


def find_nvdisasm() -> str | None:
    """The toolkit's, or that of the wheel nvidia-cuda-nvdisasm; None where there is neither."""
    places = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvdisasm")]
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        places.append(Path(folder, "cu13", "bin", "nvdisasm"))
    return next((str(path) for path in places if path.exists()), shutil.which("nvdisasm"))


def disassemble(nvcc: str, nvdisasm: str, source: Path, arch: str) -> dict[str, list[Instruction]]:
    """By kernel.

    Raises:
        RuntimeError: the file does not compile; the message is the compiler's output.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "out.cubin")
        cubin.write_bytes(compile_kernels(nvcc, source, arch)[0])
        listing = subprocess.run([nvdisasm, "-c", "-hex", cubin], check=True, capture_output=True, text=True).stdout
    sections = re.split(r"^\s*\.section\s+\.text\.(\w+),.*$", listing, flags=re.MULTILINE)[1:]
    mangled = "\n".join(sections[::2])
    names = subprocess.run(["c++filt"], input=mangled, check=True, capture_output=True, text=True).stdout.splitlines()
    return {kernel_name(name): parse(section) for name, section in zip(names, sections[1::2], strict=True)}


def measure(
    nvcc: str, nvdisasm: str, architectures: Sequence[str] = ARCHITECTURES, files: str = FILES
) -> list[TimeLoop]:
    """Every persistent kernel, or those of a pattern of files, for every one of the architectures."""

    def of_file(source: Path, arch: str) -> list[TimeLoop]:
        kernels = disassemble(nvcc, nvdisasm, source, arch)
        return [count(source.name, kernel, arch, code) for kernel, code in kernels.items()]

    return for_each_file(of_file, architectures, files)


def read_csv() -> tuple[dict[str, str], list[TimeLoop]]:
    """The committed report."""
    return read_report(CSV, TimeLoop)


def main() -> None:
    """Write the report."""
    nvcc, nvdisasm = find_nvcc(), find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        raise SystemExit("nvcc or nvdisasm is missing: install the CUDA toolkit, or `pip install nvidia-cuda-nvdisasm`")
    rows = measure(nvcc, nvdisasm)
    write_report(CSV, "time_loops.py", nvcc, rows)
    print(f"{CSV.relative_to(REPO)}: {len(rows)} time loops")


if __name__ == "__main__":
    main()
