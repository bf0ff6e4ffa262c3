"""The study of language models: what is chosen by what, what is kept, and what the report says of the figures."""

import dataclasses
import json

import pytest
import torch
from command_line import status
from language_model_runs import language_model

from rnndrop_cuda.seminar.commands import study as study_command
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.language_model.study import (
    KINDS,
    NONE,
    OUTSIDE,
    USUAL,
    WORDS,
    Chosen,
    TextRun,
    epochs_of,
    run_all,
)
from rnndrop_cuda.seminar.reports import language_model as report
from rnndrop_cuda.seminar.training.experiment import Cache

CPU = torch.device("cpu")
BASE = {
    "data": "rotten-tomatoes", "reviews": 24, "vocab_size": 60, "epochs": 2, "n_emb": 6, "n_hidden": 6, "batch_size": 4,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_of_settings_that_fit(kind):
    for p in KINDS[kind].probabilities:
        LanguageModelSettings(**{**BASE, **KINDS[kind].changes(p, 0.65, 0.2)}).check()


def test_the_validation_text_chooses_the_probability_and_nothing_is_trained_twice(tmp_path):
    cache = Cache(tmp_path / "runs", TextRun)
    kinds = dict(run_all(BASE, 2, cache, CPU, ("zoneout",)))
    assert list(kinds) == [*OUTSIDE, "zoneout"]
    assert len(list((tmp_path / "runs").iterdir())) == 2 + 4 + 3 + 3
    for chosen in kinds.values():
        assert chosen.runs[0].validation == min(chosen.tried.values())
        assert chosen.tried[f"{chosen.p:g}"] == chosen.runs[0].validation
        assert [run.experiment["seed"] for run in chosen.runs] == [0, 1]
        for run in chosen.runs:
            losses = [row["val_loss"] for row in run.epochs]
            assert losses[run.best_epoch - 1] == min(losses)
    begun: list[str] = []
    again = dict(run_all(BASE, 2, cache, CPU, ("zoneout",), started=begun.append))
    assert len(begun) == 12
    assert again["zoneout"].runs[1].test == kinds["zoneout"].runs[1].test
    usual, words = kinds[USUAL].p, kinds[WORDS].p
    for name in (WORDS, "zoneout"):
        outside = [kinds[name].runs[1].experiment[key] for key in ("dropout_in", "dropout_out", "embedding_dropout")]
        assert outside == [usual, usual, words]


def test_only_the_finalists_have_the_other_seeds(tmp_path):
    only = ("zoneout", "RNNDrop", "DropConnect (AWD-LSTM)")
    epochs = []
    runs = run_all(BASE, 2, Cache(tmp_path, TextRun), CPU, only, 1, after_epoch=lambda: epochs.append(1))
    kinds = dict(runs)
    assert len(epochs) == epochs_of(BASE, 2, only, 1) == 2 * (6 + 6 + 4)
    best = min(only, key=lambda name: kinds[name].runs[0].validation)
    assert {name: len(chosen.runs) for name, chosen in kinds.items()} == {
        **dict.fromkeys((*OUTSIDE, *only), 1), **dict.fromkeys((*OUTSIDE, best), 2),
    }  # fmt: skip
    assert report.Results({}, kinds).best_inside == best


def test_a_run_ends_early_and_its_learning_rate_falls_as_in_training(tmp_path):
    """With steps that are far too large no epoch after the first few is a new best one."""
    base = {**BASE, "epochs": 30, "patience": 2, "anneal": 4.0, "learning_rate": 0.3}
    ends = []
    kinds = dict(run_all(base, 1, Cache(tmp_path, TextRun), CPU, ("RNNDrop",), after_epoch=lambda: ends.append(1)))
    (run,) = kinds[NONE].runs
    assert len(run.epochs) == run.best_epoch + 2 < 30
    assert len(ends) == epochs_of(base, 1, ("RNNDrop",))
    train = tmp_path / "train"
    assert language_model(
        "train", "--data", "rotten-tomatoes", "--reviews", "24", "--vocab-size", "60", "--n-emb", "6", "--n-hidden",
        "6", "--batch-size", "4", "--layer", "nn.LSTM", "--epochs", "30", "--patience", "2", "--anneal", "4",
        "--learning-rate", "0.3", "--device", "cpu", "--out", train,
    ) == 0  # fmt: skip
    history = json.loads((train / "history.json").read_text())["epochs"]
    assert [row["val_loss"] for row in history] == [row["val_loss"] for row in run.epochs]


def a_run(test, **values):
    settings = dataclasses.asdict(LanguageModelSettings())
    rows = [{"val_loss": 5.0, "training_seconds": 2.0, "seconds": 3.0}]
    data = {"train tokens": 1234, "ids": 60}
    return TextRun(settings, data, rows, 1, values.get("train", 50.0), values.get("validation", test), test)


def chosen(p, *tests):
    return Chosen({f"{p:g}": tests[0]}, p, [a_run(test) for test in tests])


def results(inside, **more):
    kinds = {NONE: chosen(0.0, 200, 201, 199), USUAL: chosen(0.5, 180, 181, 179), "zoneout": chosen(0.1, *inside)}
    return report.Results({"machine": "one"}, {**kinds, **more})


def test_the_best_is_one_of_those_with_all_seeds_and_its_cost_is_told():
    found = report.findings(results((150, 151, 149), RNNDrop=chosen(0.2, 140)))
    assert "The kinds with fewer seeds were behind on the validation text with the first of them." in found
    assert any(
        sentence.startswith("The lowest validation perplexity inside the recurrence has zoneout") for sentence in found
    )
    assert "With it an epoch takes 2.0 s, where nn.LSTM without dropout takes 2.0 s." in found


def test_what_the_recurrence_alone_adds_is_told():
    found = report.findings(results((150, 151, 149), **{WORDS: chosen(0.1, 160, 161, 159)}))
    assert found[-1] == (
        "Of that, the dropout inside the recurrence has -6.2 %, all else the same: "
        "-10.0 (standard error 0.8, so beyond two of them)."
    )


def test_the_bars_are_judged_by_the_figures():
    *_, of_none, of_usual = report.findings(results((150, 151, 149)))
    assert of_none.startswith("Expected: at least 10% below none (nn.LSTM). Found: -50.0")
    assert of_none.endswith("so beyond two of them): reached.")
    assert of_usual.endswith("so beyond two of them): reached.")
    *_, of_none, of_usual = report.findings(results((178, 179, 177)))
    assert of_none.endswith(": reached.") and of_usual.endswith("not reached.")
    *_, of_usual = report.findings(results((100, 178, 230)))
    assert "within two of them): not reached" in of_usual
    assert "one seed cannot tell" in report.findings(results((150,)))[-1]


def test_the_report_is_read_as_it_was_written(tmp_path):
    before = results((150, 151, 149))
    written = report.write(before, tmp_path)
    assert [path.name for path in written] == ["study.json", "study.png"]
    read = report.read(tmp_path / "study.json")
    assert report.findings(read) == report.findings(before)
    assert [read.cells(kind) for kind in read.kinds] == [before.cells(kind) for kind in before.kinds]
    assert read.kinds["zoneout"].tried == {"0.1": 150}
    assert before.cells("zoneout") == ["zoneout", "0.1", "150.0 ± 1.0", "150.0 ± 1.0", "50.0 ± 0.0", "2.0", "3"]


def test_the_command(tmp_path, capsys):
    options = ["--quick", "--reviews", "24", "--seeds", "1", "--epochs", "1", "--device", "cpu", "--out", tmp_path]
    assert status(study_command.main, "language-model", *options, "--only", "RNNDrop") == 0
    said = capsys.readouterr().out
    assert "The lowest validation perplexity inside the recurrence has RNNDrop" in " ".join(said.split())
    assert list(json.loads((tmp_path / "study.json").read_text())["kinds"]) == [*OUTSIDE, "RNNDrop"]
    assert status(study_command.main, "language-model", *options, "--only", "LSTM") == 2
    assert "--only: expected some of" in capsys.readouterr().err
