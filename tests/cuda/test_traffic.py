"""A step moves what the plan's model reckons with: bytes of shared memory, to other blocks, of the second cache.

The emulation counts them. Of shared memory it counts the wavefronts of ldmatrix, 128 bytes each, of which a conflict
between banks makes more: so that none do is held too. What the plain units read is no ldmatrix, and not counted.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from tests.emulation import toolchain

CUDA = toolchain.REPO / "csrc/cuda"
SOURCES = [
    CUDA / "recurrence_tf32.cu",
    CUDA / "recurrence_bfloat16.cu",
    toolchain.REPO / "tests/cuda/traffic_driver.cpp",
]

pytestmark = pytest.mark.skipif(bool(toolchain.why_unusable()), reason=toolchain.why_unusable())


def counts(program: Path, schedule: str = "fifo") -> list[dict[str, str]]:
    done = toolchain.run(program, schedule=schedule)
    assert done.returncode == 0, done.stdout
    return list(csv.DictReader(done.stdout.splitlines()))


def off_by(row: dict[str, str]) -> float:
    return float(row["counted"]) - float(row["reckoned"])


# In which file what becomes what.
MISTAKES = {
    # Rows that begin in the same bank: eight of them are read one after the other.
    "rows without padding": (
        "recurrence_tiling.h",
        "(round_up(columns * size, 128) + 16) / size",
        "round_up(columns * size, 128) / size",
    ),
    "a model that forgets the input": ("recurrence_estimate.h", "(rows_read + t.batch * tiles_rows)", "rows_read"),
    "a model that forgets the other groups": (
        "recurrence_estimate.h",
        "t.groups * t.blocks * t.batch * row_bytes / t.share",
        "t.blocks * t.batch * row_bytes / t.share",
    ),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """One build with all mistakes, of which the environment chooses; without a choice it has none."""
    # The whole folder, so that each file includes its neighbours of there.
    folder = tmp_path_factory.mktemp("traffic")
    shutil.copytree(CUDA, folder / "cuda")
    for number, (file, right, wrong) in enumerate(MISTAKES.values(), 1):
        planted = folder / "cuda" / file
        text = planted.read_text()
        assert text.count(right) == 1
        chosen = text.replace(right, f"(planted({number}) ? {wrong} : {right})")
        planted.write_text(f'#include "planted.h"\n{chosen}')
    driver = folder / SOURCES[-1].name
    driver.write_text(SOURCES[-1].read_text())
    sources = [*(folder / "cuda" / source.name for source in SOURCES[:-1]), driver]
    return toolchain.build_program("traffic", sources, include_dirs=[folder])


@pytest.mark.parametrize("schedule", ["fifo", "rand1"])
def test_a_step_moves_what_the_plan_reckons_with(program, schedule):
    rows = counts(program, schedule)
    assert len(rows) == 12 * 2 * 3
    assert [row for row in rows if off_by(row)] == []
    moved = {(row["engine"], row["what"]) for row in rows if float(row["counted"])}
    exchanges = {("cluster", "other blocks"), ("grid", "second cache"), ("multicast", "second cache")}
    assert moved == {(engine, "shared memory") for engine in ("block", "cluster", "grid", "multicast")} | exchanges


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake, program, monkeypatch):
    monkeypatch.setenv(toolchain.PLANTED, str(1 + list(MISTAKES).index(mistake)))
    assert [row for row in counts(program) if off_by(row)]
