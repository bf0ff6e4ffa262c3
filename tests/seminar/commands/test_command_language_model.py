"""`rnndrop language-model`: its three actions, and wrong input: one clear line, exit code 2, nothing lost."""

import hashlib
import io
import json
import re

import pytest
import torch
from command_line import one_line
from language_model_runs import SMALL, checkpoint, language_model, write_text
from language_models import save_language_model
from train_runs import train

import rnndrop_command as cli
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "train", 40)


@pytest.fixture
def command(text, out):
    return ["train", "--text", text, *SMALL, "--epochs", "1", "--out", out]


@pytest.fixture
def trained(command, out, capsys):
    assert language_model(*command, "--hidden-dropout", "0.5", "--dropout-out", "0.5") == 0
    capsys.readouterr()
    return out


def test_a_run_says_what_it_did(command, out, capsys):
    assert language_model(*command, "--epochs", "2") == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 2/2: train perplexity [\d.]+, val perplexity [\d.]+, [\d.]+ s, [\d,]+ tokens/s in training", lines[1]
    )
    assert "2 epochs; best: epoch" in said.out
    assert "evaluate --checkpoint" in said.out


def test_the_alias(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["lm", "--help"])
    assert end.value.code == 0
    assert "usage: rnndrop language-model" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["train", "evaluate", "generate"])
def test_every_flag_is_in_the_commands_own_help(action, capsys):
    """Where the documentation's test, and whoever looks for one, finds it."""
    assert language_model("--help") == 0
    of_command = capsys.readouterr().out
    assert language_model(action, "--help") == 0
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--nproc-per-node"}  # torchrun's
    assert {flag for flag in flags if not flag.startswith("--no-")} - set(re.findall(r"--[a-z-]+", of_command)) == set()


def test_perplexity_without_dropout_and_averaged(trained, text, capsys):
    assert language_model("evaluate", "--checkpoint", trained, "--part", "val", "--json", "--samples", "3") == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = checkpoint(trained / "best").progress["progress"]["history"]
    assert found["perplexity"] == pytest.approx(row["val_perplexity"], rel=0.05)  # other rows
    assert found["samples"] == 3
    assert found["mc_perplexity"] != found["perplexity"]
    assert language_model("evaluate", "--checkpoint", trained, "--text", text) == 0
    assert re.fullmatch(
        rf"perplexity on {re.escape(str(text))}, [\d,]+ tokens: [\d.]+ without dropout; "
        r"[\d.]+ as an average over 10 passes with it\n",
        capsys.readouterr().out,
    )


def test_a_model_without_dropout_has_nothing_to_average(command, out, capsys):
    assert language_model(*command) == 0
    capsys.readouterr()
    assert language_model("evaluate", "--checkpoint", out, "--part", "val") == 0
    assert "this model has no dropout to average over" in capsys.readouterr().out


def test_text_is_written_after_the_prompt(trained, capsys):
    assert language_model("generate", "--checkpoint", trained, "--prompt", "w1 w0", "--tokens", "20") == 0
    written = capsys.readouterr().out
    assert written.startswith("w1 w0")
    assert len(written.replace("\n", " \n ").split(" ")) >= 20
    assert language_model("generate", "--checkpoint", trained, "--tokens", "5", "--samples", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(re.fullmatch(r"0\.\d{4} ± 0\.\d{4}  (w\d+|<start>)", line) for line in lines)
    assert language_model("generate", "--checkpoint", trained, "--tokens", "5", "--samples", "4", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["tokens"]) == 5


@pytest.mark.parametrize("samples", ["0", "2"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_whole_in_any_encoding(encoding, samples, tmp_path, monkeypatch):
    folder = save_language_model(tmp_path / "lm", ["über", "😀"], hidden_dropout=0.5)
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")  # as rnndrop_command has it
    monkeypatch.setattr("sys.stdout", out)
    arguments = ["--checkpoint", folder, "--prompt", "über 😀", "--tokens", "1", "--samples", samples, "--json"]
    assert language_model("generate", *arguments) == 0
    out.flush()
    assert json.loads(out.buffer.getvalue())["text"].startswith("über 😀")


def test_the_prompt_is_cut_as_the_models_text(tmp_path, capsys):
    """That of reviews, lower case and with the contractions of the run; words that the model lacks are named."""
    folder = save_language_model(tmp_path / "lm", ["did", "n't", "film"], contractions="split")
    arguments = ["--checkpoint", folder, "--tokens", "1", "--prompt", "Film, DIDN'T rhubarb\nfilm"]
    assert language_model("generate", *arguments) == 0
    said = capsys.readouterr()
    assert said.out.startswith("film did n't <unknown>\nfilm")
    assert said.err.rstrip("\n") == "rnndrop language-model: the model does not know rhubarb: read as <unknown>"


def test_a_special_word_in_the_prompt_is_one_that_the_model_lacks(tmp_path, text, capsys):
    """Of files, whose words may be any; it is read as unknown, as in every text."""
    folder = save_language_model(tmp_path / "lm", ["film"], text=(str(text),))
    assert language_model("generate", "--checkpoint", folder, "--tokens", "1", "--prompt", "film <start>") == 0
    said = capsys.readouterr()
    assert said.out.startswith("film <unknown>")
    assert said.err.rstrip("\n") == "rnndrop language-model: the model does not know <start>: read as <unknown>"


def test_a_text_is_cut_as_the_models_text(tmp_path, capsys):
    folder = save_language_model(tmp_path / "lm", ["did", "n't", "film"], contractions="split")
    perplexities = []
    for written in ("Film, DIDN'T film.\n", "film did n't film\n"):
        (tmp_path / "text").write_text(written)
        assert language_model("evaluate", "--checkpoint", folder, "--text", tmp_path / "text", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["tokens"] == 5
        perplexities.append(found["perplexity"])
    assert perplexities[0] == perplexities[1]


def test_a_model_that_is_no_number(tmp_path, text, capsys):
    words = [f"w{k}" for k in range(20)]
    folder = save_language_model(tmp_path / "lm", words, scale=1e30, text=(str(text),))
    assert language_model("generate", "--checkpoint", folder) == 1
    assert "the model's output is no number" in one_line(capsys)
    assert language_model("evaluate", "--checkpoint", folder, "--text", text, "--json") == 1
    assert re.search(r"the perplexity is (nan|inf)", one_line(capsys))


@pytest.mark.parametrize("part", ["test", "val"])
def test_what_it_says_comes_next_can_be_run(part, command, text, out, capsys):
    assert language_model(*command, *(["--test", text] if part == "test" else [])) == 0
    said = re.search(r"next: rnndrop language-model (evaluate .*), or generate", capsys.readouterr().out)
    assert language_model(*said[1].split()) == 0
    assert {"test": "the test text", "val": "the validation text"}[part] in capsys.readouterr().out


WRONG_TRAINING = {
    "no such file": (["--text", "nowhere.txt"], "--text: cannot read nowhere.txt: No such file or directory"),
    "empty": (["--text", "{empty}"], "--text: expected at least two words, got 0 in "),
    "one word": (["--text", "{one}"], "--text: expected at least two words, got 1 in "),
    "nothing left to train on": (
        ["--text", "{line}"],
        "--text: expected at least two words, got 0 in what is left of ",
    ),
    "no UTF-8": (["--text", "{latin}"], "--text: expected UTF-8, got "),
    "empty validation": (["--valid", "{empty}"], "--valid: expected at least two words, got 0 in "),
    "a folder": (["--text", "{folder}"], "--text: cannot read "),
    "no GPU": (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
    "no such preset": (["--preset", "lstm"], "--preset: "),
    "a probability": (["--hidden-dropout", "1.5"], "--hidden-dropout: expected a probability in [0, 1), got '1.5'"),
    "nn.LSTM": (["--layer", "nn.LSTM"], "--hidden-dropout: expected none with nn.LSTM"),
    "reviews of files": (["--reviews", "5"], "--reviews: expected none with --text"),
    "another out": (["--n-emb", "7", "--n-hidden", "7"], "holds a run with n_emb 6, not 7"),
}


@pytest.mark.parametrize("case", WRONG_TRAINING)
def test_wrong_input_of_train(case, trained, command, tmp_path, capsys):
    """In the folder of a run, which stays as it was."""
    files = {name: tmp_path / name for name in ("empty", "one", "line", "latin", "folder")}
    files["empty"].write_text("\n\n")
    files["one"].write_text("word\n")
    files["line"].write_text("only one line\n")
    files["latin"].write_bytes("naïve words\n".encode("latin-1"))
    files["folder"].mkdir()
    options, message = WRONG_TRAINING[case]
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    same = ["--hidden-dropout", "0.5", "--dropout-out", "0.5"]
    assert language_model(*command, *same, *(option.format(**files) for option in options)) == 2
    assert message in one_line(capsys)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_wrong_input_of_the_others(trained, tmp_path, npz, capsys):
    strange = tmp_path / "strange"
    strange.write_text("none of these\n")
    classifier = tmp_path / "classifier"
    sizes = ["--unverified-data", "--vocab-size", "20", "--maxlen", "8", "--n-emb", "6", "--n-hidden", "4"]
    assert train("--data", npz, *sizes, "--epochs", "1", "--device", "cpu", "--out", classifier) == 0
    capsys.readouterr()
    at = ["--checkpoint", trained]
    for arguments, message in [
        (["evaluate", "--checkpoint", "nowhere"], "there is no such folder; `rnndrop language-model train` makes one"),
        (["generate", "--checkpoint", "nowhere"], "there is no such folder; `rnndrop language-model train` makes one"),
        (["evaluate", *at], "--part: expected one of train, val, got test: there is no such text"),
        (["evaluate", *at, "--text", "nowhere.txt"], "--text: cannot read nowhere.txt"),
        (["evaluate", *at, "--text", strange], "--text: expected tokens that the model knows, got none in "),
        (["generate", *at, "--temperature", "0"], "--temperature: expected a finite number above 0"),
        (["evaluate", "--checkpoint", classifier], "is a checkpoint of rnndrop train, not of rnndrop language-model"),
        (["train", "--resume", classifier], "is a checkpoint of rnndrop train, not of rnndrop language-model"),
        (["train", "--resume", trained / "last"], "name the run's folder, the one above"),
        (["translate"], "invalid choice: 'translate'"),
    ]:
        assert language_model(*arguments) == 2
        said = capsys.readouterr()
        assert message in said.err and said.out == ""
        assert "Traceback" not in said.err
    assert train("--resume", trained) == 2
    assert "is a checkpoint of rnndrop language-model, not of rnndrop train" in one_line(capsys)


def test_a_text_that_changed_is_not_gone_on_with(trained, command, text, capsys):
    write_text(text, 40, seed=5)
    before = (trained / "last" / FILE_NAME).read_bytes()
    for action in (["train", "--resume", trained, "--epochs", "2"], ["evaluate", "--checkpoint", trained]):
        assert language_model(*action) == 2
        assert "the text is no longer what the checkpoint" in one_line(capsys)
    assert (trained / "last" / FILE_NAME).read_bytes() == before


def test_the_vocabulary_must_fit_the_weights(trained, capsys):
    """A checkpoint whose words are fewer than its embedding has rows."""
    file = trained / "best" / FILE_NAME
    contents = json.loads(file.read_text())
    words = trained / "best" / contents["files"]["words"]["name"]
    fewer = json.dumps(json.loads(words.read_text())[:-1]).encode()
    words.write_bytes(fewer)
    contents["files"]["words"]["sha256"] = hashlib.sha256(fewer).hexdigest()
    file.write_text(json.dumps(contents))
    for action in ("evaluate", "generate"):
        assert language_model(action, "--checkpoint", trained) == 2
        assert "weights do not fit its settings" in one_line(capsys)


def test_a_loss_that_is_not_finite_ends_the_run(command, out, capsys):
    assert language_model(*command, "--optimizer", "sgd", "--learning-rate", "1e30", "--epochs", "3") == 1
    said = capsys.readouterr()
    assert "loss is nan in epoch" in said.err or "loss is inf in epoch" in said.err
    assert "Traceback" not in said.err


def test_a_perplexity_beyond_numbers_ends_the_run_and_keeps_what_was_saved(command, out, capsys):
    diverging = ["--optimizer", "sgd", "--learning-rate", "1e30", "--bptt", "10000"]  # one step an epoch
    assert language_model(*command, *diverging) == 1
    assert re.search(r"the val \w+ is (inf|nan) in epoch 1: .*; there is no checkpoint yet", one_line(capsys))
    assert not (out / "last").exists()
    assert language_model(*command, "--epochs", "1") == 0
    contents = json.loads((out / "last" / FILE_NAME).read_text())
    contents["settings"]["learning_rate"] = 1e30
    (out / "last" / FILE_NAME).write_text(json.dumps(contents))
    assert language_model(*command[:1], "--resume", out, "--epochs", "2") == 1
    assert f"the checkpoint before it is kept in {out / 'last'}" in capsys.readouterr().err
    assert json.loads((out / "last" / FILE_NAME).read_text()) == contents


def test_tensorboard_holds_the_perplexities(command, out):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert language_model(*command, "--tensorboard", "--epochs", "2") == 0
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    history = checkpoint(out / "last").progress["progress"]["history"]
    found = [event.value for event in events.Scalars("perplexity/val")]
    assert found == pytest.approx([row["val_perplexity"] for row in history])


def test_options_from_a_file(command, tmp_path, out):
    file = tmp_path / "run.toml"
    file.write_text('hidden_dropout = 0.25\nn_emb = 5\nhead = "full"\ntensorboard = false\n')
    assert language_model(command[0], "--config", file, *command[1:]) == 0
    settings = checkpoint(out / "last").settings
    assert (settings.hidden_dropout, settings.n_emb, settings.head) == (0.25, 6, "full"), "flags win"
    assert torch.is_tensor(checkpoint(out / "last").tensors["model.head.weight"])
