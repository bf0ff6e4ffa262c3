"""The benchmark's tools: its CSV, the README's tables, what it refuses to time, and bench/gpu_check.sh without a GPU.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))  # bench/ is not installed

import rnndrop_cuda  # noqa: E402
from bench import bars, contenders, curves, lstm, memory, records, rivals, small_case, tables  # noqa: E402
from bench.contenders import Problem, Size  # noqa: E402
from bench.records import FORWARD, FORWARD_BACKWARD, INFERENCE, MASKS, Peak, Timing  # noqa: E402
from rnndrop_cuda import LayerMasks, functional, ops, reference  # noqa: E402

CPU = torch.device("cpu")
SMALL = Size(T=3, B=2, I=4, H=5)
OURS = ["cpu", "python"] if not ops.WHY_NOT_LOADED else ["python"]
needs_kernels = pytest.mark.skipif(bool(ops.WHY_NOT_LOADED), reason=ops.WHY_NOT_LOADED or "built")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def timing(**changes: object) -> Timing:
    ms = {"median_ms": 2.0, "q1_ms": 1.5, "q3_ms": 3.25, "min_ms": 1.0, "max_ms": 9.0}
    base = Timing(*RUN, repeats=15, phase=FORWARD, calls=3, **ms)
    return dataclasses.replace(base, **changes)


def peak(**changes: object) -> Peak:
    return dataclasses.replace(Peak(*RUN, repeats=3, median_bytes=20_000_000, min_bytes=1, max_bytes=2), **changes)


RUN = (*(32, 128, 300, 128), "float32", 2, records.FULL, records.NN_LSTM, "", "none", 0.0, 0.0)


FACTS = {"device": "cpu", "machine": "a CPU, 2 cores", "torch": "2.13.0", "commit": "0123456789abcdef", "command": "x"}
TIMINGS = [
    timing(),
    timing(contender="rnndrop", backend="cpu", dropout="both", p=0.5, p_g=0.25, median_ms=1.6),
    timing(contender="GEMMs alone", backend="oneDNN", median_ms=1.25),
    timing(T=400, median_ms=314.1),
    timing(T=400, contender="GEMMs alone", backend="oneDNN", median_ms=286.2),
]
PEAKS = [peak(), peak(contender="LSTM module", backend="cpu", median_bytes=15_000_000), peak(T=1, median_bytes=300_000)]

# ---------------------------------------------------------------- CSV


def test_csv_gives_back_what_was_written(tmp_path: Path) -> None:
    records.write(tmp_path / "t.csv", {**FACTS, "odd": "a: b, # c"}, TIMINGS)
    assert records.read(tmp_path / "t.csv") == ({**FACTS, "odd": "a: b, # c"}, TIMINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_csv_of_peaks_is_not_one_of_timings(tmp_path: Path) -> None:
    records.write(tmp_path / "m.csv", FACTS, PEAKS)
    assert records.read(tmp_path / "m.csv", Peak) == (FACTS, PEAKS)
    with pytest.raises(ValueError, match=r"m.csv:6: expected the columns T,.*median_ms,"):
        records.read(tmp_path / "m.csv")


@pytest.mark.parametrize("facts", [{"two": "lines\nhere"}, {"co:lon": "x"}])
def test_csv_refuses_facts_that_would_not_be_read_back(tmp_path: Path, facts: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="facts: expected a key without a colon and one line"):
        records.write(tmp_path / "t.csv", facts, TIMINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: text.replace(",median_ms", ""), r"t.csv:6: expected the columns T,B,I,H"),
        (lambda text: text.replace("314.1", "fast"), r"t.csv:10: not a timing: .*fast"),
        (lambda text: text[:-20], r"t.csv:11: not a timing"),
        (lambda text: "", r"t.csv:1: expected the columns"),
    ],
)
def test_csv_that_is_damaged_is_refused(tmp_path: Path, damage: object, message: str) -> None:
    file = tmp_path / "t.csv"
    records.write(file, FACTS, TIMINGS)
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=message):
        records.read(file)


# ---------------------------------------------------------------- tables


def test_case_table_compares_with_nn_lstm_and_with_the_fastest_gemms() -> None:
    slower = timing(contender="GEMMs alone", backend="ATen", median_ms=5.0)
    assert tables.case_table([*TIMINGS[:3], slower]).splitlines() == [
        "| milliseconds                       | forward | quartiles | x nn.LSTM | / GEMMs |",
        "|------------------------------------|--------:|----------:|----------:|--------:|",
        "| nn.LSTM                            |       2 |  1.5-3.25 |      1.00 |    1.60 |",
        "| rnndrop (cpu), both p=0.5 p_g=0.25 |     1.6 |  1.5-3.25 |      1.25 |    1.28 |",
        "| GEMMs alone (oneDNN)               |    1.25 |  1.5-3.25 |      1.60 |    1.00 |",
        "| GEMMs alone (ATen)                 |       5 |  1.5-3.25 |      0.40 |    4.00 |",
    ]


def test_grid_table_has_a_column_for_each_size() -> None:
    assert tables.grid_table(TIMINGS).splitlines() == [
        "|                                    | T=32 B=128 I=300 H=128 | T=400 B=128 I=300 H=128 |",
        "|------------------------------------|-----------------------:|------------------------:|",
        "| nn.LSTM                            |               2 (1.00) |              314 (1.00) |",
        "| rnndrop (cpu), both p=0.5 p_g=0.25 |             1.6 (1.25) |                         |",
        "| GEMMs alone (oneDNN)               |            1.25 (1.60) |              286 (1.10) |",
    ]


def test_grid_table_tells_dtypes_and_threads_apart() -> None:
    by_threads = tables.grid_table([timing(threads=1, median_ms=4.0), timing(threads=2)])
    assert by_threads.splitlines()[0] == "|         | 1 thread | 2 threads |"
    assert by_threads.splitlines()[2] == "| nn.LSTM | 4 (1.00) |  2 (1.00) |"
    by_size_and_dtype = tables.grid_table([timing(dtype="bfloat16"), timing(T=1)])
    assert "T=32 B=128 I=300 H=128, bfloat16 | T=1 B=128 I=300 H=128, float32" in by_size_and_dtype


def test_case_table_leaves_empty_what_was_not_timed() -> None:
    masks = timing(contender="LSTM module", backend="cpu", dropout="Gal batch", p=0.5, phase=MASKS, median_ms=0.25)
    packed = timing(sequences="packed", phase=INFERENCE)
    padded = timing(sequences="padded", phase=INFERENCE, median_ms=4.0)
    assert tables.case_table([masks, packed, padded]).splitlines() == [
        "| milliseconds                       | masks | quartiles | inference | quartiles | x nn.LSTM |",
        "|------------------------------------|------:|----------:|----------:|----------:|----------:|",
        "| LSTM module (cpu), Gal batch p=0.5 |  0.25 |  1.5-3.25 |           |           |           |",
        "| nn.LSTM packed                     |       |           |         2 |  1.5-3.25 |      1.00 |",
        "| nn.LSTM padded                     |       |           |         4 |  1.5-3.25 |      0.50 |",
    ]


def test_lengths_table_has_the_ragged_timings_only_and_compares_with_the_packed_nn_lstm(tmp_path: Path) -> None:
    ragged = [
        timing(sequences="packed"),
        timing(sequences="padded", median_ms=1.0),
        timing(sequences="packed", phase=FORWARD_BACKWARD, median_ms=8.0),
        timing(sequences="lengths=", contender="LSTM module", phase=FORWARD_BACKWARD, median_ms=2.0),
        timing(sequences="lengths=", contender="LSTM module", phase=MASKS, median_ms=0.125),
    ]
    records.write(tmp_path / "cpu.csv", FACTS, [*TIMINGS, *ragged])
    table = tables.table("cpu lengths", tmp_path)
    assert table.splitlines()[:5] == [
        "|                      |  forward | forward+backward |",
        "|----------------------|---------:|-----------------:|",
        "| nn.LSTM packed       | 2 (1.00) |         8 (1.00) |",
        "| nn.LSTM padded       | 1 (2.00) |                  |",
        "| LSTM module lengths= |          |         2 (4.00) |",
    ]
    assert "at T=32 B=128 I=300 H=128 with lengths from 1 to T, median of 15" in table
    assert tables.table("cpu forward", tmp_path).startswith(tables.grid_table(TIMINGS))


def test_table_of_one_size_has_its_dtypes_and_threads(tmp_path: Path) -> None:
    timings = [timing(), timing(threads=1, median_ms=4.0), timing(T=7), timing(dtype="bfloat16", median_ms=9.0)]
    records.write(tmp_path / "grid.csv", FACTS, timings)
    table = tables.table("grid forward T=32 B=128 I=300 H=128", tmp_path)
    assert table.splitlines()[0] == "|         | float32, 2 threads | float32, 1 thread | bfloat16, 2 threads |"
    assert "Milliseconds for forward at T=32 B=128 I=300 H=128, median" in table
    with pytest.raises(ValueError, match="no timings of forward T=8"):
        tables.table("grid forward T=8", tmp_path)


def test_peaks_table(tmp_path: Path) -> None:
    records.write(tmp_path / "memory.csv", FACTS, PEAKS)
    table = tables.table("memory peaks", tmp_path)
    assert table.splitlines()[:4] == [
        "|                   | T=32 B=128 I=300 H=128 | T=1 B=128 I=300 H=128 |",
        "|-------------------|-----------------------:|----------------------:|",
        "| nn.LSTM           |              20 (1.00) |            0.3 (1.00) |",
        "| LSTM module (cpu) |              15 (0.75) |                       |",
    ]
    assert "median of 3 processes" in table


def test_fill_replaces_what_is_marked_and_nothing_else(tmp_path: Path) -> None:
    records.write(tmp_path / "cpu.csv", FACTS, TIMINGS)
    text = "before\n<!-- table:cpu forward -->\nold\n<!-- /table:cpu forward -->\nafter\n"
    filled = tables.fill(text, tmp_path)
    assert filled.startswith("before\n<!-- table:cpu forward -->\n|  ")
    assert filled.endswith("\n<!-- /table:cpu forward -->\nafter\n")
    assert "old" not in filled
    assert tables.grid_table(TIMINGS) in filled
    assert "CPU threads: 2; a CPU, 2 cores; torch 2.13.0; commit 0123456789ab; `x`." in filled
    assert tables.fill(filled, tmp_path) == filled


def test_a_table_of_uncommitted_code_says_so() -> None:
    assert "commit 0123456789ab-dirty;" in tables.provenance({**FACTS, "commit": "0123456789abcdef-dirty"})


def test_a_table_of_a_run_that_was_cut_short_says_so() -> None:
    assert tables.provenance({**FACTS, "measured": "3 of 12 cases"}).endswith("`x`; cut short after 3 of 12 cases.")
    assert tables.provenance({**FACTS, "measured": "12 of 12 cases"}) == tables.provenance(FACTS)


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- table:cpu forward -->\n", "table:cpu forward.* has no partner"),
        ("<!-- table:cpu forward -->\n<!-- /table:cpu -->\n", "has no partner"),
        ("<!-- table:cpu backward -->\n<!-- /table:cpu backward -->\n", "table:cpu backward: expected 'inference', "),
        ("<!-- table:cpu bars -->\n<!-- /table:cpu bars -->\n", "no forward.backward of nn.LSTM, full, dropout none"),
        ("<!-- table:cpu peaks -->\n<!-- /table:cpu peaks -->\n", "expected the columns .*median_bytes"),
        (
            "<!-- table:cpu forward+backward -->\n<!-- /table:cpu forward+backward -->\n",
            "no timings of forward.backward",
        ),
    ],
)
def test_fill_refuses_a_marker_that_it_cannot_serve(tmp_path: Path, text: str, message: str) -> None:
    records.write(tmp_path / "cpu.csv", FACTS, TIMINGS)
    with pytest.raises(ValueError, match=message):
        tables.fill(text, tmp_path)


def test_fill_shows_a_comparison_as_it_was_printed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the demo extra is not installed")
    pytest.importorskip("rich", reason="the demo extra is not installed")
    epoch = {"train_accuracy": 0.875, "train_loss": 0.3, "test_accuracy": 0.75, "test_loss": 0.5, "seconds": 2.0}
    layers = {"nn.LSTM": {"epochs": [epoch]}, "GalLSTM 0.5": {"epochs": [{**epoch, "seconds": 1.0}]}}
    (tmp_path / "compare.json").write_text(json.dumps({"facts": FACTS, "layers": layers}))
    filled = tables.fill("<!-- table:compare -->\n<!-- /table:compare -->\n", tmp_path)
    header, _, lstm_row, gal_row = filled.splitlines()[1:5]
    assert header.startswith("| layer ")
    assert lstm_row.startswith("| nn.LSTM     |") and "75.0%" in lstm_row
    assert gal_row.startswith("| GalLSTM 0.5 |") and gal_row.endswith("0.50 |")
    assert "a CPU, 2 cores; torch 2.13.0; commit 0123456789ab; `x`." in filled


def test_tables_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    records.write(tmp_path / "cpu.csv", FACTS, TIMINGS)
    readme = tmp_path / "README.md"
    stale = "<!-- table:cpu forward -->\n<!-- /table:cpu forward -->\n"
    readme.write_text(stale)
    assert tables.main(["--check", str(readme)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert readme.read_text() == stale
    assert tables.main([str(readme)]) == 0
    assert tables.main(["--check", str(readme)]) == 0
    (tmp_path / "cpu.csv").unlink()
    assert tables.main(["--check", str(readme)]) == 2
    assert "cpu.csv" in capsys.readouterr().err


@pytest.mark.skipif(not (PROJECT / "README.md").exists(), reason="no README")
def test_readme_is_made_from_the_committed_results() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert tables.MARKED.search(text), "no table is marked"
    assert tables.fill(text, tables.RESULTS) == text, "run `python -m bench.tables`"


# ---------------------------------------------------------------- bars


def measured_for_bars() -> list[Timing]:
    """nn.LSTM takes 100 ms everywhere, ours 50, the GEMMs 40, drawing 1."""
    ours = {"contender": records.MODULE, "backend": "cpu", "median_ms": 50.0}
    timings = []
    for size in (bars.SEMINAR, bars.LONG, bars.WIDE, bars.ONE):
        at = {**dict(zip("TBIH", size, strict=True)), "median_ms": 100.0}
        for phase in (INFERENCE, FORWARD_BACKWARD):
            timings.append(timing(**at, phase=phase))
            timings += [timing(**at | ours, phase=phase)]
            timings += [timing(**at | {"contender": records.GEMMS, "backend": b, "median_ms": ms}, phase=phase)
                        for b, ms in (("ATen", 60.0), ("oneDNN", 40.0))]  # fmt: skip
        for dropout, p, p_g in (bars.GAL, bars.SEMENIUTA):
            kind = {"dropout": dropout, "p": p, "p_g": p_g}
            timings.append(timing(**at | ours | kind, phase=FORWARD_BACKWARD))
            timings.append(timing(**at | ours | kind | {"median_ms": 1.0}, phase=MASKS))
    ragged = {**dict(zip("TBIH", bars.LONG, strict=True)), "phase": FORWARD_BACKWARD}
    timings.append(timing(**ragged, sequences="packed", median_ms=100.0))
    timings += [timing(**ragged | ours | {"sequences": form}) for form in ("packed", "lengths=", "padded")]
    return timings


def test_bars_are_met_or_missed_by_what_was_measured() -> None:
    found = bars.bars(measured_for_bars(), [])
    assert [(bar.required, bar.shown, bar.met) for bar in found] == [
        *((f"at least {bound}", "2.000", True) for bound in ("1.15", "1.90", "1.05")),
        *((f"at least {bound}", "2.000", True) for bound in ("1.05", "1.70", "1.00")),
        *((f"at least {bound}", "2.000", True) for bound in ("1.10", "1.60", "1.05")),
        ("at least 1.50", "2.000", True),
        ("at least 2.50", "2.000", False),
        ("at least 2.50", "2.000", False),
        ("at most 1.10", "1.000", True),
        ("at most 1.10", "1.250", False),
        ("at most 1.10", "1.250", False),
        *[("at most 2%", "2.00%", True)] * 6,
    ]


@pytest.mark.parametrize(
    "changed, by, what",
    [
        (
            {"contender": "LSTM module", "dropout": "Gal batch", "phase": FORWARD_BACKWARD, "T": 400},
            1.3,
            "nn.LSTM / ours, Gal p=0.5",
        ),
        ({"contender": "LSTM module", "dropout": "none", "phase": INFERENCE, "B": 1}, 1.5, "nn.LSTM / ours"),
        (
            {"contender": "LSTM module", "phase": MASKS, "p_g": 0.3, "T": 32},
            1.01,
            "drawing masks / all, Semeniuta p_g=0.3",
        ),
        ({"sequences": "padded"}, 0.9, "ours lengths= / ours padded"),
    ],
)
def test_a_bar_is_missed_where_its_own_timing_is_worse(changed: dict[str, object], by: float, what: str) -> None:
    worse = [
        dataclasses.replace(t, median_ms=t.median_ms * by) if all(getattr(t, k) == v for k, v in changed.items()) else t
        for t in measured_for_bars()
    ]
    before, after = (bars.bars(timings, []) for timings in (measured_for_bars(), worse))
    assert [new.what for old, new in zip(before, after, strict=True) if old.met and not new.met] == [what]


def test_bars_of_memory_and_of_the_largest_number_of_threads() -> None:
    sizes = [dict(zip("TBIH", size, strict=True)) for size in bars.SPEEDUPS]
    kinds = [dict(zip(("dropout", "p", "p_g"), kind, strict=True)) for kind in bars.KINDS.values()]
    ours = {"contender": records.MODULE, "backend": "cpu", "median_bytes": 21_000_000}
    peaks = [*(peak(**size) for size in sizes), *(peak(**size | kind | ours) for size in sizes for kind in kinds)]
    slower = [dataclasses.replace(t, threads=1, median_ms=9e9) for t in measured_for_bars()]
    with_peaks = bars.bars(slower + measured_for_bars(), peaks)
    without = bars.bars(measured_for_bars(), [])
    assert with_peaks[: len(without)] == without
    assert [(bar.required, bar.shown, bar.met) for bar in with_peaks[len(without) :]] == [
        ("at most 1.00", "1.050", False)
    ] * 9


def test_bars_name_what_was_not_measured() -> None:
    timings = [t for t in measured_for_bars() if t.phase != MASKS]
    with pytest.raises(ValueError, match="no masks of LSTM module, full, dropout Gal batch 0.5 0.0, T=32 B=128"):
        bars.bars(timings, [])


def test_bars_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(tmp_path / "cpu.csv", FACTS, measured_for_bars())
    assert bars.main([str(tmp_path / "cpu.csv")]) == 0
    assert "17 of 21 met. a CPU, 2 cores" in (printed := capsys.readouterr().out)
    assert tables.table("cpu bars", tmp_path).splitlines()[0] == printed.splitlines()[0]
    records.write(tmp_path / "memory.csv", FACTS, PEAKS)
    assert bars.main([str(tmp_path / "cpu.csv")]) == 2
    assert "no peak of LSTM module" in capsys.readouterr().err


def test_the_grid_has_everything_that_the_bars_need() -> None:
    cases = {(tuple(case.size), case.who == lstm.RAGGED) for case in lstm.GRIDS["cpu"] if case.dtype == "float32"}
    assert cases >= {(size, False) for size in (*bars.SPEEDUPS, bars.ONE)} | {(bars.LONG, True)}


def measured_for_cuda_bars() -> list[Timing]:
    """nn.LSTM takes 100 ms everywhere, the loop 900, ours 50; ours on an engine by name, and without dropout, 1."""
    timings = []
    for case in bars.CUDA:
        for phase in (FORWARD, FORWARD_BACKWARD):
            at = {**dict(zip("TBIH", case.size, strict=True)), "dtype": case.dtype, "phase": phase}
            both = dict(zip(("dropout", "p", "p_g"), bars.BOTH, strict=True))
            module = {"contender": records.MODULE, "backend": "cuda", "sequences": case.ours}
            timings += [
                timing(**at, sequences=case.lstm, median_ms=100.0),
                timing(**at, contender=records.CELL_LOOP, sequences=case.loop, median_ms=900.0),
                timing(**at | module | both, median_ms=50.0),
                timing(**at | module, median_ms=1.0),
                timing(**at | both, contender=records.OP, backend="cuda grid", median_ms=1.0),
            ]
    return timings


def test_cuda_bars_are_of_ours_with_both_dropouts_against_those_without() -> None:
    found = bars.bars_of({"device": "NVIDIA H100"}, measured_for_cuda_bars(), [])
    speedups = [case.speedup for case in bars.CUDA for _ in (FORWARD, FORWARD_BACKWARD)]
    assert speedups[::2] == [2, 2, 2, 1.5, 1, 1.3, 2, 4]
    assert [(bar.bound, bar.shown, bar.met) for bar in found[::2]] == [(s, "2.000", s <= 2) for s in speedups]
    assert [(bar.bound, bar.shown, bar.met) for bar in found[1::2]] == [(15, "18.000", True)] * len(speedups)
    assert found[-2].case == "T=512 B=64 I=256 H=256, bfloat16, lengths=, forward+backward"
    assert found[-2].what == "packed nn.LSTM / ours, both dropouts"
    assert found[-6].case == "T=256 B=64 I=256 H=256, bfloat16, 2 layers, bidirectional, forward+backward"


@pytest.mark.parametrize("phase", [FORWARD, FORWARD_BACKWARD])
@pytest.mark.parametrize("case", bars.CUDA, ids=str)
def test_a_cuda_bar_is_missed_where_its_own_timing_is_worse(case: bars.CudaCase, phase: str) -> None:
    def is_it(t: Timing) -> bool:
        of_case = (t.T, t.B, t.I, t.H, t.dtype, t.phase, t.sequences) == (*case.size, case.dtype, phase, case.ours)
        return of_case and t.contender == records.MODULE and t.dropout == "both"

    slower = [dataclasses.replace(t, median_ms=500.0) if is_it(t) else t for t in measured_for_cuda_bars()]
    before, after = (bars.cuda_bars(timings) for timings in (measured_for_cuda_bars(), slower))
    changed = [new.case for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 2 and changed[0] == changed[1] and changed[0].endswith(f", {phase}")
    assert not any(new.met for old, new in zip(before, after, strict=True) if old != new)


def test_cuda_bars_name_what_was_not_measured() -> None:
    timings = [t for t in measured_for_cuda_bars() if t.dtype != "float16" or t.contender != records.MODULE]
    with pytest.raises(ValueError, match="no forward of LSTM module, full, dropout both 0.5 0.3, T=1024 .*, float16"):
        bars.cuda_bars(timings)


def test_the_cuda_grid_has_everything_that_its_bars_need() -> None:
    forms = {records.PACKED: lstm.RAGGED, records.FULL: "all", records.STACK: records.STACK}
    cases = {(tuple(case.size), case.dtype, case.who) for case in lstm.GRIDS["cuda"]}
    assert cases >= {(case.size, case.dtype, forms[case.lstm]) for case in bars.CUDA}


def test_cuda_bars_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(tmp_path / "cuda.csv", FACTS | {"device": "NVIDIA H100"}, measured_for_cuda_bars())
    assert bars.main([str(tmp_path / "cuda.csv")]) == 0
    assert "30 of 32 met. NVIDIA H100; " in (printed := capsys.readouterr().out)
    assert tables.table("cuda bars", tmp_path).splitlines()[0] == printed.splitlines()[0]


# ---------------------------------------------------------------- curves


def test_lines_go_through_what_differs_along_one_axis() -> None:
    centre = {**lstm.CENTRE._asdict(), "phase": FORWARD_BACKWARD}
    ours = {"contender": records.MODULE, "backend": "cpu"}
    gal = {"dropout": "Gal batch", "p": 0.5}
    timings = [
        timing(**centre | {"T": 128}, median_ms=4.0),
        timing(**centre, median_ms=2.0),
        timing(**centre | {"T": 128, "B": 1}, median_ms=9.0),
        *(
            timing(**centre | {"contender": records.GEMMS, "backend": b, "median_ms": ms})
            for b, ms in (("a", 3.0), ("b", 1.0))
        ),
        timing(**centre | ours, median_ms=1.75),
        timing(**centre | ours | gal, median_ms=1.5),
        timing(**centre | ours | gal | {"p": 0.9}, median_ms=1.25),
    ]
    along_t = curves.lines(timings, "T")
    assert along_t["nn.LSTM"] == [(64, 2.0), (128, 4.0)]
    assert along_t["GEMMs alone (dense)"] == [(64, 1.0)]
    assert along_t["ours, Gal p=0.5"] == [(64, 1.5)]
    assert "nn.LSTMCell loop" not in along_t
    along_p = curves.lines(timings, "p")
    assert along_p["ours, Gal p=0.5"] == [(0.0, 1.75), (0.5, 1.5), (0.9, 1.25)]
    assert along_p["nn.LSTM"] == [(0.0, 2.0), (1.0, 2.0)]
    assert "ours, Semeniuta p_g=0.3" not in along_p


def test_no_two_lines_look_alike_without_colour() -> None:
    assert len({line.marker for line in curves.LINES.values()}) == len(curves.LINES)


def test_the_scaling_grid_gives_every_line_points() -> None:
    kinds = {(case.size, p) for case in lstm.GRIDS["scaling"] for p in case.ps or (0.5,)}
    for axis in "TBIH":
        assert len({getattr(size, axis) for size, _ in kinds if curves_along(size, axis)}) >= 5
    assert {(lstm.CENTRE, p) for p in (0.3, 0.5, 0.9)} <= kinds


def curves_along(size: Size, axis: str) -> bool:
    return size._replace(**{axis: 0}) == lstm.CENTRE._replace(**{axis: 0})


def test_curves_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the demo extra is not installed")
    image = pytest.importorskip("PIL.Image")
    centre = lstm.CENTRE._asdict()
    timings = [
        timing(**centre | {"T": T}, threads=threads, phase=phase)
        for threads in (1, 2)
        for phase in (INFERENCE, FORWARD_BACKWARD)
        for T in (16, 32)
    ]
    file = tmp_path / "grid.csv"
    records.write(file, FACTS, timings)
    assert curves.main([str(file)]) == 0
    for png in ("grid-inference-1-thread.png", "grid-training-2-threads.png"):
        with image.open(tmp_path / png) as drawn:
            assert drawn.text["Source"] == f"grid.csv sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    records.write(file, FACTS, [timing(threads=1)])
    assert curves.main([str(file)]) == 2
    assert "grid.csv: expected timings of inference, float32, 1 thread" in capsys.readouterr().err


def test_readmes_curves_are_drawn_from_the_committed_results() -> None:
    image = pytest.importorskip("PIL.Image")
    names = re.findall(r"\]\((bench/results/[^)]*\.png)\)", (PROJECT / "README.md").read_text(encoding="utf-8"))
    assert names, "no curves are shown"
    for name in names:
        with image.open(PROJECT / name) as drawn:
            assert drawn.text["Source"] == curves.fingerprint(tables.RESULTS / "scaling.csv"), (
                "run `python -m bench.curves`"
            )


# ---------------------------------------------------------------- memory


def test_peak_is_what_was_alive_at_once() -> None:
    megabyte = 1 << 20

    with_one, with_four = (memory.in_a_process(peak_after_a_larger_one, call) for call in ("in turn", "together"))
    assert abs(with_one - 8 * megabyte) < megabyte
    assert abs(with_four - 32 * megabyte) < megabyte


def peak_after_a_larger_one(which: str) -> int:
    """In bytes; what was freed before is not to hide any of it."""
    torch.set_num_threads(1)  # those of pytest's process were not forked
    float(torch.ones(1 << 25).sum())  # and what is called below is loaded
    small = [torch.ones(1 << 14) for _ in range(100)]
    del small
    calls = {
        "in turn": lambda: [float(torch.ones(1 << 21).sum()) for _ in range(4)],
        "together": lambda: [torch.ones(1 << 21) for _ in range(4)],
    }
    return memory.peak_of(calls[which], CPU)


def test_memory_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.csv"
    argv = ["--size", "20,16,24,32", "--repeats", "2", "--backends", OURS[0], "--threads", "1", "--out", str(out)]
    assert memory.main(argv) == 0
    facts, peaks = records.read(out, Peak)
    assert facts["command"].startswith("python -m bench.memory --size 20,16,24,32")
    assert "resident, VmHWM" in facts["weighed"]
    assert [(p.contender, p.dropout, p.p, p.p_g) for p in peaks] == [
        ("nn.LSTM", "none", 0.0, 0.0),
        ("nn.LSTMCell loop", "none", 0.0, 0.0),
        ("LSTM module", "none", 0.0, 0.0),
        ("LSTM module", "Gal batch", 0.5, 0.0),
        ("LSTM module", "Semeniuta step", 0.0, 0.3),
        ("LSTM module", "Semeniuta sequence", 0.0, 0.3),
    ]
    for p in peaks:
        assert (p.T, p.B, p.I, p.H, p.threads, p.repeats) == (20, 16, 24, 32, 1, 2)
        # y and the saved gates at least
        assert 20 * 16 * 5 * 32 * 4 <= p.min_bytes <= p.median_bytes <= p.max_bytes < 100 << 20
    assert tables.peaks_table(peaks) in capsys.readouterr().out


def test_memory_of_a_wrong_contender_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contenders, "nn_lstm", without_gradient_through_h_n)
    argv = ["--size", "3,2,4,5", "--backends", "python", "--threads", "1", "--out", str(tmp_path / "m.csv")]
    assert memory.main(argv) == 1
    assert "nn.LSTM, dropout none (T=3 B=2 I=4 H=5, torch.float32) is wrong" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what is timed


@pytest.mark.parametrize("kind", contenders.dropouts([0.5], [0.75]), ids=str)
def test_masks_are_drawn_as_the_name_says(kind: contenders.Dropout) -> None:
    T, B, I, H = 20, 10, 30, 40
    shapes = {
        "none": (None, None, None),
        "Gal batch": ((I,), (H,), None),
        "Gal sample": ((B, I), (B, H), None),
        "Semeniuta step": (None, None, (T, B, H)),
        "Semeniuta sequence": (None, None, (H,)),
        "both": ((I,), (H,), (T, B, H)),
    }
    drawn = kind.draw(Size(T, B, I, H), torch.float32, CPU)
    masks = (drawn.x, drawn.h, drawn.g)
    assert tuple(mask if mask is None else tuple(mask.shape) for mask in masks) == shapes[kind.name]
    for mask, kept in zip(masks, (2.0, 2.0, 4.0), strict=True):
        assert mask is None or set(mask.unique().tolist()) == {0.0, kept}


def test_every_backend_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = functional.lstm_layer
    monkeypatch.setattr(functional, "lstm_layer", lambda *a, backend, **k: asked.append(backend) or real(*a, **k))
    for contender in contenders.layers(
        Problem(SMALL, torch.float32, CPU), ["cpu", "python"], contenders.dropouts([0.5], [0.3])
    ):
        contender.forward()
    assert asked == ["cpu"] * 6 + ["python"] * 2


@pytest.mark.parametrize("kind", contenders.dropouts([0.5], [0.75]), ids=str)
def test_the_module_draws_the_masks_that_its_dropout_says(
    kind: contenders.Dropout, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(SMALL, torch.float32, CPU)
    module = problem.module("python", kind)
    contender = contenders.ModuleContender(
        "LSTM module", "python", kind, contenders.as_module(module, "full"), problem, module=module
    )
    used = []
    real = reference.lstm_steps
    monkeypatch.setattr(reference, "lstm_steps", lambda **given: used.append(given) or real(**given))
    contender.forward()
    contender.forward()
    drawn = kind.draw(SMALL, torch.float32, CPU)
    for given in used:
        for name, like in (("mask_x", drawn.x), ("mask_h", drawn.h), ("mask_g", drawn.g)):
            assert (given[name] is None) == (like is None)
            assert like is None or given[name].shape == like.shape
    for phase in (MASKS,) if kind.p or kind.p_g else ():
        [masks] = contender.calls[phase]()
        assert [mask is None for mask in masks[:3]] == [mask is None for mask in drawn[:3]]
    assert (INFERENCE in contender.calls) == (not kind.p and not kind.p_g)


def test_modules_have_the_weights_of_the_problem_themselves() -> None:
    problem = Problem(SMALL, torch.float32, CPU)
    module = problem.module(OURS[0], contenders.NO_DROPOUT)
    assert all(ours is theirs for ours, theirs in zip(module.parameters(), problem.lstm.parameters(), strict=True))
    problem.gradients(contenders.as_module(module, "full")(problem, contenders.NO_MASKS))  # of all that is asked for


def test_inference_is_in_eval_and_keeps_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(SMALL, torch.float32, CPU)
    modes = []

    def layer(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
        modes.append((problem.lstm.training, torch.is_grad_enabled()))
        return contenders.nn_lstm(problem, masks)

    contender = contenders.LayerContender("nn.LSTM", "", contenders.NO_DROPOUT, layer, problem)
    monkeypatch.setattr(lstm, "SHORTEST_MEASUREMENT_MS", 0.0)
    timings = lstm.measure(problem, [contender], repeats=1)  # after two rounds that warm up
    assert [t.phase for t in timings] == [FORWARD_BACKWARD, FORWARD, INFERENCE]
    assert modes == [(True, True)] * 6 + [(False, False)] * 3
    assert not contender.inference()[0].requires_grad


def test_an_inference_that_differs_is_found() -> None:
    problem = Problem(SMALL, torch.float32, CPU)

    def layer(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, c_n = contenders.nn_lstm(problem, masks)
        return y, h_n if torch.is_grad_enabled() else 2 * h_n, c_n

    with pytest.raises(contenders.VerificationError, match="h_n in eval is off"):
        contenders.verify(problem, [contenders.LayerContender("x", "", contenders.NO_DROPOUT, layer, problem)])


# ---------------------------------------------------------------- what is timed on CUDA


class FakeEngines:
    """rnndrop_cuda's two names for engines, of which only some can run."""

    def __init__(self, usable: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.usable, self.current, self.log = usable, "auto", []
        monkeypatch.setattr(rnndrop_cuda, "cuda_engine", self.cuda_engine, raising=False)
        monkeypatch.setattr(rnndrop_cuda, "explain_engine", self.explain_engine, raising=False)
        real = functional.lstm_layer

        def lstm_layer(*args: object, backend: str, **options: object) -> object:
            self.log.append((self.current, backend))
            return real(*args, **options, backend="python")

        monkeypatch.setattr(functional, "lstm_layer", lstm_layer)

    @contextlib.contextmanager
    def cuda_engine(self, name: str) -> Iterator[None]:
        self.current = name
        yield
        self.current = "auto"

    def explain_engine(self, T: int, B: int, I: int, H: int, dtype: torch.dtype = torch.float32) -> str:
        run = self.current if self.current in self.usable else "stepwise"
        return f"forward   {run}: a reason\nbackward  {run}: another"


def test_engines_are_timed_by_name_and_the_others_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeEngines(("stepwise", "grid"), monkeypatch)
    problem = Problem(SMALL, torch.float32, CPU)
    kinds = contenders.dropouts([0.5], [0.3])
    found = contenders.by_engine(problem, [kinds[0], kinds[-1]])
    assert [(c.name, c.backend, c.dropout.name) for c in found] == [
        ("rnndrop", f"cuda {engine}", kind) for engine in ("stepwise", "grid") for kind in ("none", "both")
    ]
    assert problem.left_out == [
        f"engine {engine}: forward   stepwise: a reason | backward  stepwise: another"
        for engine in ("block", "cluster")
    ]
    contenders.verify(problem, found)
    monkeypatch.setattr(lstm, "SHORTEST_MEASUREMENT_MS", 0.0)
    lstm.measure(problem, found, repeats=1)
    assert set(fake.log) == {("stepwise", "cuda"), ("grid", "cuda")}


def test_what_cuda_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEngines(("stepwise",), monkeypatch)
    monkeypatch.setattr(rivals, "RIVALS", {})
    kinds = contenders.dropouts([0.5], [0.3])
    found = contenders.cuda_layers(Problem(SMALL, torch.float32, CPU), ["python"], kinds)
    assert [c.name for c in found if c.dropout.name == "none"] == [
        "nn.LSTM", "nn.LSTMCell loop", "rnndrop", "LSTM module",
    ]  # fmt: skip
    ragged = Problem(SMALL, torch.float32, CPU, ragged=True)
    *_, loop = found = contenders.cuda_ragged_layers(ragged, ["python"], kinds)
    assert (loop.name, loop.sequences) == ("nn.LSTMCell loop", "padded")
    contenders.verify(ragged, found)


def test_both_dropouts_of_the_module_are_timed_on_cuda_only() -> None:
    kinds = contenders.dropouts([0.5], [0.3])
    problem = Problem(SMALL, torch.float32, CPU)
    on_cpu = contenders.ours(problem, ["python"], kinds, ["full"])
    problem.device = torch.device("cuda")  # whose tensors nobody makes
    on_cuda = contenders.ours(problem, ["python"], kinds, ["full"])
    assert [c.dropout.name for c in on_cpu] == list(contenders.MAIN_KINDS)
    assert [c.dropout.name for c in on_cuda] == list(contenders.CUDA_KINDS)


def test_a_stack_is_compared_with_the_reference_dropout_and_all() -> None:
    problem = Problem(Size(T=5, B=3, I=4, H=6), torch.float32, CPU, stack=True)
    kinds = contenders.dropouts([0.5], [0.3])
    found = contenders.stack_layers(problem, OURS, kinds)
    found += [
        contenders.ModuleContender(c.name, c.backend, kinds[-1], c.layer, problem, c.sequences, module=c.module)
        for c in found[2:3]
    ]
    contenders.verify(problem, found)
    assert {c.sequences for c in found} == {records.STACK}
    assert [c.name for c in found[:3]] == ["nn.LSTM", "nn.LSTMCell loop", "LSTM module"]
    assert contenders.floors(problem) == []

    def without_mask_h_of_the_last(problem: Problem, masks: list[LayerMasks]) -> tuple[Tensor, Tensor, Tensor]:
        return found[-1].layer(problem, [*masks[:-1], masks[-1]._replace(h=None)])

    wrong = contenders.LayerContender("wrong", "", kinds[-1], without_mask_h_of_the_last, problem, records.STACK)
    with pytest.raises(contenders.VerificationError, match="wrong 2 layers, bidirectional, dropout both .* is off"):
        contenders.verify(problem, [wrong])


def test_rivals_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "MOST_COMPILED_STEPS", 2)
    for name in ("haste_pytorch", "flashrnn"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    problem = Problem(SMALL, torch.float32, CPU)
    assert rivals.running(problem) == []
    assert problem.left_out == [
        "nn.LSTMCell loop in a CUDA graph: needs CUDA",
        "nn.LSTMCell loop compiled: unrolls the loop: more than 2 steps would take too long to compile",
        "Haste: import of haste_pytorch halted; None in sys.modules",
        "FlashRNN: import of flashrnn halted; None in sys.modules",
    ]


class FakeHaste(torch.nn.Module):
    """haste_pytorch.LSTM by its documentation: kernels (input, 4 hidden), gates i, g, f, o, one bias."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        shapes = {"kernel": (input_size, 4 * hidden_size), "recurrent_kernel": (hidden_size, 4 * hidden_size)}
        for name, shape in {**shapes, "bias": (4 * hidden_size,)}.items():
            setattr(self, name, torch.nn.Parameter(torch.empty(shape)))

    def from_native_weights(self, W_ih: Tensor, W_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> None:
        for name, weight in (("kernel", W_ih.t()), ("recurrent_kernel", W_hh.t()), ("bias", b_ih + b_hh)):
            i, f, g, o = weight.chunk(4, dim=-1)
            setattr(self, name, torch.nn.Parameter(torch.cat([i, g, f, o], dim=-1)))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        (h,), (c,) = state
        y = []
        for x_t in x.unbind():
            i, g, f, o = (x_t @ self.kernel + h @ self.recurrent_kernel + self.bias).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            y.append(h)
        return torch.stack(y), (h[None], c[None])


def fake_flashrnn(
    Wx: Tensor, R: Tensor, b: Tensor, states: Tensor, function: str, backend: str, dtype: str
) -> tuple[Tensor, Tensor]:
    """flashrnn.flashrnn by its documentation: Wx[B,T,G,N,D], R[G,N,D,D], b[G,N,D], states[S,B,1,N,D]."""
    assert (function, backend, dtype) == ("lstm", "cuda_fused", "float32")
    h, c = states[:, :, 0]
    of_steps = []
    for x_t in Wx.unbind(1):
        i, f, g, o = (x_t + torch.einsum("gndp,bnp->bgnd", R, h) + b).unbind(1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        of_steps.append(torch.stack([h, c]))
    return torch.stack(of_steps, dim=2), of_steps[-1].unsqueeze(2)


def test_rivals_that_are_there_are_right_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "haste_pytorch", types.SimpleNamespace(LSTM=FakeHaste))
    monkeypatch.setitem(sys.modules, "flashrnn", types.SimpleNamespace(flashrnn=fake_flashrnn))
    monkeypatch.setattr(torch, "compile", lambda module, mode: module)
    # What make_graphed_callables gives is called as the module is.
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda module, arguments: module)
    monkeypatch.setattr(rivals, "has_graphs", lambda device: True)
    problem = Problem(Size(T=4, B=3, I=5, H=6), torch.float32, CPU)
    found = rivals.running(problem)
    assert [c.name for c in found] == list(rivals.RIVALS)
    timings = lstm.measure(problem, found, repeats=1)
    assert {t.phase for t in timings} == {FORWARD, FORWARD_BACKWARD}


def test_a_rival_that_is_wrong_or_has_no_kernel_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_bias(Wx: Tensor, R: Tensor, b: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return fake_flashrnn(Wx, R, 0 * b, **options)

    monkeypatch.setitem(sys.modules, "haste_pytorch", types.SimpleNamespace(LSTM=FakeHaste))
    monkeypatch.setitem(sys.modules, "flashrnn", types.SimpleNamespace(flashrnn=without_bias))
    monkeypatch.setattr(rivals, "RIVALS", {"FlashRNN": rivals.flashrnn, "Haste": rivals.haste})
    problem = Problem(Size(T=4, B=3, I=5, H=6), torch.float32, CPU)
    assert [c.name for c in rivals.running(problem)] == ["Haste"]
    [line] = problem.left_out
    assert line.startswith("FlashRNN: FlashRNN, dropout none") and "y is off" in line
    with pytest.raises(RuntimeError, match="has no kernels for torch.bfloat16"):
        rivals.haste(Problem(SMALL, torch.bfloat16, CPU))


# ---------------------------------------------------------------- lengths


@pytest.mark.parametrize("B", [1, 2, 5, 64])
def test_random_lengths_are_from_1_to_t_with_half_of_it_on_average(B: int) -> None:
    lengths = contenders.random_lengths(200, B)
    assert lengths.shape == (B,) and lengths.max() == 200 and lengths.min() >= 1
    if B % 2 == 0:
        assert lengths.min() == 1
        assert lengths.double().mean() == 100.5


RAGGED_FORMS = ["packed", "padded", "packed", "lengths=", "padded"]


def test_ragged_contenders_agree_with_the_reference_up_to_the_end_of_each_sequence() -> None:
    problem = Problem(Size(T=9, B=4, I=5, H=6), torch.float32, CPU, ragged=True)
    ragged = contenders.ragged_layers(problem, OURS, contenders.dropouts([0.5], [0.3]))
    assert [c.sequences for c in ragged if c.dropout.name == "none"] == RAGGED_FORMS
    assert {c.dropout.name for c in ragged if c.name == records.MODULE} == set(contenders.MAIN_KINDS)
    contenders.verify(problem, ragged)
    past_the_end = torch.arange(9).unsqueeze(1) >= problem.lengths
    assert past_the_end.any()
    for contender in ragged:
        y, _, _ = contender.forward()
        assert bool(y[past_the_end].any()) == (contender.sequences == "padded")


def ignoring_lengths(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    return contenders.nn_lstm(problem, masks)


def with_a_trace_past_the_end(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = contenders.as_module(problem.lstm, "packed")(problem, masks)
    return y + 1e-12 * (y == 0), h_n, c_n


def with_a_gradient_past_the_end(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = contenders.as_module(problem.lstm, "packed")(problem, masks)
    return y + 1e-12 * (problem.x.sum() - problem.x.sum().detach()) * (y != 0), h_n, c_n


@pytest.mark.parametrize(
    "layer, found",
    [
        (ignoring_lengths, "y is not zero past the end"),
        (with_a_trace_past_the_end, "y is not zero past the end"),
        (with_a_gradient_past_the_end, "the gradient of x is not zero past the end"),
    ],
)
def test_a_contender_wrong_about_lengths_is_found(layer: contenders.Layer, found: str) -> None:
    problem = Problem(Size(T=9, B=4, I=5, H=6), torch.float32, CPU, ragged=True)
    contender = contenders.LayerContender("nn.LSTM", "", contenders.NO_DROPOUT, layer, problem, "packed")
    with pytest.raises(contenders.VerificationError, match=f"nn.LSTM packed, dropout none .*{found}"):
        contenders.verify(problem, [contender])


def test_the_ragged_floor_leaves_out_the_steps_that_are_not_there() -> None:
    problem = Problem(Size(T=9, B=4, I=5, H=6), torch.float32, CPU, ragged=True)
    flops = []

    def count(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
        flops.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return contenders.aten(out, a, b, accumulate)

    contenders.Gemms(problem, "counted", count).forward_backward()
    assert sum(flops) == 3 * 2 * int(problem.lengths.sum()) * 4 * 6 * (5 + 6)


def without(name: str) -> contenders.Layer:
    """The layer, with one of the masks forgotten."""
    layer = contenders.rnndrop("python")
    return lambda problem, masks: layer(problem, masks._replace(**{name: None}))


def without_gradient_through_h_n(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = contenders.rnndrop("python")(problem, masks)
    return y, h_n.detach() + 0 * h_n, c_n


def with_one_nan(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = contenders.rnndrop("python")(problem, masks)
    return y, h_n, torch.where(torch.arange(c_n.numel()).view_as(c_n) == 3, torch.nan, c_n)


@pytest.mark.parametrize(
    "layer, found",
    [
        (without("x"), "y is off"),
        (without("h"), "y is off"),
        (without("g"), "y is off"),
        (without_gradient_through_h_n, "the gradient of x is off"),
        (with_one_nan, "c_n is off by inf"),
    ],
)
def test_a_wrong_contender_is_found(layer: contenders.Layer, found: str) -> None:
    problem = Problem(Size(T=6, B=7, I=8, H=9), torch.float32, CPU)
    kind = contenders.Dropout("both", 0.5, 0.3)
    right = contenders.LayerContender("right", "", kind, contenders.rnndrop("python"), problem)
    contenders.verify(problem, [right])
    with pytest.raises(contenders.VerificationError, match=f"wrong, dropout both .*{found}"):
        contenders.verify(problem, [right, contenders.LayerContender("wrong", "", kind, layer, problem)])


def test_the_floor_does_every_product_of_a_dense_lstm_once() -> None:
    T, B, I, H = SMALL
    flops = []

    def count(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
        assert out.shape == (a.shape[0], b.shape[1])
        flops.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return contenders.aten(out, a, b, accumulate)

    gemms = contenders.Gemms(Problem(SMALL, torch.float32, CPU), "counted", count)
    gemms.rows = 4  # of the 6 that there are
    gemms.forward()
    assert sum(flops) == 2 * T * B * 4 * H * (I + H)
    torch.testing.assert_close(gemms.gates, gemms.x @ gemms.W_ih.t() + (gemms.h @ gemms.W_hh.t()).repeat(T, 1))
    flops.clear()
    gemms.forward_backward()
    assert sum(flops) == 3 * 2 * T * B * 4 * H * (I + H)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("accumulate", [False, True])
def test_onednn_floor_multiplies_what_the_aten_floor_does(accumulate: bool) -> None:
    out, a, b = torch.randn(6, 4), torch.randn(6, 5), torch.randn(4, 5).t()
    product = contenders.onednn(out, a, b, accumulate)
    torch.testing.assert_close(product, contenders.aten(out, a, b, accumulate))


# ---------------------------------------------------------------- the command


def test_benchmark_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "t.csv"
    command = [
        sys.executable,
        "-m",
        "bench.lstm",
        "--size",
        "3,2,4,5",
        "--p",
        "0.25",
        "--repeats",
        "4",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [*command, "--backends", *OURS, "--out", str(out)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    facts, timings = records.read(out)
    assert facts["torch"] == torch.__version__
    assert facts["measured"] == "1 of 1 cases"
    assert facts["command"].startswith("python -m bench.lstm --size 3,2,4,5 --p 0.25")
    assert {"date", "machine", "device", "commit", "load at the start", "load at the end"} <= facts.keys()
    kinds = contenders.dropouts([0.25], [0.3])
    problem = Problem(SMALL, torch.float32, CPU)
    everyone = [*contenders.layers(problem, OURS, kinds), *contenders.floors(problem)]
    for phase in (MASKS, INFERENCE, FORWARD, FORWARD_BACKWARD):
        timed = [(t.contender, t.backend, t.dropout, t.p, t.p_g) for t in timings if t.phase == phase]
        those = [c for c in everyone if phase in c.calls]
        assert timed == [(c.name, c.backend, c.dropout.name, c.dropout.p, c.dropout.p_g) for c in those]
    assert [(c.dropout.name, c.backend) for c in everyone if MASKS in c.calls] == [
        ("Gal batch", OURS[0]), ("Semeniuta step", OURS[0]), ("Semeniuta sequence", OURS[0]),
    ]  # fmt: skip
    assert {c.name for c in everyone if INFERENCE in c.calls} == {
        "nn.LSTM", "nn.LSTMCell loop", "rnndrop", "LSTM module", "GEMMs alone",
    }  # fmt: skip
    for t in timings:
        looped = t.contender == "nn.LSTMCell loop" or t.backend == "python"
        assert (t.T, t.B, t.I, t.H, t.dtype, t.threads) == (3, 2, 4, 5, "float32", 1)
        assert t.repeats == (2 if looped else 4)  # the rounds 0 and 3
        assert 0 < t.min_ms <= t.q1_ms <= t.median_ms <= t.q3_ms <= t.max_ms < math.inf
    assert tables.case_table(timings) in done.stdout


def test_nothing_is_timed_or_written_when_a_contender_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contenders, "nn_lstm", lambda problem, masks: without_gradient_through_h_n(problem, masks))
    monkeypatch.setattr(lstm, "measure", lambda *_: pytest.fail("a wrong contender was timed"))
    argv = ["--size", "3,2,4,5", "--backends", "python", "--out", str(tmp_path / "t.csv")]
    assert lstm.main(argv) == 1
    assert "nn.LSTM, dropout none (T=3 B=2 I=4 H=5, torch.float32) is wrong" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--size", "1,2,3"], "expected four whole numbers T,B,I,H, got '1,2,3'"),
        (["--size", "1,2,3,0"], "expected a whole number of at least 1, got '0'"),
        (["--p", "1"], "expected a number above 0 and below 1, got '1'"),
        (["--p-g", "nan"], "expected a number above 0 and below 1, got 'nan'"),
        (["--repeats", "few"], "expected a whole number of at least 1, got 'few'"),
        (["--grid", "cpu", "--size", "1,1,1,1"], "not allowed with"),
        (["--lengths"], "expected --size beside it"),
        (["--backends", "cuda"], "--backends cuda does not run on --device cpu"),
        (["--out", "."], "--out .: expected a file, this is a folder"),
        (["--out", "/proc/x/t.csv"], "/proc/x"),
        pytest.param(["--device", "cuda"], "torch sees no CUDA device", marks=no_gpu),
    ],
)
def test_bad_options_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = lstm.main(argv)
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_missing_backend_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(functional, "usable_backends", lambda: {"cpu": "not built", "cuda": "", "python": ""})
    assert lstm.main([]) == 2
    assert "backend cpu cannot run: not built" in capsys.readouterr().err


# ---------------------------------------------------------------- on a CUDA host


@needs_kernels
def test_small_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(functional, "KERNEL_DTYPES", (torch.float32,))
    assert small_case.main(["--device", "cpu"]) == 0
    assert "torch.float32: largest relative error" in capsys.readouterr().out
    real = functional.lstm_layer
    monkeypatch.setattr(functional, "lstm_layer", lambda *a, mask_g, **k: real(*a, mask_g=None, **k))
    assert small_case.main(["--device", "cpu"]) == 1


def test_small_cases_reach_every_engine_in_every_dtype_with_and_without_lengths_and_reverse() -> None:
    found = list(small_case.cases(len(contenders.ENGINES)))
    seen = {
        (engine, case.dtype, case.tf32, case.H, case.options.get("lengths") is not None, case.options["reverse"])
        for case, engine in zip(found, itertools.cycle(contenders.ENGINES), strict=False)
    }
    assert len(seen) == len(contenders.ENGINES) * (len(functional.KERNEL_DTYPES) + 1) * 2 * 2 * 2
    of_long = [k % len(contenders.ENGINES) for k, case in enumerate(found) if case.T == small_case.LONG]
    assert sorted(of_long) == list(range(len(contenders.ENGINES)))


def test_small_cases_of_an_engine_are_of_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        small_case.main(["--device", "cpu", "--engine", "grid"])
    assert "argument --engine: expected --device cuda" in capsys.readouterr().err


@no_gpu
def test_gpu_check_without_a_gpu_says_so_and_runs_nothing(tmp_path: Path) -> None:
    status, log = gpu_check(tmp_path / "out", PYTHON=sys.executable)
    assert status == 2
    assert "no GPU" in log
    assert not (tmp_path / "out").exists()


def gpu_check(out: Path, *parts: str, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        [PROJECT / "bench" / "gpu_check.sh", *parts],
        env=os.environ | {"OUT": str(out)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.fixture
def gpu_host(tmp_path: Path) -> dict[str, str]:
    """The environment of a host where every tool does nothing and succeeds; python fails where $BROKEN says."""
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = {
        "python3": 'if [ -n "$BROKEN" ]; then case "$*" in *$BROKEN*) exit 7;; esac; fi; echo "python3 $*"',
        "nvidia-smi": 'echo "one GPU"',
        "compute-sanitizer": 'echo "compute-sanitizer $*"; while [ "$1" != python3 ]; do shift; done; "$@"',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "python3", "BROKEN": ""}


STEPS_OF = {
    "build": ["build", "info"],
    "tests": ["tests"],
    "latency": ["latency"],
    "sanitize": ["memcheck", "racecheck", "initcheck", "synccheck"],
    "bench": ["bench", "bars"],
    "compare": ["compare"],
}
STEPS = [step for steps in STEPS_OF.values() for step in steps]


def verdicts_in(out: Path) -> list[str]:
    """The summary's lines up to the first comma, but for its headings."""
    lines = (out / "summary.txt").read_text().splitlines()
    return [line.split(",")[0] for line in lines if not line.startswith("== ")]


def test_gpu_check_runs_every_step_into_one_folder(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    out = tmp_path / "out"
    status, log = gpu_check(out, **gpu_host)
    assert status == 0, log
    assert sorted(file.name for file in out.iterdir()) == sorted([*(f"{step}.log" for step in STEPS), "summary.txt"])
    assert verdicts_in(out) == [*(f"{step}: passed" for step in STEPS), "gpu_check: all passed"]
    commands = {
        "build": "setup.py build_ext --inplace",
        "tests": "-m gpu",
        "latency": "bench.latency --out",
        **{tool: f"--tool {tool} " for tool in STEPS_OF["sanitize"]},
        "bench": f"bench.lstm --device cuda --out {out}/cuda.csv",
        "bars": f"bench.bars {out}/cuda.csv",
        "compare": "compare --device cuda --quick",
    }
    for step, command in commands.items():
        assert command in (out / f"{step}.log").read_text(), step


@pytest.mark.parametrize("parts", [("build", "tests", "latency"), ("sanitize",), ("bench", "compare")])
def test_gpu_check_runs_the_parts_asked_for(tmp_path: Path, gpu_host: dict[str, str], parts: tuple[str, ...]) -> None:
    status, log = gpu_check(tmp_path / "out", *parts, **gpu_host)
    assert status == 0, log
    steps = [step for part in parts for step in STEPS_OF[part]]
    assert verdicts_in(tmp_path / "out") == [*(f"{step}: passed" for step in steps), "gpu_check: all passed"]
    written_by_python = {"latency": 1, "bench": 1, "compare": 3}
    files = [*(tmp_path / "out").iterdir(), *(part for part in parts for _ in range(written_by_python.get(part, 0)))]
    assert len(files) <= 8  # no more come back from a lent machine


def test_gpu_check_names_a_part_that_it_does_not_have(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    status, log = gpu_check(tmp_path / "out", "build", "fly", **gpu_host)
    assert (status, log) == (
        2, "gpu_check: no part 'fly': choose from build tests latency sanitize bench compare\n",
    )  # fmt: skip


def test_gpu_check_wants_a_build_before_the_other_parts(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    status, log = gpu_check(tmp_path / "out", "sanitize", **gpu_host | {"BROKEN": "usable_backends"})
    assert status == 2
    assert "no CUDA kernels: run 'bench/gpu_check.sh build' on this machine first" in log
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "broken, steps",
    [("build_ext", ["build"]), ("-m pytest", ["tests"]), ("small_case", STEPS_OF["sanitize"]), ("bars", ["bars"])],
)
def test_gpu_check_goes_on_after_a_step_that_failed(
    tmp_path: Path, gpu_host: dict[str, str], broken: str, steps: list[str]
) -> None:
    out = tmp_path / "out"
    status, log = gpu_check(out, **gpu_host | {"BROKEN": broken})
    assert status == 1, log
    verdicts = [f"{step}: {'FAILED' if step in steps else 'passed'}" for step in STEPS]
    assert verdicts_in(out) == [*verdicts, f"gpu_check: {len(steps)} of {len(STEPS)} steps failed"]
    summary = (out / "summary.txt").read_text().splitlines()
    assert all("exit status 7" in line for line in summary if "FAILED" in line)


def test_gpu_check_fails_the_steps_that_it_has_no_time_for(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    status, log = gpu_check(tmp_path / "out", **gpu_host | {"GPU_CHECK_SECONDS": "0"})
    assert status == 1, log
    assert log.count("FAILED, no time was left for it") == len(STEPS)
