"""`rnndrop train --pretrained`: a run that starts from a language model, what it leaves, and what is refused."""

import json
import shutil

import pytest
import torch
from checkpoints import cut_tensors
from command_line import one_line, status
from language_models import save_language_model
from train_runs import SMALL, train, without

import rnndrop_command as cli
from rnndrop_cuda.seminar.language_model.pretrained import load_pretrained
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, load_checkpoint, read
from rnndrop_cuda.seminar.training.run import LAST, Run


@pytest.fixture
def language_model(tmp_path):
    return save_language_model(tmp_path / "language-model")


@pytest.fixture
def command(npz, out, language_model):
    rest = ["--data", str(npz), *SMALL, "--epochs", "2", "--out", str(out), "--pretrained", str(language_model)]
    return without(without(rest, "--n-emb"), "--n-hidden")


def test_the_first_weights_are_the_language_models(command, out, language_model):
    """So small a step that none of them moves."""
    assert train(*command, "--learning-rate", "1e-30") == 0
    model, words, settings = load_checkpoint(out)
    found = load_pretrained(language_model)
    assert (settings.n_emb, settings.n_hidden, settings.num_layers, settings.contractions) == (6, 4, 1, "keep")
    for name, weight in model.rec_layer.named_parameters():
        torch.testing.assert_close(weight, found.lstm[name], rtol=0, atol=0)
    for word, row in zip(words[1:], model.word_embeddings.weight[1:], strict=True):
        theirs = found.words.index(word) if word in found.words else found.words.index("<unknown>")
        torch.testing.assert_close(row, found.embedding[theirs], rtol=0, atol=0)
    assert not model.word_embeddings.weight[0].any()


def test_the_padding_stays_zero_and_the_rest_is_trained(command, out, language_model):
    assert train(*command) == 0
    model, _, _ = load_checkpoint(out / "last")
    found = load_pretrained(language_model)
    assert not model.word_embeddings.weight[0].any()
    assert not torch.equal(model.word_embeddings.weight[4:10], found.embedding[4:10])
    assert not torch.equal(model.rec_layer.weight_hh_l0, found.lstm["weight_hh_l0"])


@pytest.mark.parametrize(
    "options",
    [
        ["--pooling", "concat"],
        ["--gradual-unfreezing", "--pooling", "concat", "--variable-length"],
        ["--gradual-unfreezing", "--layer", "nn.LSTM", "--checkpoint-every", "2"],
        ["--gradual-unfreezing", "--autocast", "--clip", "0.1", "--embedding-dropout", "0.5"],
        ["--gradual-unfreezing", "--optimizer", "Adam", "--layer-decay", "0.4", "--loss-reduction", "mean"],
    ],
)
def test_a_run_is_resumed_to_the_same_bits_without_the_language_model(options, command, out, tmp_path, language_model):
    command = without(command, "--maxlen") if "--variable-length" in options else command
    assert train(*command, *options, "--epochs", "4") == 0
    halves = tmp_path / "halves"
    assert train(*command, *options, "--epochs", "1", "--out", halves) == 0
    known = read(halves / "last").pretrained
    shutil.rmtree(language_model)
    assert train("--resume", halves, "--epochs", "4") == 0
    whole, resumed = read(out / "last"), read(halves / "last")
    assert whole.tensors.keys() == resumed.tensors.keys()
    assert all(torch.equal(tensor, resumed.tensors[name]) for name, tensor in whole.tensors.items())
    assert resumed.pretrained == known


@pytest.mark.parametrize("optimizer", ["RMSprop", "Adam"])
@pytest.mark.parametrize("saved", [1, 2, 3, 5])
def test_a_cycle_of_the_learning_rate_goes_on_where_it_was(optimizer, saved, command, out, tmp_path, monkeypatch):
    """Interrupted once so many checkpoints are written, two an epoch."""
    options = ["--optimizer", optimizer, "--one-cycle", "--layer-decay", "0.5", "--gradual-unfreezing"]
    rest = [*options, "--embedding-dropout", "0.3", "--embedding-dropout-scope", "element", "--checkpoint-every", "2"]
    assert train(*command, *rest, "--epochs", "3") == 0
    cut_short = tmp_path / "cut-short"
    saves = []
    with monkeypatch.context() as patch:
        real = Run._save

        def save(run, name, carried=None):
            real(run, name, carried)
            saves.append(name)
            if saves.count(LAST) == saved:
                raise KeyboardInterrupt

        patch.setattr(Run, "_save", save)
        assert train(*command, *rest, "--epochs", "3", "--out", cut_short) == 130
    assert train("--resume", cut_short) == 0
    whole, resumed = read(out / "last").tensors, read(cut_short / "last").tensors
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_cycle_of_the_learning_rate_is_not_made_longer(command, out, capsys):
    assert train(*command, "--one-cycle") == 0
    before = read(out / "last").tensors
    capsys.readouterr()
    assert train("--resume", out, "--epochs", "3") == 2
    assert "--epochs: expected 2 as before, over which --one-cycle plans the learning rate, got 3" in one_line(capsys)
    assert all(torch.equal(tensor, before[name]) for name, tensor in read(out / "last").tensors.items())


def test_unfreezing_is_gradual(command, out, tmp_path):
    before = None
    moved = []
    for epochs in ("1", "2", "3"):
        assert train(*command, "--gradual-unfreezing", "--epochs", epochs) == 0
        now = load_checkpoint(out / "last")[0].state_dict()
        before = before or load_first(command, tmp_path)
        moved.append({name for name, weight in now.items() if not torch.equal(weight, before[name])})
        before = now
    output = {"output.weight", "output.bias"}
    lstm = {name for name in now if name.startswith("rec_layer.")}
    assert moved == [output, output | lstm, output | lstm | {"word_embeddings.weight"}]


def test_the_embedding_may_stay_the_language_models(command, out, language_model):
    assert train(*command, "--gradual-unfreezing", "--freeze-vectors", "--epochs", "4") == 0
    model, _, _ = load_checkpoint(out / "last")
    found = load_pretrained(language_model)
    assert torch.equal(model.word_embeddings.weight[4:17], found.embedding[4:17])
    assert not torch.equal(model.rec_layer.weight_hh_l0, found.lstm["weight_hh_l0"])


def load_first(command, tmp_path):
    """The weights that a run of the command begins with."""
    assert train(*command, "--learning-rate", "1e-30", "--epochs", "1", "--out", tmp_path / "first") == 0
    return load_checkpoint(tmp_path / "first")[0].state_dict()


def test_what_it_started_from_is_written_down(command, out, language_model):
    assert train(*command) == 0
    known = json.loads((out / "history.json").read_text())["facts"]["pretrained"]
    assert known["folder"] == str(language_model)
    assert (known["words found"], known["words not found"]) == (13, 3)
    assert read(out / "best").pretrained == read(out / "last").pretrained == known
    assert train("--resume", out, "--epochs", "3") == 0
    assert json.loads((out / "history.json").read_text())["facts"]["pretrained"] == known


def test_texts_are_read_and_pictures_drawn_with_its_checkpoints(npz, command, out, tmp_path, capsys):
    words = {f"word{rank}": rank for rank in range(1, 30)}
    npz.with_name("imdb_word_index.json").write_text(json.dumps(words))
    of_words = save_language_model(tmp_path / "of-words", list(words))
    command = [*without(command, "--pretrained"), "--pretrained", str(of_words), "--pooling", "concat"]
    assert train(*command) == 0
    capsys.readouterr()
    assert status(cli.main, "predict", "--checkpoint", out, "--json", "--text", "word3 word4") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert 0 < row["probability"] < 1 and row["std"] > 0
    pictures = tmp_path / "pictures"
    assert status(cli.main, "visualize", "--checkpoint", out, "--text", "word3 word4", "--out", pictures) == 0
    assert (pictures / "review.png").read_bytes().startswith(b"\x89PNG")


def of_a_classifier(folder, npz, out):
    shutil.rmtree(folder)
    assert train("--data", npz, *SMALL, "--epochs", "1", "--out", folder) == 0


SPOILED = {
    lambda folder, npz, out: shutil.rmtree(folder): "there is no such folder",
    lambda folder, npz, out: (folder / FILE_NAME).unlink(): "no checkpoint.json in it",
    of_a_classifier: "is a checkpoint of rnndrop train, not of rnndrop language-model",
    lambda folder, npz, out: cut_tensors(folder): "is damaged: its sha256",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=["no folder", "empty", "a classifier", "damaged"])
def test_what_is_no_language_model_is_told_in_one_line(spoil, command, out, npz, language_model, capsys):
    spoil(language_model, npz, out)
    capsys.readouterr()
    assert train(*command) == 2
    assert SPOILED[spoil] in one_line(capsys)
    assert not (out / "last").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--n-emb", "5"], "--n-emb: expected the language model's 6, got 5"),
        (["--n-hidden", "7"], "--n-hidden: expected the language model's 4, got 7"),
        (["--num-layers", "2"], "--num-layers: expected the language model's 1, got 2"),
        (["--vectors", "vectors.txt"], "--pretrained: expected no vectors beside a language model, got vectors.txt"),
        (["--contractions", "split"], "--contractions: expected keep for"),
    ],
)
def test_options_that_do_not_fit_it_are_told_in_one_line(options, message, command, out, capsys):
    assert train(*command, *options) == 2
    assert message in one_line(capsys)
    assert not (out / "last").exists()


def test_a_language_model_of_characters_or_of_other_words_is_refused(command, out, tmp_path, capsys):
    command = without(command, "--pretrained")
    characters = save_language_model(tmp_path / "characters", level="character")
    assert train(*command, "--pretrained", characters) == 2
    assert "--pretrained: expected a language model of words, got one of characters" in one_line(capsys)
    others = save_language_model(tmp_path / "others", ["a", "b"])
    assert train(*command, "--pretrained", others) == 2
    assert "--pretrained: expected a language model of some of the 20 words, got one of none" in one_line(capsys)


def test_there_must_be_something_to_unfreeze(npz, capsys, command):
    assert train(*without(command, "--pretrained"), "--gradual-unfreezing") == 2
    assert "--gradual-unfreezing: expected a pretrained language model to unfreeze, got none" in one_line(capsys)
