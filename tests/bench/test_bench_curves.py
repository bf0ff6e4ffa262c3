"""The curves of the scaling grid."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from bench import curves, grids, records, tables
from bench.records import FORWARD_BACKWARD, INFERENCE
from tests.bench.samples import FACTS, PROJECT, timing


def test_lines_go_through_what_differs_along_one_axis() -> None:
    centre = {**grids.CENTRE._asdict(), "phase": FORWARD_BACKWARD}
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


def test_curves_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the demo extra is not installed")
    image = pytest.importorskip("PIL.Image")
    centre = grids.CENTRE._asdict()
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


def test_the_curves_shown_are_drawn_from_the_committed_results() -> None:
    image = pytest.importorskip("PIL.Image")
    pages = "".join(page.read_text(encoding="utf-8") for page in tables.pages(PROJECT))
    shown = set(re.findall(r"\bscaling-[\w-]+\.png", pages))
    assert shown, "no curves are shown"
    committed = {png.name: png for png in records.RESULTS.glob("scaling-*.png")}
    assert shown <= set(committed)
    for png in committed.values():
        with image.open(png) as drawn:
            assert drawn.text["Source"] == curves.fingerprint(records.RESULTS / "scaling.csv"), (
                "run `python -m bench.curves`"
            )
