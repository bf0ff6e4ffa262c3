"""`rnndrop study`: every study on a few reviews, its cache of runs, and wrong input."""

import html
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import one_line, status
from language_models import RANKS, save_language_model

from bench import tables
from rnndrop_cuda.seminar import studies
from rnndrop_cuda.seminar.commands import study
from rnndrop_cuda.seminar.reports import study as study_report
from rnndrop_cuda.seminar.training import experiment
from rnndrop_cuda.seminar.training.experiment import Experiment

TINY = {"vocab_size": 20, "n_hidden": 4, "batch_size": 16, "epochs": 2}
N_EMB = 6
# 80 words are 8 of a sentence: behind more padding than that no initial state is felt.
QUICK = {**TINY, "n_emb": N_EMB, "reviews": 40, "maxlen": 80}
STARTING_FROM_VECTORS = ("embeddings", "full-reviews", "pretraining")
NAMES_AT_THIS_SIZE = {"length": ["first 5 words", "first 20 words", "first 40 words", "own length, up to 8"]}


@pytest.fixture
def command(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """--quick, but for the study's name; on reviews and models that are smaller still."""
    monkeypatch.setattr(studies, "QUICK", QUICK)
    monkeypatch.setattr(studies, "QUICK_LONGEST", 8)
    monkeypatch.setattr(study_report, "MEANINGFUL", 0.0)
    return ["--quick", "--data", str(npz), "--unverified-data", "--device", "cpu", "--out", str(tmp_path / "out")]


@pytest.fixture
def language_model(tmp_path: Path) -> list[str]:
    """What a study needs besides, if it starts from a language model."""
    return ["--pretrained", str(save_language_model(tmp_path / "language-model"))]


@pytest.fixture
def with_vectors(command: list[str], tmp_path: Path) -> list[str]:
    """The same for a study that starts from vectors: a file of small ones."""
    vectors = tmp_path / "vectors.txt"
    rows = [f"#{k} " + " ".join(str((k * j) % 7 / 7) for j in range(1, N_EMB + 1)) for k in range(1, 17)]
    vectors.write_text("\n".join(rows) + "\n")
    return [*command, "--vectors", str(vectors), "--n-emb", str(N_EMB)]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The experiments that were really trained, in turn."""
    done: list[Experiment] = []
    real = experiment.train_and_score
    monkeypatch.setattr(studies, "train_and_score", lambda e, *rest: done.append(e) or real(e, *rest))
    return done


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study(name, command, with_vectors, language_model, tmp_path, capsys):
    starts = language_model if name == "pretraining" else []
    assert study.main([name, *(with_vectors if name in STARTING_FROM_VECTORS else command), *starts]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "study.json").read_text())
    assert list(found["runs"]) == list(NAMES_AT_THIS_SIZE.get(name, studies.STUDIES[name].variants))
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
        assert sentence.split(":")[0].split(",")[0] in html.unescape(page)


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
    assert [e.layer for e in trained] == ["nn.LSTM", "SemeniutaLSTM:0.3"]


def test_a_killed_study_is_resumed(command, tmp_path):
    """Killed when its first run is done, in another process; of this size a run takes a moment."""
    script = (
        "import sys, time; from rnndrop_cuda.seminar import studies; from rnndrop_cuda.seminar.commands import study\n"
        "from rnndrop_cuda.seminar.training import experiment\n"
        f"studies.QUICK = {QUICK!r}\n"
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
        (["--only", "Gal 7"], "--only: expected some of 'nn.LSTM', 'Gal 0.25'"),
        (["--reviews", "1000"], "--reviews: expected at most 48"),
        (["--device", "tpu"], "--device tpu cannot be used"),
        (["--vectors", "glove.txt"], "--vectors: expected none, since none of 'nn.LSTM', 'Gal 0.25'"),
        (["--n-emb", "7"], "--n-emb: expected none, since none of 'nn.LSTM', 'Gal 0.25'"),
        (["--pretrained", "lm"], "--pretrained: expected none, since none of 'nn.LSTM', 'Gal 0.25'"),
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
def test_wrong_vectors_are_refused_before_anything_is_trained(options, message, with_vectors, trained, capsys):
    assert study.main(["embeddings", *with_vectors, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("rnndrop study: ") and error.count("\n") == 1
    assert trained == []


def test_another_language_model_is_another_run(with_vectors, language_model, tmp_path, trained):
    only = [*language_model, "--seeds", "1", "--only", "language model, all labels"]
    assert study.main(["pretraining", *with_vectors, *only]) == 0
    assert study.main(["pretraining", *with_vectors, *only]) == 0
    started = [bool(e.pretrained) for e in trained]
    assert started == [False, False, True], "the baselines of the study and of the variant, too"
    save_language_model(tmp_path / "language-model", RANKS[::-1])
    assert study.main(["pretraining", *with_vectors, *only]) == 0
    assert [bool(e.pretrained) for e in trained[3:]] == [True]


def test_starts_are_compared_at_the_same_number_of_labels(with_vectors, language_model, tmp_path):
    assert study.main(["pretraining", *with_vectors, *language_model]) == 0
    found = json.loads((tmp_path / "out" / "study.json").read_text())
    sizes = {variant: runs[0]["data"]["train reviews"] for variant, runs in found["runs"].items()}
    by_labels = {"100 labels": 10, "1,000 labels": 20, "1,000 labels, self-trained": 20, "all labels": 40}
    for labels, size in by_labels.items():
        assert {of for variant, of in sizes.items() if variant.endswith(f", {labels}")} == {size}
        for start in ("random", "language model"):
            assert found["against"][f"{start}, {labels}"] == f"GloVe, {labels}"
    in_short = [sentence for sentence in found["findings"] if sentence.startswith("In short")]
    assert len(in_short) == 4
    assert all(f"GloVe, {labels}" in text for text, labels in zip(in_short, by_labels, strict=True))


def test_a_study_without_its_language_model_says_so(with_vectors, tmp_path, trained, capsys):
    assert status(study.main, "pretraining", *with_vectors) == 2
    assert "--pretrained: expected the folder of a language model, got none" in one_line(capsys)
    assert status(study.main, "pretraining", *with_vectors, "--pretrained", tmp_path) == 2
    assert "or last/; `rnndrop language-model train` makes one\n" in one_line(capsys)
    others = save_language_model(tmp_path / "others", ["a", "b"])
    assert status(study.main, "pretraining", *with_vectors, "--pretrained", others) == 2
    assert "--pretrained: expected a language model of some of the 20 words, got one of none" in one_line(capsys)
    assert trained == []


def test_reviews_held_out_take_the_place_of_the_test_reviews(with_vectors, tmp_path, capsys):
    only = ["--seeds", "1", "--validation", "8", "--only", "SemeniutaLSTM 0.3"]
    assert study.main(["full-reviews", *with_vectors, *only]) == 0
    printed = capsys.readouterr()
    assert "% on the validation reviews" in printed.out and "best validation accuracy" in printed.out
    assert "test acc" not in printed.out + printed.err
    table = tables.study_table(tmp_path / "out" / "study.json")
    assert "validation acc. last" in table and "test acc" not in table
    page = (tmp_path / "out" / "study.html").read_text()
    assert "same 8 validation reviews" in page and "test acc" not in page
    assert status(study.main, "full-reviews", *with_vectors, "--validation", "40") == 2
    assert "--validation: expected fewer than the 40 reviews to train on, got 40" in one_line(capsys)


def test_numbers_out_of_range_are_told_in_one_line(capsys):
    for option, value in {"--epochs": "0", "--seeds": "x", "--validation": "0", "--n-emb": "-1"}.items():
        assert status(study.main, "dropout", option, value) == 2
        assert f"{option}: expected a whole number of at least 1, got {value!r}" in one_line(capsys)
