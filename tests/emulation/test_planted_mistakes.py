"""The emulation finds mistakes: each one planted in the toy kernels is seen by every way of running that can see it.

The ways: each schedule without a sanitizer (a wrong result, or an error of the scheduler's), AddressSanitizer and
ThreadSanitizer. Without a mistake the same kernels pass under all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.emulation import toolchain

HERE = Path(__file__).parent
KERNELS = HERE / "toy_kernels.cu"
WRONG_RESULT = r"FAIL \w+: element \d+ is"
RACE = r"SUMMARY: ThreadSanitizer: data race \S*toy_kernels\.cu:\d+ in "


def at_mistake(number: int) -> str:
    """Pattern for the source line that is marked with this mistake."""
    lines = KERNELS.read_text().splitlines()
    (line,) = (i for i, text in enumerate(lines, 1) if re.search(rf"// mistake {number}$", text))
    return rf"toy_kernels\.cu:{line}\b"


def overflow(number: int) -> str:
    return f"SUMMARY: AddressSanitizer: heap-buffer-overflow .*{at_mistake(number)}"


@dataclass(frozen=True)
class Mistake:
    """What the output says when it is found, by sanitizer; None: passes unseen."""

    number: int
    name: str
    kernel: str
    plain: str | None
    address: str | None
    thread: str | None
    schedules: tuple[str, ...] = toolchain.SCHEDULES  # under which it shows without a sanitizer

    def finders(self) -> list[tuple[str | None, str, str]]:
        """(sanitizer, schedule, pattern) of every run that finds it."""
        runs: list[tuple[str | None, str, str | None]] = [(None, schedule, self.plain) for schedule in self.schedules]
        runs += [("address", "rand1", self.address), ("thread", "rand1", self.thread)]
        return [(sanitize, schedule, pattern) for sanitize, schedule, pattern in runs if pattern]


def anyhow(
    number: int, name: str, kernel: str, pattern: str, schedules: tuple[str, ...] = toolchain.SCHEDULES
) -> Mistake:
    """A mistake that says the same whatever sanitizer there is."""
    return Mistake(number, name, kernel, pattern, pattern, pattern, schedules)


NOT_FIFO = ("lifo", "rand1", "rand2")
MISTAKES = [
    Mistake(1, "no_barrier_before_read", "matmul", WRONG_RESULT, WRONG_RESULT, RACE + ".*matmul"),
    Mistake(2, "no_barrier_after_read", "matmul", WRONG_RESULT, WRONG_RESULT, RACE + ".*matmul"),
    Mistake(3, "read_past_shared_array", "matmul", WRONG_RESULT, overflow(3), WRONG_RESULT),
    Mistake(4, "read_past_global_array", "matmul", None, overflow(4), None),
    anyhow(5, "uninitialised_shared", "matmul", r"FAIL matmul: element \d+ is -?nan"),
    anyhow(
        6, "exit_before_barrier", "matmul", "exits while others wait in __syncthreads|threads of block . had exited"
    ),
    anyhow(7, "stale_tile", "matmul", WRONG_RESULT),
    anyhow(8, "divergent_barrier", "matmul", rf"divergent __syncthreads in block .*{at_mistake(8)}"),
    Mistake(9, "no_grid_barrier", "rnn_grid", WRONG_RESULT, WRONG_RESULT, RACE + "rnn_grid", NOT_FIFO),
    anyhow(10, "exit_before_cluster_barrier", "rnn_cluster", r"map_shared_rank at .*: block of rank \d has exited"),
    anyhow(11, "async_copy_not_waited_for", "mma_bf16", r"FAIL mma_bf16: element 0 is -?nan", NOT_FIFO),
    Mistake(12, "relaxed_barrier", "rnn_own_barrier", None, None, RACE + "rnn_grid"),
]


RUNS = [
    pytest.param(sanitize, mistake, schedule, pattern, id=f"{mistake.number}_{mistake.name}-{sanitize or schedule}")
    for mistake in MISTAKES
    for sanitize, schedule, pattern in mistake.finders()
]


def build(sanitize: str | None) -> Path:
    return toolchain.build_program("toys", [KERNELS, HERE / "toy_program.cpp"], sanitize=sanitize)


@pytest.mark.parametrize(
    ("sanitize", "schedule"),
    [(None, schedule) for schedule in toolchain.SCHEDULES]
    + [(sanitize, schedule) for sanitize in ("address", "thread") for schedule in ("fifo", "rand1")],
)
def test_correct_kernels_pass(sanitize: str | None, schedule: str) -> None:
    done = toolchain.run(build(sanitize), schedule=schedule)
    assert (done.returncode, done.stdout) == (0, "6 passed, 0 failed\n")


@pytest.mark.parametrize(("sanitize", "mistake", "schedule", "pattern"), RUNS)
def test_mistake_is_found(sanitize: str | None, mistake: Mistake, schedule: str, pattern: str) -> None:
    done = toolchain.run(build(sanitize), str(mistake.number), mistake.kernel, schedule=schedule)
    assert done.returncode != 0
    assert re.search(pattern, done.stdout), done.stdout


def test_every_declared_mistake_is_found() -> None:
    declared = [int(n) for n in re.findall(r"= (\d+),", (HERE / "toy_kernels.h").read_text())]
    assert [0] + [m.number for m in MISTAKES if m.finders()] == declared


def test_portable_switch() -> None:
    """Machines that are not x86-64 switch fibers through ucontext."""
    program = toolchain.build_program("toys-ucontext", [KERNELS, HERE / "toy_program.cpp"], defines={"EMU_UCONTEXT": 1})
    done = toolchain.run(program, schedule="rand1")
    assert (done.returncode, done.stdout) == (0, "6 passed, 0 failed\n")
