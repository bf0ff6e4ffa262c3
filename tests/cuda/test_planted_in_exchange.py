"""Mistakes in how the persistent kernels' blocks hand each other what the next step multiplies, planted and found.

One build of the driver has all of them, each as an alternative to the line that it is made in; a variable of the
environment chooses. Without one it has none, and passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from test_recurrence_kernels import CUDA, DEFINES, DRIVER, bits_on_plain_memory, bits_printed, run_recurrences

from tests.emulation import toolchain

pytestmark = pytest.mark.skipif(bool(toolchain.why_unusable()), reason=toolchain.why_unusable())

KINDS = ("float32", "tf32", "bfloat16")
# Of one folder, so that each includes the others' copies; all else they take from csrc.
FILES = ["recurrence_kernels.cuh", "recurrence_forward.cuh", "recurrence_backward.cuh", "recurrence_exchange.cuh"]


@dataclass(frozen=True)
class Mistake:
    """`right` in `file` becomes `wrong` where the mistake is chosen; found under each of `schedules`."""

    name: str
    right: str
    wrong: str
    file: str = "recurrence_exchange.cuh"
    schedules: tuple[str, ...] = toolchain.SCHEDULES


EXPECT = "mbarrier_arrive_expect_tx(full_ + turn_, s_.batch * s_.K * sizeof(scalar_t))"
EXPECT_COPIES = "mbarrier_arrive_expect_tx(full_, s_.batch * s_.K * sizeof(scalar_t))"
CLEARED = "set_to_zero(launch.scratch, plan.tiling.groups * kFlagBytes, launch.stream)"
TWO = ("lifo", "rand1")  # where all four would take long, and find the same
MISTAKES = [
    Mistake("no bytes are expected", EXPECT, "mbarrier_arrive(full_ + turn_)"),
    Mistake(
        "wrong parity",
        "mbarrier_wait_cluster(full_ + turn_, parity_)",
        "mbarrier_wait_cluster(full_ + turn_, parity_ ^ 1)",
    ),
    Mistake("there is one buffer", "turn_ * buffer_", "0 * buffer_", schedules=("lifo",)),
    Mistake("no bytes of copies are expected", EXPECT_COPIES, "mbarrier_arrive(full_)", schedules=TWO),
    Mistake(
        "wrong parity of copies",
        "mbarrier_wait_cluster(full_, parity_)",
        "mbarrier_wait_cluster(full_, parity_ ^ 1)",
        schedules=TWO,
    ),
    Mistake("nobody copies every second sample", "b += s_.share", "b += 2 * s_.share", schedules=TWO),
    Mistake("a block copies for itself alone", "(1 << s_.share) - 1", "1 << blockIdx.x % s_.share", schedules=TWO),
    # The first in, first out, happens to run the blocks of a group in step.
    Mistake("the flag is not waited for", "is_early(ld_acquire(flag_))", "false", schedules=("lifo", "rand1", "rand2")),
    Mistake(
        "the flag is as the last launch left it",
        CLEARED,
        "cudaSuccess",
        "recurrence_kernels.cuh",
    ),
    # By itself it is right for the first 2^32 arrivals: it is chosen together with ABOUT_TO_WRAP.
    Mistake(
        "a count that wraps is compared as one that does not",
        "is_early(ld_acquire(flag_))",
        "(ld_acquire(flag_) < arrived_ - 2)",
        schedules=("lifo", "rand1", "rand2"),
    ),
]
# No mistake: the flag begins, and is reckoned with, two arrivals before it wraps.
WRAPS = len(MISTAKES) + 1
TWO_LESS = f"""[&] {{
  const cudaError_t error = {CLEARED};
  for (int64_t group = 0; group < plan.tiling.groups; ++group) {{
    static_cast<unsigned*>(launch.scratch)[group * kFlagStride] -= 2;
  }}
  return error;
}}()"""
ABOUT_TO_WRAP = [
    Mistake("the flag", CLEARED, TWO_LESS, "recurrence_kernels.cuh"),
    Mistake("what is waited for", "arrivals - arrived_", "arrivals - (arrived_ - 2)"),
]
# What is stored is there at once where memory is not weak.
UNDER_WEAK_MEMORY = [
    Mistake("nothing is released", "red_release_add(flag_, 1)", "(void)atomicAdd(flag_, 1u)"),
    Mistake("a poll does not acquire", "is_early(ld_acquire(flag_))", "is_early(ld_relaxed(flag_))"),
    Mistake("copies see what others wrote with no fence", "fence_proxy_async_global()", "(void)0"),
    Mistake("copies come onto what was written with no fence", "fence_proxy_async()", "(void)0"),
]
# Each with the numbers that choose it.
ALTERNATIVES = [(mistake, (number,)) for number, mistake in enumerate(MISTAKES, 1)]
ALTERNATIVES += [(mistake, (number,)) for number, mistake in enumerate(UNDER_WEAK_MEMORY, WRAPS + 1)]
ALTERNATIVES += [(change, (WRAPS - 1, WRAPS)) for change in ABOUT_TO_WRAP]


@pytest.fixture(scope="module", params=[None, "weak"], ids=["plain", "weak"])
def program(request, tmp_path_factory):
    """(sanitize, the driver with every mistake to choose from)."""
    folder = tmp_path_factory.mktemp("exchange")
    for name in [*FILES, *(f"recurrence_{kind}.cu" for kind in KINDS)]:
        text = (CUDA / name).read_text()
        for change, numbers in ALTERNATIVES:
            if change.file != name:
                continue
            assert change.right in text, change.name
            chosen = " || ".join(f"planted({number})" for number in numbers)
            text = text.replace(change.right, f"(({chosen}) ? {change.wrong} : {change.right})")
        (folder / name).write_text(f'#include "planted.h"\n{text}')
    sources = [*(folder / f"recurrence_{kind}.cu" for kind in KINDS), DRIVER]
    return request.param, toolchain.build_program(
        "planted_in_exchange", sources, sanitize=request.param, defines=DEFINES
    )


@pytest.fixture
def status(program, monkeypatch):
    """status(number, schedule): the exit status with that mistake."""

    def run(number: int, schedule: str, recurrences: int = 12) -> int:
        monkeypatch.setenv(toolchain.PLANTED, str(number))
        return toolchain.run(program[1], str(recurrences), "5", "stop", schedule=schedule).returncode

    return run


@pytest.mark.usefixtures("program")
def test_without_a_mistake_it_passes(status):
    assert status(0, "rand1") == 0


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("schedule", ["lifo", "rand1"])
def test_the_flag_may_wrap(status, schedule):
    assert status(WRAPS, schedule) == 0


@pytest.mark.parametrize("number", range(1, len(MISTAKES) + 1), ids=lambda number: MISTAKES[number - 1].name)
def test_a_mistake_is_found(status, number):
    for schedule in MISTAKES[number - 1].schedules:
        assert status(number, schedule, recurrences=20) != 0, schedule


@pytest.mark.parametrize("program", ["weak"], indirect=True)
@pytest.mark.parametrize("mistake", UNDER_WEAK_MEMORY, ids=lambda mistake: mistake.name)
def test_recurrences_drawn_at_random_find_it_under_weak_memory(program, monkeypatch, mistake):
    """By both that the fuzz test looks at: the error, and the bits."""
    monkeypatch.setenv(toolchain.PLANTED, str(WRAPS + 1 + UNDER_WEAK_MEMORY.index(mistake)))

    def is_found(seed):
        done = run_recurrences(program[1], seed)
        return done.returncode != 0 and bits_printed(done) != bits_on_plain_memory(seed)

    assert any(map(is_found, range(10)))
