"""The command bench.lstm; nothing here looks at how long anything took."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gemms, layers, lineups, lstm, markdown, problems, records
from bench.problems import Problem
from bench.records import FORWARD, FORWARD_BACKWARD, INFERENCE, MASKS
from rnndrop_cuda import functional
from tests.bench.samples import CPU, OURS, PROJECT, SMALL, no_gpu, without_gradient_through_h_n


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
    kinds = problems.dropouts([0.25], [0.3])
    problem = Problem(SMALL, torch.float32, CPU)
    everyone = [*lineups.all_layers(problem, OURS, kinds), *gemms.floors(problem)]
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
    assert markdown.case_table(timings) in done.stdout


def test_nothing_is_timed_or_written_when_a_contender_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layers, "nn_lstm", lambda problem, masks: without_gradient_through_h_n(problem, masks))
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
