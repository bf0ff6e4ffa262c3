"""Exchanges without fences: the toy ones pass under every schedule, sanitizer and weak memory; mistakes in them do not.

The kernels of the other tests pass under weak memory too, and what only it can see of theirs is seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.emulation import toolchain

HERE = Path(__file__).parent
KERNELS = HERE / "async_toys.cu"
VARIANTS = (None, "weak", "thread")


def at_mistake(number: int) -> str:
    """Pattern for the source line that is marked with this mistake."""
    lines = KERNELS.read_text().splitlines()
    (line,) = (i for i, text in enumerate(lines, 1) if re.search(rf"// mistake {number}$", text))
    return rf"async_toys\.cu:{line}\b"


def wrong_result(case: str) -> str:
    return rf"FAIL {case}: element \d+ is"


RACE = r"SUMMARY: ThreadSanitizer: data race "
RACE_WITH_WHAT_LANDS = RACE + r"\S*(scheduler\.h:\d+ in emu::Scheduler::land|async_toys\.cu:\d+ in step)"
STUCK = r"livelock: threads only spin"
FLYING = r"st_async at .*async_toys\.cu:\d+ is on its way when block \d+ has exited"
OVERFULL = r"mbarrier_arrive\w* at .*async_toys\.cu:\d+: all arrivals of this phase are in; it waits for bytes"


@dataclass(frozen=True)
class Mistake:
    """What the output says when it is found, by variant, under each of `schedules`."""

    number: int
    name: str
    case: str
    found: dict[str | None, str]
    schedules: tuple[str, ...] = toolchain.SCHEDULES


MISTAKES = [
    Mistake(
        1,
        "no_expect_tx",
        "cluster",
        dict.fromkeys((None, "weak"), f"{STUCK}|{FLYING}|{OVERFULL}|{wrong_result('cluster')}"),
    ),
    Mistake(2, "buffer_reused_too_early", "cluster", {"thread": RACE_WITH_WHAT_LANDS}),
    Mistake(2, "buffer_reused_too_early", "cluster", dict.fromkeys((None, "weak"), wrong_result("cluster")), ("lifo",)),
    Mistake(
        3, "wrong_parity", "cluster", dict.fromkeys((None, "weak"), f"{STUCK}|{OVERFULL}|{wrong_result('cluster')}")
    ),
    Mistake(
        4,
        "wait_at_block_scope",
        "cluster",
        dict.fromkeys(VARIANTS, rf"mbarrier_wait at .*{at_mistake(4)}: another block is in the phase"),
    ),
    Mistake(5, "epoch_not_looked_at", "grid", dict.fromkeys(VARIANTS, f"{wrong_result('grid')}|{STUCK}")),
    Mistake(6, "sentinel_instead_of_epoch", "grid", {"weak": wrong_result("grid")}),
    Mistake(7, "no_release", "pass_on", {"weak": wrong_result("pass_on"), "thread": RACE + ".* in pass_on_kernel"}),
    Mistake(8, "no_acquire", "pass_on", {"weak": wrong_result("pass_on"), "thread": RACE + ".* in pass_on_kernel"}),
    Mistake(
        9,
        "no_proxy_fence",
        "bulk",
        {"weak": r"bulk_copy\w* at .*async_toys\.cu:\d+: shared memory .* with no fence_proxy_async since"},
    ),
    Mistake(
        10,
        "exit_before_arrival",
        "cluster",
        dict.fromkeys((None, "weak"), FLYING + r"|map_shared_rank at .*: block of rank \d has exited"),
    ),
    Mistake(
        12,
        "no_global_proxy_fence",
        "bulk_after_flag",
        {"weak": r"bulk_copy_multicast at .*async_toys\.cu:\d+: global memory .* no fence_proxy_async_global since"},
    ),
    Mistake(11, "torn_store", "grid", {"weak": wrong_result("grid"), "thread": RACE + r".* in (send|emu::load_bits)"}),
]

RUNS = [
    pytest.param(variant, mistake, pattern, id=f"{mistake.number}_{mistake.name}-{variant or 'plain'}")
    for mistake in MISTAKES
    for variant, pattern in mistake.found.items()
]


def build(variant: str | None) -> Path:
    return toolchain.build_program("async_toys", [KERNELS, HERE / "async_program.cpp"], sanitize=variant)


def build_toys() -> Path:
    return toolchain.build_program("toys", [HERE / "toy_kernels.cu", HERE / "toy_program.cpp"], sanitize="weak")


@pytest.mark.parametrize(
    ("variant", "schedule"),
    [(variant, schedule) for variant in (None, "weak") for schedule in (*toolchain.SCHEDULES, "rand3", "rand4")]
    + [("thread", "fifo"), ("thread", "rand1")],
)
def test_correct_exchanges_pass(variant: str | None, schedule: str) -> None:
    done = toolchain.run(build(variant), schedule=schedule)
    assert (done.returncode, done.stdout) == (0, "5 passed, 0 failed\n")


@pytest.mark.parametrize(("variant", "mistake", "pattern"), RUNS)
def test_mistake_is_found(variant: str | None, mistake: Mistake, pattern: str) -> None:
    for schedule in mistake.schedules:
        done = toolchain.run(build(variant), str(mistake.number), mistake.case, schedule=schedule)
        assert done.returncode != 0, schedule
        assert re.search(pattern, done.stdout), f"{schedule}: {done.stdout}"


def test_every_declared_mistake_is_found() -> None:
    declared = [int(n) for n in re.findall(r"k\w+ = (\d+),", (HERE / "async_toys.h").read_text())]
    assert [0, *sorted({m.number for m in MISTAKES})] == declared


@pytest.mark.parametrize("schedule", toolchain.SCHEDULES)
def test_toy_kernels_pass_under_weak_memory(schedule: str) -> None:
    done = toolchain.run(build_toys(), schedule=schedule)
    assert (done.returncode, done.stdout) == (0, "6 passed, 0 failed\n")


@pytest.mark.parametrize(("mistake", "case"), [(9, "rnn_grid"), (12, "rnn_own_barrier")])
def test_weak_memory_sees_what_stays_in_a_block(mistake: int, case: str) -> None:
    for schedule in toolchain.SCHEDULES:
        done = toolchain.run(build_toys(), str(mistake), case, schedule=schedule)
        assert re.search(r"FAIL rnn_\w+: element \d+ is", done.stdout), f"{schedule}: {done.stdout}"
