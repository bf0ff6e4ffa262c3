"""`rnndrop study`: every study on a few reviews, its cache of runs, and that its conclusions follow the figures."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from bench import tables
from rnndrop_cuda.seminar.commands import study
from rnndrop_cuda.seminar.reports import study as study_report
from rnndrop_cuda.seminar.training import experiment
from rnndrop_cuda.seminar.training.experiment import Experiment, Run

TINY = {"vocab_size": 20, "n_hidden": 4, "batch_size": 16, "longest": 8, "epochs": 2}
N_EMB = 6
# 80 words are 8 of a sentence: behind more padding than that no initial state is felt.
QUICK = {**TINY, "n_emb": N_EMB, "reviews": 40, "seq_len": 80}


@pytest.fixture
def command(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """--quick, but for the study's name; on reviews and models that are smaller still."""
    monkeypatch.setattr(study, "QUICK", QUICK)
    vectors = tmp_path / "vectors.txt"
    rows = [f"#{k} " + " ".join(str((k * j) % 7 / 7) for j in range(1, N_EMB + 1)) for k in range(1, 17)]
    vectors.write_text("\n".join(rows) + "\n")
    return [
        "--quick", "--data", str(npz), "--unverified-data", "--vectors", str(vectors), "--n-emb", str(N_EMB),
        "--device", "cpu", "--out", str(tmp_path / "out"),
    ]  # fmt: skip


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The experiments that were really trained, in turn."""
    done: list[Experiment] = []
    real = experiment.train_and_score
    monkeypatch.setattr(study, "train_and_score", lambda e, *rest: done.append(e) or real(e, *rest))
    return done


@pytest.mark.parametrize("name", study.STUDIES)
def test_every_study(name, command, tmp_path, capsys):
    assert study.main([name, *command]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "study.json").read_text())
    assert list(found["runs"]) == list(study.STUDIES[name].variants)
    for variant, runs in found["runs"].items():
        assert variant in printed
        assert [run["experiment"]["seed"] for run in runs] == [0, 1]
        assert all(len(run["epochs"]) == 2 and 0 <= run["train_accuracy"] <= 1 for run in runs)
        assert runs[0]["epochs"][0]["train_loss"] != runs[1]["epochs"][0]["train_loss"]
    figures = {json.dumps([{**epoch, "seconds": 0} for epoch in runs[0]["epochs"]]) for runs in found["runs"].values()}
    # Of reviews of at most 11 words several lengths crop the same.
    assert len(figures) == len(found["runs"]) or name == "length", "every variant trains something else"
    again = study_report.read(tmp_path / "out" / "study.json")
    assert study_report.findings(again) == found["findings"]
    table = tables.study_table(tmp_path / "out" / "study.json")
    assert all(f"| {' | '.join(again.cells(variant)[1:3])} |" in " ".join(table.split()) for variant in again.runs)
    assert all(sentence in table for sentence in found["findings"] if sentence.startswith(("In short", "Expected")))
    assert (tmp_path / "out" / "study.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "study.html").read_text()
    assert "http" not in page, "loads nothing"
    for sentence in found["findings"]:
        assert sentence.split(":")[0].split(",")[0] in page.replace("&#x27;", "'")


@pytest.mark.parametrize("name", study.STUDIES)
def test_sizes(name):
    def reviews(preset, *options):
        arguments = study._parser().parse_args([name, *options])
        plan = study.planned(study.STUDIES[name], preset, arguments)
        return {experiment.reviews for experiments in plan.values() for experiment in experiments}

    assert reviews("default") == {study.STUDIES[name].base.get("reviews")}
    assert reviews("default", "--reviews", "500", "--data", "mine.csv") == {500}
    assert reviews("default", "--data", "mine.csv") == {None}, "all of one's own"
    assert reviews("paper") == {None}, "all"


def test_nothing_is_trained_twice(command, trained, capsys):
    assert study.main(["initial-state", *command]) == 0
    assert len(trained) == 4
    before = capsys.readouterr().out
    assert study.main(["initial-state", *command]) == 0
    assert len(trained) == 4
    assert capsys.readouterr().out == before
    assert study.main(["initial-state", *command, "--seeds", "3"]) == 0
    assert [(e.seed, bool(e.options)) for e in trained[4:]] == [(2, False), (2, True)]
    assert study.main(["initial-state", *command, "--seeds", "1", "--epochs", "3"]) == 0
    assert [e.epochs for e in trained[6:]] == [3, 3]


def test_only_some_variants_and_always_the_first(command, trained):
    assert study.main(["dropout", *command, "--seeds", "1", "--only", "Semeniuta 0.3"]) == 0
    assert [e.options for e in trained] == [(), (("candidate_dropout", 0.3),)]
    assert [e.torch_lstm for e in trained] == [True, False]


def test_the_same_experiment_gives_the_same_figures(npz):
    what = Experiment(
        data=str(npz), unverified_data=True, seq_len=None, n_emb=N_EMB, options=(("hidden_dropout", 0.5),), **TINY
    )
    first, again = (experiment.train_and_score(what, what.load(), torch.device("cpu")) for _ in range(2))
    for of_first, of_again in zip(first.epochs, again.epochs, strict=True):
        assert {**of_first, "seconds": 0} == {**of_again, "seconds": 0}


def test_a_killed_study_goes_on(command, tmp_path):
    """Killed when its first run is done, in another process; of this size a run takes a moment."""
    script = (
        "import sys, time; from rnndrop_cuda.seminar.commands import study\n"
        "from rnndrop_cuda.seminar.training import experiment\n"
        f"study.QUICK = {QUICK!r}\n"
        "real = experiment.Cache.put\n"
        "experiment.Cache.put = lambda *a: (real(*a), print('kept', flush=True), time.sleep(60))\n"
        "study.main(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "initial-state", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stdout.readline() == b"kept\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    runs = tmp_path / "out" / "runs"
    (kept,) = runs.iterdir()
    written = kept.stat().st_mtime_ns
    time.sleep(0.01)
    assert study.main(["initial-state", *command]) == 0
    assert kept.stat().st_mtime_ns == written
    assert len(list(runs.iterdir())) == 4


@pytest.mark.parametrize(
    "extra, expected",
    [
        (["--only", "Gal 7"], "--only 'Gal 7': choose from 'nn.LSTM'"),
        (["--reviews", "1000"], "--reviews must be at most 48"),
        (["--device", "tpu"], "--device tpu cannot be used"),
        (["--data", "/nowhere.npz"], "/nowhere.npz"),
    ],
)
def test_wrong_input_is_one_line(extra, expected, command, capsys):
    assert study.main(["dropout", *command, *extra]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.startswith("rnndrop study: ") and error.count("\n") == 1


def test_a_damaged_run_is_named(command, tmp_path, capsys):
    assert study.main(["initial-state", *command]) == 0
    file = next((tmp_path / "out" / "runs").iterdir())
    file.write_text(file.read_text()[:100])
    capsys.readouterr()
    assert study.main(["initial-state", *command]) == 2
    assert f"{file} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [(["--n-emb", "5"], "has 6 numbers a word, n_emb is 5"), (["--vectors", "/nowhere"], "/nowhere")],
)
def test_wrong_vectors_are_refused_before_anything_is_trained(options, message, command, trained, capsys):
    assert study.main(["embeddings", *command, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("rnndrop study: ") and error.count("\n") == 1
    assert trained == []


# ---------------------------------------------------------------- conclusions, from figures made up for them


def run(test: float, train: float = 0.9, best: float | None = None) -> Run:
    epoch = {"train_loss": 0.5, "train_accuracy": train, "test_loss": 0.5, "seconds": 1.0}
    epochs = [{**epoch, "test_accuracy": test if best is None else best}, {**epoch, "test_accuracy": test}]
    return Run({"seed": 0}, {"test reviews": 100}, epochs, train)


def results(**runs: list[Run]) -> study_report.Results:
    return study_report.Results("made-up", "?", {}, ("other",), runs)


BASE = [run(0.70), run(0.71), run(0.69)]


def test_a_clear_difference_is_told_from_noise():
    better = study_report.findings(results(base=BASE, other=[run(0.80), run(0.81), run(0.79)]))
    assert "better than base: other; none is clearly worse" in better[2]
    assert "best test accuracy +10.0 points (standard error 0.8)" in better[1]
    worse = study_report.findings(results(base=BASE, other=[run(0.60), run(0.61), run(0.59)]))
    assert "none is clearly better than base; worse: other" in worse[2]
    same = study_report.findings(results(base=BASE, other=[run(0.70), run(0.72), run(0.69)]))
    assert "none is clearly better than base; none is clearly worse" in same[2]
    assert "+0.3 points (standard error 1.1, within the noise)" in same[1]
    single = study_report.findings(results(base=BASE[:1], other=[run(0.9)]))
    assert "one seed" in single[1] and not any("In short" in sentence for sentence in single)


@pytest.mark.parametrize(
    "other, gap_halved, raised",
    [
        ([run(0.72, 0.80)] * 3, True, True),
        ([run(0.70, 0.79)] * 3, True, False),
        ([run(0.72, 0.85)] * 3, False, True),
        ([run(0.60, 0.90)] * 3, False, False),
    ],
)
def test_the_promise_follows_the_figures(other, gap_halved, raised):
    """The baseline's gap is 20 points, and its best accuracy plus a standard error 70.58 %."""
    gap, best = study_report.promise(results(base=BASE, other=other), "other").split(". And ")
    assert ("not so" not in gap, "not so" not in best) == (gap_halved, raised)
    assert "70.58 %" in best


def test_accuracy_is_drawn_against_the_words_read():
    axes = Figure().subplots()
    runs = results(base=[run(0.70)] * 3, more=[run(0.80, best=0.85)] * 3, own=[run(0.90)] * 3)
    study_report._plot_by_length(axes, runs, {"base": 50, "more": 200, "own": None})
    drawn = {container.get_label(): container.lines[0].get_xydata().round(6).tolist() for container in axes.containers}
    assert drawn == {"best epoch": [[50, 0.70], [200, 0.85]], "last epoch": [[50, 0.70], [200, 0.80]]}
    across = {line.get_label(): line.get_ydata() for line in axes.get_lines() if line.get_label().startswith("own")}
    assert across == {"own: best epoch": [0.9, 0.9], "own: last epoch": [0.9, 0.9]}
