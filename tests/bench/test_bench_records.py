"""The CSV of results: what is written is read back, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import records
from bench.records import Peak
from tests.bench.samples import FACTS, PEAKS, TIMINGS


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
