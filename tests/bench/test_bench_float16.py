"""The command bench.float16: what it writes and says, and that it times nothing that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import float16, records, sweep_case, sweep_report, tables
from bench.records import FORWARD_BACKWARD, INFERENCE, MODULE, SweepTiming
from tests.bench.samples import needs_kernels, sweep_timing

SMALL = ["--shapes", "2", "--max-gflop", "0.001", "--budget", "0.01"]


@needs_kernels
def test_both_dtypes_are_timed_at_every_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "float16.csv"
    assert float16.main([*SMALL, "--out", str(out)]) == 0
    facts, timings = records.read(out, SweepTiming)
    assert facts["shapes"] == "2 shapes drawn from seed 0, up to 0.001 GFLOP in training"
    assert [t.dtype for t in timings] == ["float32", "float16"] * 4
    assert [t.phase for t in timings] == [FORWARD_BACKWARD] * 4 + [INFERENCE] * 4
    assert {t.contender for t in timings} == {MODULE}
    assert all(t.median_ms > 0 for t in timings)
    table = capsys.readouterr().out.split("\n\n")[-1].strip()
    assert table == sweep_report.float16_table(timings)
    assert tables.table("float16 float16", tmp_path).startswith(table)


def test_the_table_counts_what_takes_longer_than_the_bar() -> None:
    def timing(T: int, dtype: str, ms: float) -> SweepTiming:
        return sweep_timing(T=T, dtype=dtype, phase=INFERENCE, contender=MODULE, median_ms=ms)

    timings = [
        timing(T, dtype, ms)
        for T, wide, narrow in ((1, 2.0, 2.2), (2, 1.0, 1.05), (3, 4.0, 3.6))
        for dtype, ms in (("float32", wide), ("float16", narrow))
    ]
    rows = sweep_report.float16_table(timings).splitlines()
    cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
    assert cells == ["inference, float16, 1 thread", "3", "1.05", "1.09", "1.10", "1"]
    with pytest.raises(ValueError, match=r"T=1 .*inference, float16, 1 thread: expected a timing in float32 before it"):
        sweep_report.float16_table(timings[1:])


@needs_kernels
def test_a_wrong_result_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = sweep_case.SweepCase.call

    def call(case: sweep_case.SweepCase, who: sweep_case.Contender, phase: str) -> list[Tensor]:
        results = right(case, who, phase)
        return [result * (1.5 if case.dtype == torch.float16 else 1) for result in results]

    monkeypatch.setattr(sweep_case.SweepCase, "call", call)
    assert float16.main(SMALL) == 1
    assert "float16" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert float16.main([*SMALL, "--out", str(tmp_path / "file" / "results.csv")]) == 2
    assert "bench.float16: " in capsys.readouterr().err
