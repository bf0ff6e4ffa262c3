"""No time loop waits for memory where it need not, by a committed report of its machine code. Needs no GPU.

What a step costs beyond its work is in this code alone: neither the emulation nor the results show it.
"""

from __future__ import annotations

import pytest
from kernel_resources import ARCHITECTURES, read_csv, sources_hash
from time_loops import NO_SCOREBOARD, count, early_waits, innermost, loops, parse, time_loop
from time_loops import read_csv as read_loops

HOW = "run `python tests/cuda/time_loops.py` and commit bench/results/cuda_time_loops.csv"

FENCES = {"grid": 1, "multicast": 1}
"""Before the arrival, which has to be behind what is handed over. In a cluster the data say that they are there."""
PROXY_FENCES = {("multicast", "90"): 1}
"""Ahead of the copies. An sm_80 has none."""
STORES = {"forward": 2, "backward": 8}
"""What a thread hands over through memory: h~ of two cells, or the four da of each."""

LOOP = """
.text.kernel:
        /*0010*/                   LDG.E R2, desc[UR4][R8.64] ;
.L_x_1:
        /*0020*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_2:
        /*0030*/                   LDS R3, [R10] ;
        /*0040*/                   FADD R4, R4, R3 ;
        /*0050*/              @!P4 BRA `(.L_x_2) ;
        /*0052*/                   LDSM.16.M88.4 R12, [R11] ;
        /*0054*/                   LDSM.16.MT88.2 R16, [R11+0x40] ;
        /*0056*/                   HMMA.16816.F32.BF16 R20, R28, R12, R20 ;
        /*0060*/                   STG.E desc[UR4][R8.64], R4 ;
        /*0070*/                   LDG.E.64 R2, desc[UR4][R8.64] ;
        /*0080*/                   LDG.E.U16 R6, desc[UR4][R8.64] ;
        /*0090*/                   I2F.U32.RP R7, R12 ;
        /*00a0*/                   IMAD.U32 R5, R3, 0x10000, RZ ;
        /*00b0*/                   MEMBAR.ALL.CTA ;
        /*00b4*/                   MEMBAR.ALL.GPU ;
        /*00b8*/                   FENCE.VIEW.ASYNC.G ;
        /*00c0*/               @P1 REDG.E.ADD.STRONG.GPU desc[UR4][R20.64], R25 ;
.L_x_3:
        /*00d0*/                   LDG.E.STRONG.GPU R26, desc[UR4][R20.64] ;
        /*00e0*/              @!P2 BRA `(.L_x_3) ;
        /*00f0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0100*/                   FADD R6, R6, R2 ;
        /*0110*/              @!P0 BRA `(.L_x_1) ;
        /*0120*/                   EXIT ;
.L_x_4:
        /*0130*/                   BRA `(.L_x_4);
"""


def engine_of(row):
    return row.kernel.split(", ")[1]


def steps_in_registers_of(row):
    return int(row.kernel.rstrip(">").split(", ")[3])


def way_of(row):
    return row.kernel.split("_")[1]


@pytest.fixture(scope="module")
def rows():
    return read_loops()[1]


def test_the_report_is_of_these_sources(rows):
    assert read_loops()[0]["sources"] == sources_hash(), HOW
    expected = [(r.file, r.kernel, r.arch) for r in read_csv()[1] if r.kernel.startswith("recurrence_")]
    assert sorted((row.file, row.kernel, row.arch) for row in rows) == sorted(expected)


def test_every_time_loop_was_found(rows):
    assert [row for row in rows if row.fetches < 10] == []


def test_what_is_fetched_for_the_next_step_is_not_waited_for_in_this_one(rows):
    assert [row for row in rows if row.fetches_used_before_wait] == []


def test_nobody_waits_for_the_next_step_ahead_of_a_barrier(rows):
    launched = [row for row in rows if (engine_of(row), row.arch) != ("cluster", "80")]  # which has no clusters
    assert [row for row in launched if row.early_waits] == []


def test_nothing_divides(rows):
    assert [row for row in rows if row.divisions] == []


def test_the_gates_of_a_cell_go_side_by_side(rows):
    """Float64 has no instruction for 1/x."""
    calling = {row.kernel.split("<")[1].split(",")[0] for row in rows if row.calls}
    assert calling == {"Float64"}


def test_no_sum_is_a_chain_of_loads(rows):
    assert [row for row in rows if row.loops_of_one_load] == []


def test_no_step_reads_weights_that_are_in_registers(rows):
    """A product takes two matrices of h~ or da, and of W_hh none more; all others read some of W_hh for it."""
    kept = [row for row in rows if steps_in_registers_of(row)]
    assert len(kept) == 3 * 2 * (3 * 2 + 1) * len(ARCHITECTURES)  # types, ways, engines and noises; multicast has none
    assert [row for row in kept if row.matrices != 2 * row.products or not row.products] == []
    read = [row for row in rows if row.products and row not in kept]
    assert [row for row in read if row.matrices <= 2 * row.products] == []


def test_only_what_is_handed_over_is_stored_before_the_fence(rows):
    assert [row for row in rows if row.fences != FENCES.get(engine_of(row), 0)] == []
    expected = {"block": {}, "cluster": {}, "grid": STORES, "multicast": STORES}
    assert [row for row in rows if row.stores_before_arrival != expected[engine_of(row)].get(way_of(row), 0)] == []


def test_copies_are_behind_what_the_other_blocks_have_written(rows):
    assert [row for row in rows if row.proxy_fences != PROXY_FENCES.get((engine_of(row), row.arch), 0)] == []


def test_counts_of_a_loop_worked_by_hand():
    found = count("a.cu", "kernel", "90", parse(LOOP))
    assert found.instructions == 21
    assert found.fetches == 2  # not the flag, not what lies before the loop
    assert found.fetches_used_before_wait == 1  # R3, the upper half of R2; R6 is used behind the barrier
    assert found.early_waits == 0  # the listing is without control words
    assert found.calls == 0
    assert (found.fences, found.proxy_fences) == (1, 1)
    assert found.stores_before_arrival == 1
    assert found.divisions == 1
    assert found.loops_of_one_load == 1  # not the one that polls
    assert (found.products, found.matrices) == (1, 6)


def encoded(instruction, scoreboard=NO_SCOREBOARD, waits=0):
    """Two lines of a listing that has control words."""
    upper = (scoreboard << 5 | waits << 11) << 41
    return f"        /*0010*/   {instruction} ;   /* 0x0000000000000000 */\n    /* 0x{upper:016x} */\n"


FETCH = encoded("LDG.E.U16 R6, desc[UR4][R8.64]", scoreboard=5)
BARRIER = encoded("BAR.SYNC.DEFER_BLOCKING 0x0")
STORE, USE = "STG.E desc[UR4][R8.64], R4", "HADD2.F32 R7, -RZ, R6.H0_H0"


def test_a_wait_for_a_fetch_is_early_where_a_barrier_comes_before_its_use():
    of_other = encoded("LDS R3, [R10]", scoreboard=2) + encoded("FADD R4, R4, R3", waits=0b100)
    use = encoded(USE, waits=1 << 5)
    assert early_waits(parse(use + of_other + FETCH + encoded(STORE) + BARRIER)) == 0
    assert early_waits(parse(use + of_other + FETCH + encoded(STORE, waits=1 << 5) + BARRIER)) == 1
    # For the first fetch, where only some threads go on to the second.
    second = encoded("LDG.E R5, desc[UR4][R8.64]", scoreboard=5, waits=1 << 5)
    both = use + encoded("FADD R4, R4, R5")
    assert early_waits(parse(both + FETCH + second + BARRIER)) == 1
    # Behind the barrier nothing is lost: the use comes next.
    branch = encoded("BRA `(.L_x_1)", waits=1 << 5)
    assert early_waits(parse(branch + encoded(USE) + FETCH + BARRIER)) == 0


def test_a_register_that_is_read_by_all_is_waited_for_once():
    """What a step fetches is used in the next, which comes first in the loop."""
    assert early_waits(parse(encoded("FADD R4, R4, R4", waits=1 << 5) + BARRIER + encoded(USE) + FETCH)) == 1


def test_the_time_loop_is_the_longest_with_a_barrier():
    code = parse(LOOP)
    assert len(loops(code)) == 3  # a branch to itself, behind the kernel's end, is none
    loop = time_loop(code)
    assert (loop[0].label, loop[-1].target) == (".L_x_1", ".L_x_1")
    assert [body[0].label for body in innermost(loop)] == [".L_x_2", ".L_x_3"]
