"""A run of `rnndrop train`: what it trains and writes, which epoch is best, and what resumes to the same bits."""

import csv
import io
import json
import math

import pytest
import torch
from command_line import one_line, status
from torch import nn
from train_runs import train, without

import rnndrop_command as cli
from rnndrop_cuda.seminar import load_reviews
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint, read
from rnndrop_cuda.seminar.training.forward import Forward
from rnndrop_cuda.seminar.training.trainer import drop_words


@pytest.mark.parametrize(
    "layer", ["nn.LSTM", "RNNLayer:0.5", "FastRNNLayer:0.5", "MyLSTM:0.3", "GalLSTM:0.5", "SemeniutaLSTM:0.3"]
)
def test_a_run_and_the_model_that_it_leaves(layer, command, out, capsys):
    assert train(*command, "--layer", layer) == 0
    last, best = read(out / "last"), read(out / "best")
    history = last.progress["progress"]["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    accuracies = [row["test_accuracy"] for row in history]
    assert best.progress["progress"]["best"] == history[accuracies.index(max(accuracies))]
    assert json.loads((out / "history.json").read_text())["epochs"] == history
    table = list(csv.DictReader(io.StringIO((out / "history.csv").read_text())))
    assert [{key: float(value) for key, value in row.items()} for row in table] == history

    model, words, settings = load_checkpoint(out)
    assert not model.training
    assert len(words) == settings.vocab_size == 20
    assert settings.layer == layer
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, best.tensors["model." + name])
    assert torch.equal(
        model(torch.ones(8, 1, dtype=torch.int64)), load_checkpoint(out / "best")[0](torch.ones(8, 1).long())
    )
    assert "2 epochs; best: epoch" in capsys.readouterr().out


def test_the_score_of_the_best_is_that_of_its_weights(command, out):
    """The weights in best/ were evaluated with what its history says."""
    assert train(*command, "--layer", "GalLSTM:0.5", "--monitor", "loss") == 0
    model, _, settings = load_checkpoint(out)
    reviews = load_reviews(settings.data, 20, 8, sha256=None)
    with torch.no_grad():
        probabilities = model(torch.from_numpy(reviews.X_test).T)[:, 0]
    loss = nn.functional.binary_cross_entropy(probabilities, torch.from_numpy(reviews.y_test).float())
    history = read(out / "last").progress["progress"]["history"]
    assert loss.item() == pytest.approx(min(row["test_loss"] for row in history), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        ["--variable-length", "--layer", "GalLSTM:0.5", "--mask-scope", "sample", "--num-layers", "2"],
        ["--variable-length", "--layer", "nn.LSTM"],
        ["--variable-length", "--maxlen", "6", "--checkpoint-every", "2"],
        ["--autocast", "--clip", "0.1"],
        ["--compile", "eager", "--word-dropout", "0.5", "--embedding-dropout", "0.5"],
        ["--validation", "16", "--monitor", "loss"],
    ],
)
def test_options_train_and_resume_to_the_same_bits(options, command, out, tmp_path):
    """Three epochs at once, and one and then two more."""
    command = without(command, "--maxlen")
    assert train(*command, *options, "--epochs", "3") == 0
    halves = tmp_path / "halves"
    assert train(*command, *options, "--epochs", "1", "--out", halves) == 0
    assert train("--resume", halves, "--epochs", "3") == 0
    whole, resumed = read(out / "last").tensors, read(halves / "last").tensors
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_reviews_set_aside_choose_the_best_and_are_not_trained_on(command, out, tmp_path, capsys):
    assert train(*command, "--validation", "16", "--monitor", "loss", "--learning-rate", "0.1", "--epochs", "6") == 0
    history = read(out / "last").progress["progress"]["history"]
    losses, tests = ([row[f"{part}_loss"] for row in history] for part in ("val", "test"))
    best = losses.index(min(losses))
    assert best != tests.index(min(tests)), "else who chose it cannot be told"
    assert read(out / "best").progress["progress"]["best"] == history[best]
    said = capsys.readouterr().out
    assert (
        f"best: epoch {best + 1}, val accuracy {history[best]['val_accuracy']:.4f}, val loss {min(losses):.4f}" in said
    )
    assert (out / "history.csv").read_text().splitlines()[0] == (
        "epoch,train_loss,train_accuracy,val_loss,val_accuracy,test_loss,test_accuracy,seconds"
    )

    model, _, settings = load_checkpoint(out)
    reviews = load_reviews(settings.data, 20, 8, sha256=None)
    with torch.no_grad():
        probabilities = model(torch.from_numpy(reviews.X_train[-16:]).T)[:, 0]
    loss = nn.functional.binary_cross_entropy(probabilities, torch.from_numpy(reviews.y_train[-16:]).float())
    assert loss.item() == pytest.approx(min(losses), rel=1e-5)

    fewer = tmp_path / "fewer"
    rest = ["--reviews", "32", "--learning-rate", "0.1", "--epochs", "6", "--out", fewer]
    assert train(*command, *rest) == 0
    without, with_them = read(fewer / "last").tensors, read(out / "last").tensors
    assert all(torch.equal(tensor, with_them[name]) for name, tensor in without.items())


def test_early_stopping_counts_epochs_since_the_best(command, out, capsys):
    assert train(*command, "--epochs", "40", "--patience", "2", "--monitor", "loss", "--learning-rate", "0.1") == 0
    progress = read(out / "last").progress["progress"]
    losses = [row["test_loss"] for row in progress["history"]]
    assert 3 <= len(losses) < 40
    assert losses.index(min(losses)) == len(losses) - 3
    assert "stopped early" in capsys.readouterr().out
    assert train("--resume", out) == 0  # nothing left to do
    assert read(out / "last").progress["progress"] == progress


def test_tensorboard_holds_the_history_once(command, out):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(*command, "--tensorboard") == 0
    assert train("--resume", out, "--epochs", "3", "--tensorboard") == 0
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    history = read(out / "last").progress["progress"]["history"]
    for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        part, what = key.split("_")
        scalars = events.Scalars(f"{what}/{part}")
        assert [event.step for event in scalars] == [1, 2, 3]
        assert [event.value for event in scalars] == pytest.approx([row[key] for row in history])


@pytest.fixture
def vectors(npz, tmp_path):
    """Of the words of ranks 1 to 16, 6 numbers each."""
    npz.with_name("imdb_word_index.json").write_text(json.dumps({f"word{k}": k for k in range(1, 30)}))
    file = tmp_path / "vectors.txt"
    file.write_text("".join(f"word{k} " + " ".join(str(10 * k + j) for j in range(6)) + "\n" for k in range(1, 17)))
    return file


@pytest.mark.parametrize("frozen", [[], ["--freeze-vectors"]])
def test_pretrained_vectors_begin_and_may_be_frozen(frozen, vectors, command, out, capsys):
    assert train(*command, "--vectors", vectors, *frozen) == 0
    capsys.readouterr()
    vectors.unlink()  # the checkpoint holds them
    weight = load_checkpoint(out / "last")[0].word_embeddings.weight
    given = torch.tensor([[10 * k + j for j in range(6)] for k in range(1, 17)]).float()
    assert torch.equal(weight[4:], given) == bool(frozen)
    torch.testing.assert_close(weight[4:], given, rtol=0, atol=1)
    assert not weight[0].any(), "padding"
    assert train("--resume", out, "--epochs", "3") == 0
    capsys.readouterr()
    assert status(cli.main, "predict", "--checkpoint", out, "--text", "word3 word4") == 0


def test_reviews_of_their_own_lengths_are_cropped_to_maxlen(vectors, command, out, capsys):
    """In training, and where the model is asked: what is shorter is not padded."""
    assert train(*command, "--layer", "nn.LSTM", "--variable-length", "--maxlen", "5") == 0
    model, _, settings = load_checkpoint(out)
    assert (settings.maxlen, settings.variable_length, settings.padded_to) == (5, True, None)
    assert max(map(len, settings.load().X_train)) == 5 > min(map(len, settings.load().X_train))
    capsys.readouterr()
    for text, ids in {"word3": [1, 6], "word3 " * 9: [1, 6, 6, 6, 6]}.items():
        assert status(cli.main, "predict", "--checkpoint", out, "--json", "--text", text) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["probability"] == pytest.approx(model(torch.tensor([ids]).T).item(), rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--n-emb", "5"], "has 6 numbers a word, n_emb is 5"),
        (["--vectors", "nowhere.txt"], "nowhere.txt"),
        (["--contractions", "split"], "--contractions: expected keep for"),
    ],
)
def test_wrong_vectors_are_told_in_one_line(options, message, vectors, command, capsys, out):
    assert train(*command, "--vectors", vectors, *options) == 2
    assert message in one_line(capsys)
    assert train(*command, "--freeze-vectors") == 2
    assert "--freeze-vectors: expected vectors to freeze, got none" in one_line(capsys)
    assert not (out / "last").exists()


def test_contractions_are_split_in_training_and_in_texts(tmp_path, capsys):
    out = tmp_path / "run"
    sizes = ["--vocab-size", "2000", "--maxlen", "16", "--n-emb", "6", "--n-hidden", "4", "--reviews", "64"]
    assert train("--data", "rotten-tomatoes", "--contractions", "split", *sizes, "--epochs", "1", "--out", out) == 0
    words = read(out / "last").words
    assert "n't" in words and "don't" not in words
    capsys.readouterr()
    assert status(cli.main, "predict", "--checkpoint", out, "--json", "--text", "Don\u2019t!") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["words"], row["unknown_words"]) == (2, 0)


def test_dropped_words_become_unknown_but_not_padding_and_start():
    ids = torch.arange(4).repeat(1000, 1)
    dropped = drop_words(ids, 0.25)
    assert torch.equal(dropped[:, :3], ids[:, :3])
    assert set(dropped[:, 3].tolist()) == {2, 3}
    assert 0.2 < (dropped[:, 3] == 2).float().mean() < 0.3


def test_autocast_keeps_the_sigmoid_in_float32(command, out):
    """In bfloat16 every probability would be one of a few."""
    model = TrainSettings(vocab_size=20, n_emb=6, n_hidden=4).build().eval()
    ids = torch.randint(0, 20, (8, 50))
    found, expected = Forward(model, "cpu", True)(ids), model(ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-3)
    assert not torch.equal(found, expected)
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("options", [[], ["--checkpoint-every", "1"]])
def test_a_loss_that_is_not_finite_ends_the_run(options, command, capsys, monkeypatch, out):
    monkeypatch.setattr(nn.BCELoss, "forward", lambda self, p, y: p.sum() * math.nan)
    assert train(*command, *options) == 1
    assert "the training loss is nan in epoch 1" in one_line(capsys)
    assert not (out / "last").exists()
