"""bench/gpu_check.sh without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.lineups import ENGINES
from tests.bench.samples import PROJECT, no_gpu


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
        "python3": '[ -z "$BROKEN" ] || case "$*" in *$BROKEN*) exit 7;; esac; echo "$GPU_REPEATS python3 $*"',
        "nvidia-smi": 'echo "one GPU"',
        "compute-sanitizer": 'echo "compute-sanitizer $*"; while [ "$1" != python3 ]; do shift; done; "$@"',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "python3", "BROKEN": ""}


RACECHECKED = [engine for engine in ENGINES if engine != "multicast"]
STEPS_OF = {
    "build": ["build", "info"],
    "tests": ["tests"],
    "latency": ["latency"],
    "trials": ["trials"],
    "sanitize": ["memcheck", *(f"racecheck-{engine}" for engine in RACECHECKED), "initcheck", "synccheck"],
    "repeat": ["repeat"],
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
        "trials": "bench.trials --out",
        **{step: f"--tool {step.partition('-')[0]} " for step in STEPS_OF["sanitize"]},
        "repeat": "tests/cuda/test_gpu_plans.py -k same_bits_many_times",
        "bench": f"bench.lstm --device cuda --out {out}/cuda.csv",
        "bars": f"bench.bars {out}/cuda.csv",
        "compare": "compare --device cuda --quick",
    }
    for step, command in commands.items():
        assert command in (out / f"{step}.log").read_text(), step


def test_gpu_check_repeats_a_test_that_there_is_ten_thousand_times(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    gpu_check(tmp_path / "out", "repeat", **gpu_host)
    command = (tmp_path / "out" / "repeat.log").read_text()
    assert command.startswith("10000 python3 -m pytest -m gpu")
    wanted = command.split()[-1]
    tests = (PROJECT / "tests" / "cuda" / "test_gpu.py").read_text()
    assert f"def test_{wanted}(engine, dtype):" in tests and '"GPU_REPEATS"' in tests


@pytest.mark.parametrize(
    "parts", [("build", "tests", "latency", "trials"), ("sanitize",), ("repeat",), ("bench", "compare")]
)
def test_gpu_check_runs_the_parts_asked_for(tmp_path: Path, gpu_host: dict[str, str], parts: tuple[str, ...]) -> None:
    status, log = gpu_check(tmp_path / "out", *parts, **gpu_host)
    assert status == 0, log
    steps = [step for part in parts for step in STEPS_OF[part]]
    assert verdicts_in(tmp_path / "out") == [*(f"{step}: passed" for step in steps), "gpu_check: all passed"]
    written_by_python = {"latency": 1, "trials": 1, "bench": 1, "compare": 3}
    files = [*(tmp_path / "out").iterdir(), *(part for part in parts for _ in range(written_by_python.get(part, 0)))]
    assert len(files) <= 8  # no more come back from a lent machine


def test_gpu_check_names_a_part_that_it_does_not_have(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    status, log = gpu_check(tmp_path / "out", "build", "fly", **gpu_host)
    assert (status, log) == (
        2, "gpu_check: no part 'fly': choose from build tests latency trials sanitize repeat bench compare\n",
    )  # fmt: skip


def test_gpu_check_builds_ahead_of_the_other_parts_where_it_must(tmp_path: Path, gpu_host: dict[str, str]) -> None:
    status, log = gpu_check(tmp_path / "out", "sanitize", **gpu_host | {"BROKEN": "usable_backends"})
    assert status == 2
    assert "no CUDA kernels. Nothing was run. The build's last lines:" in log
    assert "python3 setup.py build_ext --inplace" in log
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "broken, steps",
    [
        ("build_ext", ["build"]),
        ("-m pytest", ["tests", "repeat"]),
        ("small_case", STEPS_OF["sanitize"]),
        ("bars", ["bars"]),
    ],
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
