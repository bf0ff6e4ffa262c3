"""`rnndrop compare`: the whole command on a few reviews, what it leaves behind, and its errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_runs
from command_line import one_line, status
from object_arrays import object_array

import rnndrop_command as cli
from rnndrop_cuda import provenance
from rnndrop_cuda.seminar import load_matrix_imdb
from rnndrop_cuda.seminar.commands import compare
from rnndrop_cuda.seminar.settings import Layer
from rnndrop_cuda.seminar.training import comparison
from rnndrop_cuda.seminar.training.comparison import CompareSettings, Training

SMALL = [*train_runs.SMALL, "--epochs", "2"]
TWO_LAYERS = ["--layers", "nn.LSTM", "GalLSTM:0.5"]


@pytest.fixture
def command(npz: Path, tmp_path: Path) -> list[str]:
    return ["--data", str(npz), "--out", str(tmp_path / "out"), *SMALL]


def read(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def test_the_whole_command(npz, tmp_path):
    """Every layer, in a process of its own; the data's name would break the page if it were not escaped."""
    awkward = npz.rename(npz.with_name("<script>&.npz"))
    out = tmp_path / "a" / "out"
    run = subprocess.run(
        [sys.executable, "-m", "rnndrop_cuda", "compare", "--data", awkward, "--out", out, *SMALL],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = read(out)
    layers = found["layers"]
    assert list(layers) == [Layer.parse(text).label for text in compare.COMPARED]
    for name, layer in layers.items():
        assert layer["parameters"] == 4 * 4 * (6 + 4 + 2), name
        assert len(layer["epochs"]) == 2, name
        assert 0 <= layer["train_accuracy"] <= 1, name
        assert all(0 <= epoch[key] <= 1 for epoch in layer["epochs"] for key in ("train_accuracy", "test_accuracy"))
        assert all(epoch[key] > 0 for epoch in layer["epochs"] for key in ("train_loss", "test_loss", "seconds"))
        assert name in run.stdout
    assert found["data"]["train reviews"] == 48
    assert found["data"]["test reviews"] == 32
    assert found["settings"]["n_emb"] == 6
    assert found["facts"]["torch"] == torch.__version__
    assert found["facts"]["command"].startswith("rnndrop compare --data")

    # The same maths from the same weights, reviews and masks: the same figures.
    for same in (["nn.LSTM", "RNNLayer 0", "MyLSTM 0"], ["RNNLayer 0.5", "FastRNNLayer 0.5", "GalLSTM 0.5"]):
        for name in same[1:]:
            for epoch, expected in zip(layers[name]["epochs"], layers[same[0]]["epochs"], strict=True):
                for key in ("train_loss", "test_loss"):
                    assert epoch[key] == pytest.approx(expected[key], rel=1e-4), f"{name}, {key}"
    assert layers["RNNLayer 0.5"]["epochs"][0]["train_loss"] != layers["RNNLayer 0"]["epochs"][0]["train_loss"]

    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;&amp;.npz" in page
    assert 'src="data:image/svg+xml;base64,' in page
    assert page.count("http") == 0, "loads nothing"
    assert {path.name for path in out.iterdir()} == {"results.json", "curves.png", "report.html"}


@pytest.mark.parametrize("layer", ["nn.LSTM", "GalLSTM:0.5", "MyLSTM:0.3"])
def test_the_training_is_the_seminars_written_out(npz, command, tmp_path, layer):
    """Against a dense embedding, torch's RMSprop and a loop that waits for every loss; batches of few words."""
    assert compare.main([*command, "--layers", layer, "--batch-size", "2"]) == 0
    ((_, found),) = read(tmp_path / "out")["layers"].items()

    settings = CompareSettings(layer=layer, vocab_size=20, n_emb=6, n_hidden=4)
    (X_train, y_train), (X_test, y_test) = load_matrix_imdb(str(npz), num_words=20, maxlen=8, sha256=None)
    model = settings.build_alike()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)

    def loss_and_hits(X, y, index):
        p = model(torch.from_numpy(X[index].T))[:, 0]
        labels = torch.from_numpy(y[index]).float()
        return torch.nn.functional.binary_cross_entropy(p, labels, reduction="sum"), ((p > 0.5) == labels).sum().item()

    torch.manual_seed(0)
    for epoch in found["epochs"]:
        train_loss = train_hits = 0.0
        model.train()
        for index in torch.randperm(len(y_train), generator=order).split(2):
            loss, hits = loss_and_hits(X_train, y_train, index.numpy())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            train_loss, train_hits = train_loss + loss.item(), train_hits + hits
        model.eval()
        test_loss, test_hits = loss_and_hits(X_test, y_test, slice(None))
        assert epoch["train_loss"] == pytest.approx(train_loss / len(y_train), rel=1e-5)
        assert epoch["test_loss"] == pytest.approx(test_loss.item() / len(y_test), rel=1e-5)
        assert epoch["train_accuracy"] == train_hits / len(y_train)
        assert epoch["test_accuracy"] == test_hits / len(y_test)
    model.eval()
    train_loss, train_hits = loss_and_hits(X_train, y_train, slice(None))
    assert found["train_loss"] == pytest.approx(train_loss.item() / len(y_train), rel=1e-5)
    assert found["train_accuracy"] == train_hits / len(y_train), "of the trained model, dropout off"


def test_the_same_command_repeats_no_finished_layer(command, tmp_path, capsys):
    assert compare.main([*command, *TWO_LAYERS]) == 0
    first = read(tmp_path / "out")["layers"]
    assert compare.main([*command, *TWO_LAYERS, "RNNLayer:0.5"]) == 0
    second = read(tmp_path / "out")["layers"]
    assert list(second) == ["nn.LSTM", "GalLSTM 0.5", "RNNLayer 0.5"]
    assert {name: second[name] for name in first} == first, "the seconds too: they were not trained again"
    assert "finished already" in capsys.readouterr().err


def test_the_layers_are_timed_in_turn_after_every_training(command, tmp_path, monkeypatch):
    steps = []

    def watched(batches, model, *args):
        steps.append(type(model.rec_layer).__name__)
        return train_epoch(batches, model, *args)

    train_epoch = comparison.train_epoch
    monkeypatch.setattr(comparison, "train_epoch", watched)
    for layers in (["GalLSTM:0.5"], TWO_LAYERS[1:]):
        steps.clear()
        assert compare.main([*command, "--layers", *layers]) == 0
        assert steps == [layer.split(":")[0].removeprefix("nn.") for layer in layers] * 10
        found = read(tmp_path / "out")["steps in turn"]
        assert list(found) == [Layer.parse(layer).label for layer in layers], "of one run, cached layers included"
        assert all(0 < step["lower"] <= step["median"] <= step["upper"] for step in found.values())


@pytest.mark.parametrize(("flags", "rounds", "reviews"), [((), 9, 48), (("--quick",), 3, 32)])
def test_quick_times_fewer_and_smaller_steps_and_says_so(
    flags: tuple[str, ...], rounds: int, reviews: int, command: list[str], tmp_path: Path, capsys
) -> None:
    assert compare.main([*command, "--batch-size", "48", "--epochs", "1", *TWO_LAYERS, *flags]) == 0
    for step in read(tmp_path / "out")["steps in turn"].values():
        assert (step["rounds"], step["reviews"]) == (rounds, reviews)
    said = " ".join(capsys.readouterr().out.split())
    assert f"A training step on {reviews} reviews takes" in said
    assert f"the median of {rounds} rounds in which the layers took a step each, in turn" in said


@pytest.mark.parametrize("epochs_before", [3, 4])
def test_a_run_cut_short_is_resumed(epochs_before, command, tmp_path, monkeypatch, capsys):
    """In the second layer's last epoch, and after it, before the trained model is scored on its training reviews."""
    done = []

    def interrupted(self, *args):
        for epoch in run(self, *args):
            done.append(epoch)
            yield epoch
            if len(done) == epochs_before:
                raise KeyboardInterrupt

    run = Training.run
    monkeypatch.setattr(Training, "run", interrupted)
    assert compare.main([*command, *TWO_LAYERS]) == 130
    assert "the same command resumes" in capsys.readouterr().err
    cut_short = read(tmp_path / "out")["layers"]
    assert [len(layer["epochs"]) for layer in cut_short.values()] == [2, epochs_before - 2], "no more is lost"

    monkeypatch.setattr(Training, "run", run)
    assert compare.main([*command, *TWO_LAYERS]) == 0
    assert "finished already" in (said := capsys.readouterr().err) and "results.json: nn.LSTM\n" in said
    whole = read(tmp_path / "out")["layers"]
    assert whole["nn.LSTM"] == cut_short["nn.LSTM"]
    assert len(whole["GalLSTM 0.5"]["epochs"]) == 2
    assert "train_accuracy" in whole["GalLSTM 0.5"]
    assert whole["GalLSTM 0.5"]["epochs"][0]["test_loss"] == cut_short["GalLSTM 0.5"]["epochs"][0]["test_loss"]


@pytest.mark.parametrize("change", [["--seed", "1"], ["--epochs", "1"], ["--fresh"]])
def test_results_of_another_run_are_kept_aside(command, tmp_path, change):
    out = tmp_path / "out"
    assert compare.main([*command, *TWO_LAYERS]) == 0
    first = (out / "results.json").read_text()
    assert compare.main([*command, *TWO_LAYERS, *change]) == 0
    assert (out / "results.1.json").read_text() == first
    assert read(out)["layers"].keys() == json.loads(first)["layers"].keys()


@pytest.mark.parametrize("content", ["", "[]", '{"layers": 1}', '{"layers": {"nn.LSTM": {"epochs": [1]}}}'])
def test_a_file_that_is_no_results_is_kept_aside(command, tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text(content)
    assert compare.main([*command, "--layers", "nn.LSTM"]) == 0
    assert (out / "results.1.json").read_text() == content
    assert list(read(out)["layers"]) == ["nn.LSTM"]


def test_a_run_that_failed_before_its_first_epoch_left_no_results(command, tmp_path, capsys):
    out = tmp_path / "out"
    assert compare.main([*command, "--layers", "nn.LSTM"]) == 0
    (out / "results.json").write_text(json.dumps({**read(out), "layers": {}}))
    capsys.readouterr()
    assert compare.main([*command, "--layers", "nn.LSTM", "--seed", "1"]) == 0
    assert "earlier results" not in capsys.readouterr().err
    assert not (out / "results.1.json").exists()


def test_another_commit_or_machine_is_another_run(command, tmp_path, monkeypatch):
    for name in ("_commit", "_cpu_model"):
        monkeypatch.setattr(provenance, name, lambda: "another")
        assert compare.main([*command, "--layers", "nn.LSTM"]) == 0
    assert (tmp_path / "out" / "results.1.json").exists()


def test_results_without_the_trained_models_accuracy_are_kept_aside(command, tmp_path):
    """As this package wrote them when their training accuracy was that met in training."""
    out = tmp_path / "out"
    assert compare.main([*command, *TWO_LAYERS]) == 0
    old = read(out)
    settings = old["settings"]
    known = ("data", "reviews", "vocab_size", "n_emb", "n_hidden", "batch_size", "learning_rate", "epochs", "seed")
    old["settings"] = {**{name: settings[name] for name in known}, "seq_len": settings["maxlen"]}
    old["layers"] = {
        name: {"parameters": layer["parameters"], "epochs": layer["epochs"]} for name, layer in old["layers"].items()
    }
    (out / "results.json").write_text(json.dumps(old))
    assert compare.main([*command, *TWO_LAYERS]) == 0
    assert json.loads((out / "results.1.json").read_text()) == old
    assert all("train_accuracy" in layer for layer in read(out)["layers"].values())


def test_reviews_and_seed_are_options(command, tmp_path):
    losses = []
    for seed in ("0", "0", "1"):
        assert compare.main([*command, "--layers", "nn.LSTM", "--reviews", "20", "--seed", seed, "--fresh"]) == 0
        found = read(tmp_path / "out")
        losses.append([epoch["train_loss"] for epoch in found["layers"]["nn.LSTM"]["epochs"]])
        assert (found["data"]["train reviews"], found["data"]["test reviews"]) == (20, 5)
    assert losses[0] == losses[1] != losses[2]


def test_reviews_held_out_are_scored_in_place_of_the_test_reviews(command, tmp_path, capsys):
    """What is trained on is what --reviews would leave; the test reviews are not looked at."""
    assert compare.main([*command, "--layers", "nn.LSTM", "--validation", "16"]) == 0
    printed = capsys.readouterr().out
    assert "validation accuracy" in printed and "test acc" not in printed
    (held_out,) = read(tmp_path / "out")["layers"].values()
    assert read(tmp_path / "out")["data"]["train reviews"] == 32
    assert "test acc" not in (tmp_path / "out" / "report.html").read_text()
    assert compare.main([*command, "--layers", "nn.LSTM", "--reviews", "32"]) == 0
    (fewer,) = read(tmp_path / "out")["layers"].values()
    assert [epoch["train_loss"] for epoch in held_out["epochs"]] == [epoch["train_loss"] for epoch in fewer["epochs"]]
    assert held_out["train_accuracy"] == fewer["train_accuracy"]
    assert {*held_out["epochs"][0]} == {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"}


@pytest.mark.parametrize("held_out", [[], ["--validation", "16"]], ids=["test", "validation"])
def test_the_table_fits_80_columns_and_loses_no_figure(command, held_out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert compare.main([*command, *held_out, "--layers", "nn.LSTM", "SemeniutaLSTM:0.25"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed[:-1])) <= 80
    assert "…" not in "".join(printed)


def test_a_file_of_another_hash_names_the_flag_that_takes_it(command, capsys):
    command.remove("--unverified-data")
    line = fails_with_one_line(command, capsys)
    assert line.startswith("rnndrop compare: --data: ") and line.endswith("; --unverified-data takes it as it is\n")


def fails_with_one_line(argv: list[str], capsys) -> str:
    assert status(compare.main, *argv) == 2
    return one_line(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "GRU"], "no layer 'GRU': choose from nn.LSTM, RNNLayer"),
        (["--layers", "GalLSTM:1.5"], "expected a dropout probability in [0, 1], got '1.5'"),
        (["--layers", "GalLSTM:nan"], "expected a dropout probability in [0, 1], got 'nan'"),
        (["--layers", "nn.LSTM:0.5"], "nn.LSTM has no dropout inside"),
        (["--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["--batch-size", "x"], "--batch-size: expected a whole number of at least 1, got 'x'"),
        (["--vocab-size", "3"], "--vocab-size: expected a whole number from 4 to 10,000,000, got '3'"),
        (["--learning-rate", "nan"], "--learning-rate: expected a finite number above 0 and at most 1e+38, got 'nan'"),
        (["--learning-rate", "1e39"], "--learning-rate: expected a finite number above 0 and at most 1e+38, got"),
        (["--device", "abacus"], "--device abacus cannot be used"),
        (["--device", "meta"], "--device meta cannot be used: only cpu and cuda are"),
        (["--seed", "-1"], "--seed: expected a whole number in [0, 2**63), got '-1'"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
        (["--data", "absent.npz"], "or the path of an npz file, got 'absent.npz'"),
        (["--validation", "48"], "--validation: expected fewer than the 48 reviews to train on, got 48"),
        (["--reviews", "49"], "--reviews: expected at most 48"),
        (["--quick", "--paper"], "--paper: not allowed with argument --quick"),
    ],
)
def test_wrong_input_is_one_line(command, options, message, capsys):
    assert message in fails_with_one_line([*command, *options], capsys)


def test_no_review_to_test_on_is_one_line(command, npz, capsys):
    some, none = object_array([[5]]), object_array([])
    np.savez(npz, x_train=some, y_train=np.zeros(1), x_test=none, y_test=np.zeros(0))
    assert "a review to train on and one to test on" in fails_with_one_line(command, capsys)


def test_an_unverified_file_is_one_line(command, capsys):
    command.remove("--unverified-data")
    assert "is not the file expected" in fails_with_one_line(command, capsys)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be_written_is_one_line(command, tmp_path, below, capsys):
    (tmp_path / "file").write_text("in the way")
    argv = [*command, "--out", str(tmp_path / "file" / below)]
    message = fails_with_one_line(argv, capsys)
    assert message.startswith("rnndrop compare: --out: expected a folder that can be written, got ")
    assert str(tmp_path / "file") in message


def test_a_folder_that_vanishes_is_one_line(command, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compare, "save", full)
    assert compare.main([*command, "--layers", "nn.LSTM"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("No space left on device")


def test_the_missing_extra_is_one_line(command, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "rnndrop_cuda.seminar.commands.compare")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main(["compare", *command]) == 2
    assert capsys.readouterr().err == "rnndrop compare: tqdm is missing: from the checkout, pip install '.[demo]'\n"
