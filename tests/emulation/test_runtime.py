"""The emulation itself: CUDA's names give CUDA's answers, schedules differ, and misuse is reported as what it is."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.emulation import toolchain

HERE = Path(__file__).parent

MISUSE = {
    "divergent_collective": r"divergent warp collective: lane \d+ in __\w+_sync at .*misuse\.cu:\d+ mask f{8}, lane",
    "collective_after_exit": r"lane 3 has exited|deadlock:",
    "not_in_own_mask": r"lane 0 in __syncwarp at .* mask fffffffe: not in its own mask",
    "shuffle_from_outside": r"__shfl_sync at .*misuse\.cu:\d+ reads lane 20, which is not in mask 0000ffff",
    "one_block_leaves": r"deadlock:\n(?=(.|\n)*32 thread\(s\), first block 1 thread 0: has exited)"
    r"(?=(.|\n)*32 thread\(s\), first block 0 thread 0: waits in grid\.sync at .*misuse\.cu)",
    "spin_for_ever": r"livelock: threads only spin:\n(.|\n)*first block 0 thread 0: spins at .*misuse\.cu",
    "grid_sync": r"grid\.sync at .*misuse\.cu:\d+ in a launch that is not cooperative \[block 0 thread \d+\]",
    "no_threads": r"bad launch: 1 blocks of 0 threads",
    "too_many_threads": r"bad launch: 1 blocks of 1025 threads",
    "dynamic_shared_too_large": r"232449 bytes of dynamic shared memory, the limit is 232448",
    "static_shared_too_large": r"262144 bytes of shared memory, the limit is 232448",
    "too_many_shared_arrays": r"over 32 shared arrays",
    "cluster_does_not_divide": r"cluster of 2 blocks: at most 16, and a divisor of the grid's 3",
    "cluster_too_large": r"cluster of 32 blocks: at most 16",
    "cooperative_too_large": r"cooperative launch of 265 blocks, at most 264 run at once",
    "misaligned_copy": r"cp\.async of 16 bytes: .* is misaligned",
    "forgotten_copy": r"thread exits with a cp\.async not waited for",
    "misaligned_ldmatrix": r"ldmatrix at .*misuse\.cu:\d+: row address .* is not 16-byte aligned",
    "rank_outside_cluster": r"map_shared_rank at .*misuse\.cu:\d+: rank 2 of a cluster of 2",
    "cluster_arrival_twice": r"cluster barrier at .*misuse\.cu:\d+: a second arrival without a wait in between",
    "cluster_wait_without_arrival": r"cluster barrier at .*misuse\.cu:\d+: a wait without an arrival",
    "map_of_local_memory": r"map_shared_rank at .*misuse\.cu:\d+: not a shared-memory address",
    "mbarrier_not_initialised": r"mbarrier_arrive at .*misuse\.cu:\d+: the mbarrier has not been initialised",
    "mbarrier_twice": r"mbarrier_init at .*misuse\.cu:\d+: initialised twice",
    "mbarrier_misaligned": r"mbarrier_init at .*misuse\.cu:\d+: .* is not aligned to 8 bytes",
    "mbarrier_no_arrivals": r"mbarrier_init at .*misuse\.cu:\d+: 0 arrivals",
    "mbarrier_overwritten": r"mbarrier_arrive at .*misuse\.cu:\d+: there is no mbarrier, or it has been overwritten",
    "mbarrier_overfull": r"mbarrier_arrive at .*misuse\.cu:\d+: all arrivals of this phase are in; it waits for bytes",
    "mbarrier_too_many_bytes": r"mbarrier_arrive_expect_tx at .*misuse\.cu:\d+: too many bytes are expected",
    "mbarrier_parity": r"mbarrier_wait at .*misuse\.cu:\d+: parity 2",
    "mbarrier_one_block": r"st_async at .*misuse\.cu:\d+: the cluster has but one block",
    "mbarrier_multicast": r"bulk_copy_multicast at .*misuse\.cu:\d+: to ranks 0x2 of 1 blocks",
    "mbarrier_not_multiples": r"bulk_copy at .*misuse\.cu:\d+: .*, 8 bytes: not multiples of 16",
    "mbarrier_not_shared": r"bulk_copy at .*misuse\.cu:\d+: target and mbarrier are not in .* one block",
}


def build_vocabulary(sanitize: str | None) -> Path:
    return toolchain.build_program("vocabulary", [HERE / "vocabulary.cu"], sanitize=sanitize)


@pytest.fixture(scope="module")
def vocabulary() -> Path:
    return build_vocabulary(None)


@pytest.fixture(scope="module")
def misuse() -> Path:
    return toolchain.build_program("misuse", [HERE / "misuse.cu"])


@pytest.mark.parametrize("schedule", toolchain.SCHEDULES)
@pytest.mark.parametrize("sanitize", [None, "address", "thread", "weak"])
def test_vocabulary(sanitize: str | None, schedule: str) -> None:
    done = toolchain.run(build_vocabulary(sanitize), schedule=schedule)
    assert (done.returncode, done.stdout) == (0, "ok\n")


def test_half_a_warp_orders_no_more_than_itself() -> None:
    done = toolchain.run(build_vocabulary("thread"), "race", schedule="fifo")
    assert re.search(r"SUMMARY: ThreadSanitizer: data race \S*vocabulary\.cu:\d+ in half_warp_kernel", done.stdout)


def test_schedules_differ_and_repeat(vocabulary: Path) -> None:
    def order(schedule: str) -> list[int]:
        return [int(i) for i in toolchain.run(vocabulary, "order", schedule=schedule).stdout.split()]

    threads = list(range(64))
    assert order("fifo") == threads
    assert order("lifo") == threads[::-1]
    first, second = order("rand1"), order("rand2")
    assert sorted(first) == sorted(second) == threads
    assert first != second and threads not in (first, first[::-1], second, second[::-1])
    assert order("rand1") == first


@pytest.mark.parametrize("schedule", ["random", "rand", "rand-1", "FIFO", ""])
def test_bad_schedule_is_named(misuse: Path, schedule: str) -> None:
    done = toolchain.run(misuse, "nothing", schedule=schedule)
    assert f"expected fifo, lifo or rand<seed>, got '{schedule}'" in done.stdout


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_reported(misuse: Path, case: str) -> None:
    # Under fifo a cp.async arrives at once, so that one who forgets to wait does not notice.
    schedules = toolchain.SCHEDULES[1:] if case == "forgotten_copy" else toolchain.SCHEDULES
    for schedule in schedules:
        done = toolchain.run(misuse, case, schedule=schedule)
        assert done.returncode == 0, f"{schedule}: the second run of the case differs from the first"
        assert re.match(rf"CUDA emulation: .*{MISUSE[case]}", done.stdout), f"{schedule}: {done.stdout}"


@pytest.fixture(scope="module")
def launch_state() -> Path:
    return toolchain.build_program("launch_state", [HERE / "launch_state.cu"])


SUCCESS, INVALID_VALUE = 0, 1
"""Of cudaError_t."""


def test_a_limit_stays_as_it_was_last_set(launch_state: Path) -> None:
    assert int(toolchain.run(launch_state, "lowered").stdout) == INVALID_VALUE


def test_a_smaller_launch_of_another_thread_takes_nothing_away(launch_state: Path) -> None:
    assert int(toolchain.run(launch_state, "another thread").stdout) == SUCCESS


def test_what_is_static_counts_too(launch_state: Path) -> None:
    assert toolchain.run(launch_state, "static").stdout == f"{SUCCESS} {SUCCESS}\n"


def test_a_cluster_lies_within_a_gpc(launch_state: Path) -> None:
    assert toolchain.run(launch_state, "clusters").stdout == "132 15 7\n"


def test_nothing_wrong_is_not_reported(misuse: Path) -> None:
    for case in ("nothing", "mbarrier_used_well"):
        assert toolchain.run(misuse, case).stdout == "\n"


def test_stack_overflow_meets_a_guard_page(misuse: Path) -> None:
    assert toolchain.run(misuse, "stack_overflow").returncode == -signal.SIGSEGV
