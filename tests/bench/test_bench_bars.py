"""The command bench.bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import bars, records, tables
from tests.bench.samples import FACTS, PEAKS, measured_for_cuda_targets, measured_for_targets


def test_bars_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(tmp_path / "cpu.csv", FACTS, measured_for_targets())
    assert bars.main([str(tmp_path / "cpu.csv")]) == 0
    assert "17 of 21 met. a CPU, 2 cores" in (printed := capsys.readouterr().out)
    assert tables.table("cpu bars", tmp_path).splitlines()[0] == printed.splitlines()[0]
    records.write(tmp_path / "memory.csv", FACTS, PEAKS)
    assert bars.main([str(tmp_path / "cpu.csv")]) == 2
    assert "no peak of LSTM module" in capsys.readouterr().err


def test_cuda_bars_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(tmp_path / "cuda.csv", FACTS | {"device": "NVIDIA H100"}, measured_for_cuda_targets())
    assert bars.main([str(tmp_path / "cuda.csv")]) == 0
    assert "30 of 32 met. NVIDIA H100; " in (printed := capsys.readouterr().out)
    assert tables.table("cuda bars", tmp_path).splitlines()[0] == printed.splitlines()[0]
