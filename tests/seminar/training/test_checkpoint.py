"""Checkpoints: damaged ones are told in one line, and those of the format before this one load and resume."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoints import cut_tensors
from command_line import one_line, status
from language_models import save_language_model
from train_runs import train

import rnndrop_command as cli
from rnndrop_cuda.seminar.language_model.pretrained import load_pretrained
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, FORMAT, load_checkpoint, read


def damaged_tensors(folder):
    file = next(folder.glob("tensors-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def missing_words(folder):
    next(folder.glob("words-*")).unlink()


def damaged_json(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text()[:-20])


def other_format(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))


def wrong_setting(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text().replace('"n_hidden": 4', '"n_hidden": "4"'))


def with_setting(name, value):
    def damage(folder):
        contents = json.loads((folder / FILE_NAME).read_text())
        assert contents["settings"].pop(name) != value
        contents["settings"][name] = value
        (folder / FILE_NAME).write_text(json.dumps(contents))

    return damage


def other_size(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text().replace('"n_hidden": 4', '"n_hidden": 5'))


def no_checkpoint(folder):
    (folder / FILE_NAME).write_text("[]")


def rewritten(change, stem, load, save):
    """A damage whose hashes are right: `change` of what a file holds."""

    def damage(folder):
        file = next(folder.glob(f"{stem}-*"))
        contents = load(file.read_bytes())
        change(contents)
        data = save(contents)
        named = json.loads((folder / FILE_NAME).read_text())
        named["files"][stem]["sha256"] = hashlib.sha256(data).hexdigest()
        file.write_bytes(data)
        (folder / FILE_NAME).write_text(json.dumps(named))

    return damage


def changed_tensors(change):
    return rewritten(change, "tensors", safetensors.torch.load, safetensors.torch.save)


def changed_words(change):
    return rewritten(change, "words", json.loads, lambda words: json.dumps(words).encode())


def nested_json(folder):
    (folder / FILE_NAME).write_text("[" * 100_000)


def without_a_format(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text().replace(f'"format": {FORMAT},', ""))


not_finite = changed_tensors(lambda tensors: tensors["model.output.weight"].fill_(float("nan")))
whole_numbers = changed_tensors(lambda t: t.update({"model.output.weight": t["model.output.weight"].long()}))
no_words = changed_words(lambda words: words.__setitem__(5, 7))
no_text = changed_words(lambda words: words.__setitem__(5, "\ud800"))
# These concern whoever resumes, not whoever predicts.
OF_THE_OPTIMIZER = {
    changed_tensors(lambda t: t.update({"optimizer.1.square_avg": torch.zeros(3, 3)})): "1.square_avg: expected shape",
    changed_tensors(lambda t: t["optimizer.1.square_avg"].fill_(float("inf"))): "has values that are not finite",
    changed_tensors(lambda t: t.update({"optimizer.1.square_avg": t["optimizer.1.square_avg"].double()})):
        "1.square_avg: expected torch.float32, got torch.float64",
    changed_tensors(lambda t: t.pop("optimizer.1.square_avg")): "optimizer.1: expected square_avg, step, got step",
    changed_tensors(lambda t: t.update({"optimizer.1.momentum": torch.zeros(16, 4)})):
        "optimizer.1: expected square_avg, step, got momentum, square_avg, step",
    changed_tensors(lambda t: t["optimizer.1.step"].resize_(1)): "1.step: expected shape [], got [1]",
    changed_tensors(lambda t: t.update({"optimizer.0.step": torch.tensor(True)})):
        "0.step: expected torch.float32, got torch.bool",
    changed_tensors(lambda t: t.update({"optimizer.1.step": torch.tensor(1j)})):
        "1.step: expected torch.float32, got torch.complex64",
    changed_tensors(lambda t: t.update({"optimizer.0.row_step": torch.zeros(3, 1)})):
        "0.row_step: expected shape [20, 1], got [3, 1]",
    changed_tensors(lambda t: t.update({"optimizer.99.square_avg": torch.zeros(3)})): "a state for weight 99 of",
    changed_tensors(lambda t: t.pop("generator.order")): "'generator.order' is missing",
}  # fmt: skip
DAMAGES = {
    nested_json: "is damaged",
    without_a_format: "is no checkpoint of rnndrop train: 'format' is missing",
    not_finite: "output.weight has values that are not finite",
    whole_numbers: "output.weight: expected torch.float32, got torch.int64",
    no_words: "is damaged: expected a list of words",
    no_text: "is damaged: expected words that UTF-8 can write",
    damaged_tensors: "is damaged: its sha256",
    cut_tensors: "is damaged: its sha256",
    missing_words: "is not whole",
    damaged_json: "is damaged",
    other_format: f"is of format {FORMAT + 1}, this version reads 1, 2, 3, 4, {FORMAT}",
    wrong_setting: "n_hidden: expected",
    other_size: "do not fit its settings",
    with_setting("num_layers", 999): "rec_layer.bias_hh_l101, rec_layer.bias_hh_l102 and 3987 more",
    with_setting("learning_rate", math.nan): "rate: expected a finite number above 0",
    with_setting("learning_rate", 1e300): "rate: expected a finite number above 0",
    with_setting("clip", -1.0): "clip: expected a finite number above 0",
    with_setting("embedding_dropout", 1.5): "dropout: expected a probability",
    with_setting("word_dropout", math.inf): "dropout: expected a probability",
    with_setting("seed", 10**40): "seed: expected a whole number from 0",
    no_checkpoint: "is no checkpoint of rnndrop train",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_in_one_line(damage, command, out, capsys):
    assert train(*command, "--epochs", "1") == 0
    damage(out / "last")
    capsys.readouterr()
    assert train("--resume", out) == 2
    assert DAMAGES[damage] in one_line(capsys)
    assert status(cli.main, "predict", "--checkpoint", out / "last", "--text", "good") == 2
    assert DAMAGES[damage] in one_line(capsys)
    with pytest.raises(ValueError, match=re.escape(DAMAGES[damage])):
        load_checkpoint(out / "last")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda at: at.update(seconds=10**400), "seconds and sums: expected numbers"),
        (lambda at: at.update(sums=[10**400, 0, 0]), "seconds and sums: expected numbers"),
        (
            lambda at: at.update(history=[{"epoch": 1}], best={"epoch": 1}),
            "history lacks seconds, test_accuracy, test_loss",
        ),
    ],
)
def test_a_progress_that_cannot_be_is_told_in_one_line(change, said, command, out, capsys):
    assert train(*command, "--epochs", "1") == 0
    contents = json.loads((out / "last" / FILE_NAME).read_text())
    change(contents["progress"]["progress"])
    (out / "last" / FILE_NAME).write_text(json.dumps(contents))
    capsys.readouterr()
    assert train("--resume", out, "--epochs", "2") == 2
    assert said in one_line(capsys)


@pytest.mark.parametrize("damage", OF_THE_OPTIMIZER)
def test_an_optimizer_that_does_not_fit_is_told_in_one_line(damage, command, out, capsys):
    assert train(*command, "--epochs", "1") == 0
    damage(out / "last")
    capsys.readouterr()
    assert train("--resume", out) == 2
    assert OF_THE_OPTIMIZER[damage] in one_line(capsys)


# ---------------------------------------------------------------- the formats before this one


OLDER = {
    2: {"pretrained": None, "gradual_unfreezing": False, "pooling": "last"},
    3: {"optimizer": "RMSprop", "one_cycle": False, "layer_decay": 1.0, "loss_reduction": "sum"},
    4: {},
}
"""What came after a format, and was this before."""


@pytest.mark.parametrize("number", OLDER)
def test_a_checkpoint_of_an_older_format_loads_and_its_run_is_resumed(number, command, out):
    assert train(*command, "--epochs", "1") == 0
    for file in (out / "last" / FILE_NAME, out / "best" / FILE_NAME):
        contents = json.loads(file.read_text())
        for later in range(number, FORMAT):
            assert {name: contents["settings"].pop(name) for name in OLDER[later]} == OLDER[later]
        file.write_text(json.dumps({**contents, "format": number}))
    assert load_checkpoint(out)[2] == read(out / "last").settings
    assert train("--resume", out, "--epochs", "2") == 0


@pytest.mark.parametrize(
    ("number", "lacking"),
    [(3, ("anneal", "anneal_after")), (3, ("anneal_after",)), (4, ("anneal_after",))],
)
def test_a_language_model_of_an_older_format_loads(number, lacking, tmp_path):
    """Its settings are others than the classifier's; the first ones did not anneal."""
    folder = save_language_model(tmp_path / "language-model")
    settings = load_pretrained(folder).settings
    file = folder / FILE_NAME
    contents = json.loads(file.read_text())
    kept = {name: value for name, value in contents["settings"].items() if name not in lacking}
    file.write_text(json.dumps({**contents, "format": number, "settings": kept}))
    assert load_pretrained(folder).settings == settings


@pytest.fixture
def of_format_1(out):
    """One epoch of `rnndrop train --variable-length` on 40 sentences, as commit dde2741 wrote it."""
    shutil.copytree(Path(__file__).with_name("format_1"), out)
    return out


def test_a_checkpoint_of_format_1_loads(of_format_1):
    _, words, settings = load_checkpoint(of_format_1)
    assert (settings.maxlen, settings.variable_length, settings.options) == (None, True, ())
    assert len(words) == settings.vocab_size == 50
    file = of_format_1 / "last" / FILE_NAME
    file.write_text(file.read_text().replace('"maxlen": null', '"maxlen": 16'))
    assert (read(file.parent).settings.maxlen, read(file.parent).settings.variable_length) == (16, False)


def test_a_run_of_format_1_is_resumed_as_it_would_have_gone_on(of_format_1, capsys):
    """The second epoch is the one that dde2741 trained; what is written then is of this format."""
    assert train("--resume", of_format_1, "--epochs", "2") == 0
    assert "resuming from" in capsys.readouterr().err
    assert json.loads((of_format_1 / "last" / FILE_NAME).read_text())["format"] == FORMAT
    first, second = read(of_format_1 / "last").progress["progress"]["history"]
    assert first["train_loss"] == 0.6966154217720032, "kept"
    assert second["train_loss"] == pytest.approx(0.691367256641388, rel=1e-6)
    assert second["test_loss"] == pytest.approx(0.7044248580932617, rel=1e-6)
    assert (second["train_accuracy"], second["test_accuracy"]) == (0.575, 0.4)
