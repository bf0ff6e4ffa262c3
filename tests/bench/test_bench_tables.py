"""The tables of README.md and docs/ are made from the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import markdown, records, sweep_report, tables
from bench.records import FORWARD_BACKWARD, MASKS
from tests.bench.samples import FACTS, PEAKS, PROJECT, TIMINGS, sweep_timing, timing


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
    assert tables.table("cpu forward", tmp_path).startswith(markdown.grid_table(TIMINGS))


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


def test_sweep_table(tmp_path: Path) -> None:
    ours = {"contender": records.MODULE, "median_ms": 4.0}
    timings = [sweep_timing(), sweep_timing(**ours), sweep_timing(T=7), sweep_timing(**ours, T=7, dropout="Gal")]
    records.write(tmp_path / "sweep.csv", {**FACTS, "shapes": "2 shapes drawn from seed 0"}, timings)
    table = tables.table("sweep sweep", tmp_path)
    assert table.startswith(sweep_report.statistics_table(sweep_report.ratios(timings)))
    assert "2 shapes drawn from seed 0. a CPU, 2 cores; torch 2.13.0; commit 0123456789ab; `x`." in table


def test_steps_table_has_a_row_for_each_size(tmp_path: Path) -> None:
    timings = [
        timing(T=1, threads=1),
        timing(T=1, threads=1, contender=records.LSTM_CELL, median_ms=0.5),
        timing(T=9, threads=1),
        timing(T=9, threads=1, contender=records.MODULE, backend="cpu", median_ms=4.0),
    ]
    records.write(tmp_path / "steps.csv", {**FACTS, records.ONNX_RUNTIME: "1.32.0"}, timings)
    table = tables.table("steps steps", tmp_path)
    assert table.splitlines()[:4] == [
        "|                       |  nn.LSTM | nn.LSTMCell | LSTM module (cpu) |",
        "|-----------------------|---------:|------------:|------------------:|",
        "| T=1 B=128 I=300 H=128 | 2 (1.00) |  0.5 (4.00) |                   |",
        "| T=9 B=128 I=300 H=128 | 2 (1.00) |             |          4 (0.50) |",
    ]
    assert "median of 15 in turn" in table
    assert "ONNX Runtime: 1.32.0." in table


def test_fill_replaces_what_is_marked_and_nothing_else(tmp_path: Path) -> None:
    records.write(tmp_path / "cpu.csv", FACTS, TIMINGS)
    text = "before\n<!-- table:cpu forward -->\nold\n<!-- /table:cpu forward -->\nafter\n"
    filled = tables.fill(text, tmp_path)
    assert filled.startswith("before\n<!-- table:cpu forward -->\n|  ")
    assert filled.endswith("\n<!-- /table:cpu forward -->\nafter\n")
    assert "old" not in filled
    assert markdown.grid_table(TIMINGS) in filled
    assert "CPU threads: 2; a CPU, 2 cores; torch 2.13.0; commit 0123456789ab; `x`." in filled
    assert tables.fill(filled, tmp_path) == filled


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- table:cpu forward -->\n", "table:cpu forward.* has no partner"),
        ("<!-- table:cpu forward -->\n<!-- /table:cpu -->\n", "has no partner"),
        ("<!-- table:cpu backward -->\n<!-- /table:cpu backward -->\n", "table:cpu backward: expected one of 'inf"),
        ("<!-- table:cpu bars -->\n<!-- /table:cpu bars -->\n", "no forward.backward of nn.LSTM, full, dropout none"),
        ("<!-- table:cpu peaks -->\n<!-- /table:cpu peaks -->\n", "expected the columns .*median_bytes"),
        ("<!-- table:cpu sweep -->\n<!-- /table:cpu sweep -->\n", "expected the columns .*backward_op_ms"),
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
    at_end = {"train_accuracy": 0.9, "train_loss": 0.25}
    layers = {
        "nn.LSTM": {"epochs": [epoch], **at_end},
        "GalLSTM 0.5": {"epochs": [{**epoch, "seconds": 1.0}], **at_end},
    }
    results = {"facts": FACTS, "settings": {"epochs": 1}, "data": {"test reviews": 100}, "layers": layers}
    (tmp_path / "compare.json").write_text(json.dumps(results))
    filled = tables.fill("<!-- table:compare -->\n<!-- /table:compare -->\n", tmp_path)
    header, _, lstm_row, gal_row = filled.splitlines()[1:5]
    assert header.startswith("| layer ")
    assert lstm_row.startswith("| nn.LSTM     |") and "75.0%" in lstm_row and "90.0%" in lstm_row
    assert gal_row.startswith("| GalLSTM 0.5 |") and gal_row.endswith("0.50 |")
    assert "a CPU, 2 cores; torch 2.13.0; commit 0123456789ab; `x`." in filled


def test_tables_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    records.write(tmp_path / "cpu.csv", FACTS, TIMINGS)
    readme = tmp_path / "README.md"
    stale = "<!-- table:cpu forward -->\n<!-- /table:cpu forward -->\n"
    readme.write_text(stale)
    assert tables.main(["--check", str(readme)]) == 1
    assert f"{readme} is out of date (cpu forward): run" in capsys.readouterr().err
    assert readme.read_text() == stale
    assert tables.main([str(readme)]) == 0
    assert tables.main(["--check", str(readme)]) == 0
    (tmp_path / "cpu.csv").unlink()
    assert tables.main(["--check", str(readme)]) == 2
    assert "cpu.csv" in capsys.readouterr().err


EMPTY = "<!-- table:cpu forward -->\n<!-- /table:cpu forward -->\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with results, a README without tables and docs with some; its site was built once."""
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    records.write(tmp_path / "cpu.csv", FACTS, TIMINGS)
    (tmp_path / "README.md").write_text("No table here.\n")
    for name in ("speed.md", "guide/deep/page.md", "guide/notes.txt", "_build/html/copy.md"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(EMPTY)
    return tmp_path


def test_without_files_the_readme_and_all_of_docs_are_filled(site: Path) -> None:
    assert tables.main([]) == 0
    table = tables.table("cpu forward", site)
    for page in ("docs/speed.md", "docs/guide/deep/page.md"):
        assert table in (site / page).read_text()
    assert (site / "README.md").read_text() == "No table here.\n"
    for other in ("docs/guide/notes.txt", "docs/_build/html/copy.md"):
        assert (site / other).read_text() == EMPTY


def test_check_names_every_file_and_table_that_is_out_of_date(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main([]) == 0
    assert tables.main(["--check"]) == 0
    assert capsys.readouterr().err == ""
    records.write(site / "cpu.csv", FACTS, [*TIMINGS, timing(phase=FORWARD_BACKWARD)])
    speed = site / "docs" / "speed.md"
    speed.write_text(speed.read_text() + EMPTY.replace("forward", "forward+backward"))
    (site / "README.md").write_text(EMPTY + EMPTY.replace("forward", "forward+backward"))
    assert tables.main(["--check"]) == 1
    of_readme, of_speed = capsys.readouterr().err.splitlines()
    assert of_readme.startswith(f"{site}/README.md is out of date (cpu forward, cpu forward+backward): ")
    assert of_speed.startswith(f"{site}/docs/speed.md is out of date (cpu forward+backward): ")
    assert (site / "README.md").read_text().startswith(EMPTY), "--check changed a file"


def test_no_file_is_filled_if_a_table_of_one_cannot_be_made(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "docs" / "speed.md").write_text(EMPTY.replace("cpu", "gpu"))
    assert tables.main([]) == 2
    assert f"bench.tables: {site}/docs/speed.md: " in (message := capsys.readouterr().err) and "gpu.csv" in message
    assert (site / "docs" / "guide" / "deep" / "page.md").read_text() == EMPTY


def test_a_quoted_marker_is_left_alone(tmp_path: Path) -> None:
    records.write(tmp_path / "cpu.csv", FACTS, TIMINGS)
    quoted = "Between `<!-- table:NAME -->` and\n`<!-- /table:NAME -->`\n"
    assert tables.fill(quoted, tmp_path) == quoted
    assert tables.fill(quoted + EMPTY, tmp_path) == quoted + tables.fill(EMPTY, tmp_path)


def test_readme_and_docs_are_made_from_the_committed_results() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in tables.pages(PROJECT)}
    assert any(tables.MARKED.search(text) for text in texts.values()), "no table is marked"
    for page, text in texts.items():
        assert tables.fill(text, records.RESULTS) == text, f"{page}: run `python -m bench.tables`"
