"""The persistent kernels in a program of their own: against the definition, under the sanitizers, every line run."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.emulation import toolchain

CUDA = toolchain.REPO / "csrc/cuda"
KERNELS = sorted(CUDA.glob("recurrence_*.cuh"))
DRIVER = toolchain.REPO / "tests/cuda/recurrence_driver.cpp"
ALL = [*sorted(CUDA.glob("recurrence_*.cu")), DRIVER]
# The other two differ by a type alone, and a sanitized build takes its time.
ONE_DTYPE_A_TILE = [*(CUDA / f"recurrence_{kind}.cu" for kind in ("float32", "tf32", "bfloat16")), DRIVER]
DEFINES = {"ONE_DTYPE_A_TILE": 1}
LAUNCHES_DRAWN = 6  # of these three, forward and backward

pytestmark = pytest.mark.skipif(bool(toolchain.why_unusable()), reason=toolchain.why_unusable())


def build_plain() -> Path:
    return toolchain.build_program("recurrence_driver", ALL)


def build_weak() -> Path:
    return toolchain.build_program("recurrence_driver", ONE_DTYPE_A_TILE, sanitize="weak", defines=DEFINES)


def run_recurrences(program: Path, seed: int) -> subprocess.CompletedProcess[str]:
    """Recurrences, and a schedule, drawn from the seed."""
    schedule = random.Random(seed).choice(("fifo", "lifo", f"rand{seed}"))
    return toolchain.run(program, "drawn", str(seed), schedule=schedule)


def bits_printed(done: subprocess.CompletedProcess[str]) -> list[str]:
    """A line a launch, of the dtypes that all builds have."""
    return [line for line in done.stdout.splitlines() if line.startswith("bits ")][:LAUNCHES_DRAWN]


def bits_on_plain_memory(seed: int) -> list[str]:
    """What the same recurrences print where a store is there at once, as they do first in, first out."""
    done = toolchain.run(build_plain(), "drawn", str(seed))
    assert done.returncode == 0, done.stdout
    bits = bits_printed(done)
    assert len(bits) == LAUNCHES_DRAWN
    return bits


@pytest.mark.parametrize("schedule", toolchain.SCHEDULES)
def test_definition(schedule):
    done = toolchain.run(build_plain(), "60", schedule=schedule)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("schedule", toolchain.SCHEDULES)
def test_definition_under_weak_memory(schedule):
    done = toolchain.run(build_weak(), "12", "5", schedule=schedule)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("schedule", toolchain.SCHEDULES)
def test_definition_on_a_gpu_without_clusters(schedule):
    """As compiled for sm_80, within an A100's limits: what clusters need is not even declared."""
    defines = DEFINES | {"EMULATED_SM": 80}
    program = toolchain.build_program("recurrence_driver_sm80", ONE_DTYPE_A_TILE, defines=defines)
    done = toolchain.run(program, "20", schedule=schedule)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("sanitize", "count"), [("address", 12), ("thread", 3)])
def test_sanitizers_find_nothing(sanitize, count):
    program = toolchain.build_program("recurrence_driver", ONE_DTYPE_A_TILE, sanitize=sanitize, defines=DEFINES)
    done = toolchain.run(program, str(count), "5", schedule="rand1")
    assert done.returncode == 0, done.stdout


def test_every_line_of_the_kernels_runs():
    pytest.importorskip("gcovr", reason="line coverage needs gcovr: pip install gcovr")
    program = toolchain.build_program("recurrence_driver", ONE_DTYPE_A_TILE, coverage=True, defines=DEFINES)
    runs = toolchain.lines_run(program, KERNELS, "30")
    assert sum(len(lines) for lines in runs.values()) > 250
    never = {path.name: [line for line, count in lines.items() if count == 0] for path, lines in runs.items()}
    assert {name: lines for name, lines in never.items() if lines} == {}
