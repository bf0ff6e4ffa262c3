"""`rnndrop train` and `rnndrop predict`: options, files, what is written, going on, and wrong input."""

import csv
import io
import json
import math

import pytest
import torch
from torch import nn

from rnndrop_cuda import cli
from rnndrop_cuda.seminar import load_reviews
from rnndrop_cuda.seminar.commands import predict
from rnndrop_cuda.seminar.commands import train as train_command
from rnndrop_cuda.seminar.settings import TrainSettings, WordDroppingEmbedding
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, load_checkpoint, read
from rnndrop_cuda.seminar.training.loop import clip_gradients
from rnndrop_cuda.seminar.training.trainer import Trainer, _Forward, drop_words

SMALL = [
    "--unverified-data", "--vocab-size", "20", "--maxlen", "8", "--n-emb", "6", "--n-hidden", "4", "--batch-size", "16",
    "--learning-rate", "0.01", "--device", "cpu",
]  # fmt: skip


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def command(npz, out):
    return ["--data", str(npz), *SMALL, "--epochs", "2", "--out", str(out)]


def train(*arguments):
    try:
        return train_command.main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse's
        return end.code


def one_line(capsys):
    """What was printed, all of it one line of stderr."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


# ---------------------------------------------------------------- what is written


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
        ["--autocast", "--clip", "0.1"],
        ["--compile", "eager", "--word-dropout", "0.5", "--embedding-dropout", "0.5"],
        ["--validation", "16", "--monitor", "loss"],
    ],
)
def test_options_train_and_go_on_to_the_same_bits(options, command, out, tmp_path):
    """Three epochs at once, and one and then two more."""
    maxlen = command.index("--maxlen")
    command = command[:maxlen] + command[maxlen + 2 :]
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
    assert ask("--checkpoint", out, "--text", "word3 word4") == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--n-emb", "5"], "has 6 numbers a word, n_emb is 5"),
        (["--vectors", "nowhere.txt"], "nowhere.txt"),
        (["--contractions", "split"], "--contractions must be keep for"),
    ],
)
def test_wrong_vectors_are_told_in_one_line(options, message, vectors, command, capsys, out):
    assert train(*command, "--vectors", vectors, *options) == 2
    assert message in one_line(capsys)
    assert train(*command, "--freeze-vectors") == 2
    assert "--freeze-vectors needs --vectors" in one_line(capsys)
    assert not (out / "last").exists()


def test_contractions_are_split_in_training_and_in_texts(tmp_path, capsys):
    out = tmp_path / "run"
    sizes = ["--vocab-size", "2000", "--maxlen", "16", "--n-emb", "6", "--n-hidden", "4", "--reviews", "64"]
    assert train("--data", "rotten-tomatoes", "--contractions", "split", *sizes, "--epochs", "1", "--out", out) == 0
    words = read(out / "last").words
    assert "n't" in words and "don't" not in words
    capsys.readouterr()
    assert ask("--checkpoint", out, "--json", "--text", "Don\u2019t!") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["words"], row["unknown_words"]) == (2, 0)


# ---------------------------------------------------------------- the parts


def test_clipping_sparse_gradients_equals_torchs_of_dense_ones():
    ids, gradient = torch.tensor([3, 1, 3]), torch.randn(3, 4)
    norms = {}
    for sparse in (False, True):
        embedding, other = nn.Embedding(5, 4, sparse=sparse), nn.Parameter(torch.ones(2))
        ((embedding(ids) * gradient).sum() + 3 * other.sum()).backward()
        parameters = [embedding.weight, other]
        if sparse:
            clip_gradients(parameters, 0.5)
        else:
            nn.utils.clip_grad_norm_(parameters, 0.5)
        norms[sparse] = [parameter.grad.to_dense() for parameter in parameters]
    for found, expected in zip(norms[True], norms[False], strict=True):
        torch.testing.assert_close(found, expected)
    assert math.hypot(*(g.norm() for g in norms[True])) == pytest.approx(0.5, rel=1e-4)
    clip_gradients([other], 100.0)  # shorter ones stay
    assert torch.equal(other.grad, norms[True][1])


def test_a_dropped_word_is_dropped_wherever_it_stands():
    embedding = WordDroppingEmbedding(1000, 3, 0.25)
    ids = torch.arange(1000).repeat(2, 1)
    x = embedding(ids)
    dropped = (x == 0).all(-1)
    assert torch.equal(dropped[0], dropped[1])
    assert 0.2 < dropped[0].float().mean() < 0.3
    torch.testing.assert_close(x[~dropped], embedding.eval()(ids)[~dropped] / 0.75)


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
    found, expected = _Forward(model, "cpu", True)(ids), model(ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-3)
    assert not torch.equal(found, expected)
    assert not torch.equal(found, found.bfloat16().float())


# ---------------------------------------------------------------- options and files


def test_files_give_options_and_flags_win(npz, tmp_path):
    toml, yaml = tmp_path / "run.toml", tmp_path / "run.yaml"
    toml.write_text(f'data = "{npz}"\nbatch-size = 7\nlearning_rate = 1e-2\nvariable_length = true\nautocast = false\n')
    yaml.write_text(
        f"data: {npz}\nbatch-size: 7\nlearning_rate: 1e-2\nvariable_length: true\nautocast: no\npatience:\n"
    )
    expected = {"data": str(npz), "batch_size": 7, "learning_rate": 0.01, "maxlen": None, "autocast": False}
    for file in (toml, yaml):
        given = train_command._given(["--config", str(file)])
        assert {key: value for key, value in given.items() if key != "config"} == expected
        given = train_command._given(["--config", str(file), "--maxlen", "5", "--autocast"])
        assert (given["maxlen"], given["autocast"], given["batch_size"]) == (5, True, 7)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.toml", "batchsize = 3", "unknown key 'batchsize'; did you mean batch_size?"),
        ("a.yaml", "resume: here", "unknown key 'resume'"),
        ("a.yaml", "batch_size: [1, 2]", "batch_size must be one word or number, got [1, 2]"),
        ("a.toml", "batch_size = 0", "a.toml: argument --batch-size: must be a whole number of at least 1, got '0'"),
        ("a.toml", "autocast = 1", "--autocast"),
        ("a.toml", "batch_size 0", "--config: "),
        ("a.yaml", "a: b: c", "--config: "),
        ("a.yaml", "- 1", "must hold keys and values"),
        ("a.ini", "", "must end in .toml, .yaml or .yml"),
    ],
)
def test_wrong_files_are_told_in_one_line(name, text, message, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert train("--config", tmp_path / name) == 2
    line = one_line(capsys)
    assert message in line
    assert name in line


@pytest.mark.parametrize(
    "options, message",
    [
        (["--config", "nowhere.toml"], "--config: there is no file nowhere.toml"),
        (["--epochs", "0"], "argument --epochs: must be a whole number of at least 1, got '0'"),
        (["--layer", "GRU"], "no layer 'GRU'"),
        (["--layer", "GalLSTM:2"], "must be a dropout probability in [0, 1], got '2'"),
        (["--layer", "RNNLayer:0.5", "--variable-length"], "--variable-length needs nn.LSTM, GalLSTM or SemeniutaLSTM"),
        (["--layer", "MyLSTM", "--num-layers", "2"], "--num-layers must be 1 for MyLSTM, got 2"),
        (["--layer", "nn.LSTM", "--mask-scope", "sample"], "--mask-scope sample needs GalLSTM or SemeniutaLSTM"),
        (["--word-dropout", "1"], "argument --word-dropout: must be a probability in [0, 1), got '1'"),
        (["--compile", "nonsense"], "argument --compile: must be one of"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
        (["--data", "nowhere.npz"], "data must be one of"),
        (["--reviews", "1000000"], "--reviews must be at most"),
        (["--validation", "48"], "--validation must be below 48, the reviews to train on, got 48"),
        (["--resume", "nowhere"], "no checkpoint at nowhere/last: no such folder"),
        (["--resume", "a", "--out", "b"], "argument --out: not allowed with argument --resume"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, message, command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = command[:-2] if "--resume" in options else command
    maxlen = command.index("--maxlen")
    command = command[:maxlen] + command[maxlen + 2 :] if "--variable-length" in options else command
    assert train(*command, *options) == 2
    assert message in one_line(capsys)


def test_only_the_first_process_complains(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert train("--epochs", "0") == 2
    assert train("--config", "nowhere") == 2
    assert capsys.readouterr() == ("", "")


def test_a_loss_that_is_no_number_ends_the_run(command, capsys, monkeypatch, out):
    monkeypatch.setattr(nn.BCELoss, "forward", lambda self, p, y: p.sum() * math.nan)
    assert train(*command) == 1
    assert "the training loss is nan in epoch 1" in one_line(capsys)
    assert not (out / "last").exists()


def test_a_missing_extra_is_told(command, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert train(*command, "--tensorboard") == 2
    assert "pip install rnndrop_cuda[tensorboard]" in one_line(capsys)


# ---------------------------------------------------------------- going on


def test_the_same_command_goes_on_and_another_is_refused(command, out, capsys):
    assert train(*command) == 0
    before = (out / "last" / FILE_NAME).read_bytes()
    assert train(*command) == 0
    assert (out / "last" / FILE_NAME).read_bytes() == before
    capsys.readouterr()
    assert train(*command, "--batch-size", "7") == 2
    assert "has a run of batch_size 16, not 7" in one_line(capsys)
    assert train("--resume", out, "--n-hidden", "5") == 2
    assert "its run has n_hidden 4, not 5" in one_line(capsys)
    assert train("--resume", out / "last") == 2
    assert "name the run's folder" in one_line(capsys)
    assert train(*command, "--batch-size", "7", "--fresh") == 0
    assert read(out / "last").settings.batch_size == 7
    assert (out.with_name("run.1") / "last" / FILE_NAME).read_bytes() == before


def test_other_reviews_are_refused(command, out, npz, capsys):
    assert train(*command) == 0
    capsys.readouterr()
    contents = npz.read_bytes()
    npz.with_name("imdb_word_index.json").write_text('{"good": 1}')
    assert train("--resume", out) == 2
    assert f"is no longer what the checkpoint in {out / 'last'} was trained on" in one_line(capsys)
    assert npz.read_bytes() == contents


def damaged_tensors(folder):
    file = next(folder.glob("tensors-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def cut_tensors(folder):
    file = next(folder.glob("tensors-*"))
    file.write_bytes(file.read_bytes()[:100])


def missing_words(folder):
    next(folder.glob("words-*")).unlink()


def damaged_json(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text()[:-20])


def other_format(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))


def wrong_setting(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text().replace('"n_hidden": 4', '"n_hidden": "4"'))


def other_size(folder):
    file = folder / FILE_NAME
    file.write_text(file.read_text().replace('"n_hidden": 4', '"n_hidden": 5'))


def no_checkpoint(folder):
    (folder / FILE_NAME).write_text("[]")


DAMAGES = {
    damaged_tensors: "is damaged: its sha256",
    cut_tensors: "is damaged: its sha256",
    missing_words: "is not whole",
    damaged_json: "is damaged",
    other_format: "is of format 2, this version reads 1",
    wrong_setting: "n_hidden must be",
    other_size: "do not fit its settings",
    no_checkpoint: "is no checkpoint of rnndrop train",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_in_one_line(damage, command, out, capsys):
    assert train(*command, "--epochs", "1") == 0
    damage(out / "last")
    capsys.readouterr()
    assert train("--resume", out) == 2
    assert DAMAGES[damage] in one_line(capsys)
    assert predict.main(["--checkpoint", str(out / "last"), "--text", "good"]) == 2
    assert DAMAGES[damage] in one_line(capsys)
    with pytest.raises(ValueError, match=DAMAGES[damage].partition(":")[0]):
        load_checkpoint(out / "last")


def ask(*arguments):
    try:
        return predict.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def test_the_commands_are_commands(capsys):
    for name in ("train", "predict"):
        with pytest.raises(SystemExit) as end:
            cli.main([name, "--help"])
        assert end.value.code == 0
        assert f"usage: rnndrop {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "epochs, message", [(0, "there is no checkpoint yet"), (1, "goes on from the last checkpoint")]
)
def test_ctrl_c_says_how_to_go_on(epochs, message, command, capsys, monkeypatch):
    feed = Trainer._fed

    def interrupted(self, *args):
        if self.progress.epochs == epochs:
            raise KeyboardInterrupt
        return feed(self, *args)

    monkeypatch.setattr(Trainer, "_fed", interrupted)
    assert train(*command) == 130
    assert message in capsys.readouterr().err.splitlines()[-1]
