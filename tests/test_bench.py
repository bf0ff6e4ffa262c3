"""The benchmark's tools: its CSV, the README's tables, what it refuses to time, and bench/gpu_check.sh without a GPU.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))  # bench/ is not installed

from bench import contenders, lstm, records, small_case, tables  # noqa: E402
from bench.contenders import Problem, Size  # noqa: E402
from bench.records import FORWARD, FORWARD_BACKWARD, Timing  # noqa: E402
from rnndrop_cuda import LayerMasks, functional, ops  # noqa: E402

CPU = torch.device("cpu")
SMALL = Size(T=3, B=2, I=4, H=5)
OURS = ["cpu", "python"] if not ops.WHY_NOT_LOADED else ["python"]
needs_kernels = pytest.mark.skipif(bool(ops.WHY_NOT_LOADED), reason=ops.WHY_NOT_LOADED or "built")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def timing(**changes: object) -> Timing:
    ms = {"median_ms": 2.0, "q1_ms": 1.5, "q3_ms": 3.25, "min_ms": 1.0, "max_ms": 9.0}
    base = Timing(
        *(32, 128, 300, 128), "float32", 2, FORWARD, records.NN_LSTM, "", "none", 0.0, 0.0, repeats=15, calls=3, **ms
    )
    return dataclasses.replace(base, **changes)


FACTS = {"device": "cpu", "machine": "a CPU, 2 cores", "torch": "2.13.0", "commit": "0123456789abcdef", "command": "x"}
TIMINGS = [
    timing(),
    timing(contender="rnndrop", backend="cpu", dropout="both", p=0.5, p_g=0.25, median_ms=1.6),
    timing(contender="GEMMs alone", backend="oneDNN", median_ms=1.25),
    timing(T=400, median_ms=314.1),
    timing(T=400, contender="GEMMs alone", backend="oneDNN", median_ms=286.2),
]

# ---------------------------------------------------------------- CSV


def test_csv_gives_back_what_was_written(tmp_path: Path) -> None:
    records.write(tmp_path / "t.csv", {**FACTS, "odd": "a: b, # c"}, TIMINGS)
    assert records.read(tmp_path / "t.csv") == ({**FACTS, "odd": "a: b, # c"}, TIMINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


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


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- table:cpu forward -->\n", "table:cpu forward.* has no partner"),
        ("<!-- table:cpu forward -->\n<!-- /table:cpu -->\n", "has no partner"),
        ("<!-- table:cpu backward -->\n<!-- /table:cpu backward -->\n", "table:cpu backward: expected 'forward' or"),
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


# ---------------------------------------------------------------- what is timed


@pytest.mark.parametrize("kind", contenders.dropouts([0.5], [0.75]), ids=str)
def test_masks_are_drawn_as_the_name_says(kind: contenders.Dropout) -> None:
    T, B, I, H = 20, 10, 30, 40
    shapes = {
        "none": (None, None, None),
        "Gal batch": ((I,), (H,), None),
        "Gal sample": ((B, I), (B, H), None),
        "Semeniuta step": (None, None, (T, B, H)),
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
    assert asked == ["cpu"] * 5 + ["python"] * 2


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
        "2",
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
    for phase in (FORWARD, FORWARD_BACKWARD):
        timed = [(t.contender, t.backend, t.dropout, t.p, t.p_g) for t in timings if t.phase == phase]
        assert timed == [(c.name, c.backend, c.dropout.name, c.dropout.p, c.dropout.p_g) for c in everyone]
    for t in timings:
        assert (t.T, t.B, t.I, t.H, t.dtype, t.threads, t.repeats) == (3, 2, 4, 5, "float32", 1, 2)
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


@no_gpu
def test_gpu_check_without_a_gpu_says_so_and_runs_nothing(tmp_path: Path) -> None:
    status, log = gpu_check(tmp_path / "out", PYTHON=sys.executable)
    assert status == 2
    assert "no GPU" in log
    assert not (tmp_path / "out").exists()


def gpu_check(out: Path, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        [PROJECT / "bench" / "gpu_check.sh", out],
        env=os.environ | env,
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
        "compute-sanitizer": 'while [ "$1" != python3 ]; do shift; done; "$@"',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "python3", "BROKEN": ""}


STEPS = ["build", "info", "tests", "memcheck", "racecheck", "bench"]


def test_gpu_check_runs_every_step_into_one_folder(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    status, log = gpu_check(tmp_path / "out", **gpu_host)
    assert status == 0, log
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == sorted([*(f"{step}.log" for step in STEPS), "summary.txt"])  # and cuda.csv: eight at most come back
    summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in summary] == [*(f"{step}: passed" for step in STEPS), "gpu_check: all passed"]
    assert "setup.py build_ext --inplace" in (tmp_path / "out" / "build.log").read_text()
    assert "-m gpu" in (tmp_path / "out" / "tests.log").read_text()
    assert "bench.lstm --device cuda --out" in (tmp_path / "out" / "bench.log").read_text()


@pytest.mark.parametrize(
    "broken, steps", [("build_ext", ["build"]), ("-m pytest", ["tests"]), ("small_case", ["memcheck", "racecheck"])]
)
def test_gpu_check_goes_on_after_a_step_that_failed(
    tmp_path: Path, gpu_host: dict[str, str], broken: str, steps: list[str]
) -> None:
    status, log = gpu_check(tmp_path / "out", **gpu_host | {"BROKEN": broken})
    assert status == 1, log
    summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    verdicts = [f"{step}: {'FAILED' if step in steps else 'passed'}" for step in STEPS]
    assert [line.split(",")[0] for line in summary[:-1]] == verdicts
    assert all("exit status 7" in line for line in summary if "FAILED" in line)


def test_gpu_check_fails_the_steps_that_it_has_no_time_for(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    status, log = gpu_check(tmp_path / "out", **gpu_host | {"GPU_CHECK_SECONDS": "0"})
    assert status == 1, log
    assert log.count("FAILED, no time was left for it") == len(STEPS)
