"""`rnndrop predict`: answers, texts and where they come from, and wrong input."""

import contextlib
import io
import json

import pytest
import torch
from checkpoints import save_checkpoint
from command_line import one_line, status
from one_review import with_words

from rnndrop_cuda import mc_predict
from rnndrop_cuda.seminar.commands import predict
from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint

WORDS = ["good", "bad", "film", "<b>", "ein", "über"]


@pytest.fixture
def data(npz):
    return with_words(npz, WORDS)


@pytest.fixture
def trained(data, tmp_path):
    return save_checkpoint(tmp_path / "run", data, maxlen=8)


def ask(*arguments):
    return status(predict.main, *arguments)


def test_predictions_are_those_of_the_model_on_the_ids_of_training(trained, tmp_path, capsys):
    texts = ["Good, GOOD film!", "bad xyzzy", "film " * 20, "über ein film"]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(["", *texts, "  "]))
    assert ask("--checkpoint", trained, "--file", file, "--json", "--samples", "20", "--seed", "3") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["text"] for row in rows] == [text.strip() for text in texts]
    assert [(row["words"], row["unknown_words"]) for row in rows] == [(3, 0), (2, 1), (7, 0), (3, 0)]

    model, _, _ = load_checkpoint(trained)
    ids = [[0, 0, 0, 0, 1, 4, 4, 6], [0, 0, 0, 0, 0, 1, 5, 2], [1] + [6] * 7, [0, 0, 0, 0, 1, 9, 8, 6]]
    order = [1, 0, 3, 2]  # by length
    x = torch.tensor([ids[k] for k in order]).T
    expected = mc_predict(model, x, 20, torch.Generator().manual_seed(3))
    for place, k in enumerate(order):
        assert rows[k]["probability"] == pytest.approx(expected.mean[place, 0].item(), rel=1e-6)
        assert rows[k]["std"] == pytest.approx(expected.std[place, 0].item(), rel=1e-5)
        assert rows[k]["entropy"] == pytest.approx(expected.predictive_entropy[place].item(), rel=1e-6)
        assert rows[k]["mutual_information"] == pytest.approx(expected.mutual_information[place].item(), abs=1e-7)
        assert rows[k]["label"] == ("positive" if rows[k]["probability"] > 0.5 else "negative")


def test_a_line_break_of_html_is_no_word(trained, capsys):
    assert ask("--checkpoint", trained, "--text", "good<br /><br />film", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["words"] == 2
    assert ask("--checkpoint", trained, "--text", "<br />") == 2
    assert "expected at least one word" in capsys.readouterr().err


def test_texts_of_standard_input_and_lines_to_read(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("good film\nxyzzy plugh\n\nbad\n"))
    assert ask("--checkpoint", trained) == 0
    said = capsys.readouterr()
    good, unknown, bad = said.out.splitlines()
    assert "±" in good and good.endswith("nats: good film")
    assert unknown == "no answer: xyzzy plugh"
    assert bad.endswith(": bad")
    assert said.err == "rnndrop predict: the model knows none of the words that it reads in 'xyzzy plugh'\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_is_whole_in_any_encoding(encoding, trained, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    assert ask("--checkpoint", trained, "--text", "über 😀", "--json") == 0
    out.flush()
    assert json.loads(out.buffer.getvalue())[0]["text"] == "über 😀"


def test_json_goes_into_a_string(trained):
    """Which has no encoding."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert ask("--checkpoint", trained, "--text", "über 😀", "--json") == 0
    assert json.loads(out.getvalue())[0]["text"] == "über 😀"


@pytest.mark.parametrize("maxlen", [None, 8])
@pytest.mark.parametrize("layer", ["nn.LSTM", "GalLSTM:0.5"])
def test_a_text_has_the_same_answer_beside_longer_ones(maxlen, layer, data, tmp_path, capsys):
    """Padding does not count; without dropout inside there is no deviation."""
    out = save_checkpoint(tmp_path / "run", data, layer, maxlen=maxlen)
    answers = []
    for texts in (["good"], ["good", "bad film " * 10]):
        file = tmp_path / "texts.txt"
        file.write_text("\n".join(texts))
        assert ask("--checkpoint", out, "--file", file, "--json") == 0
        said = capsys.readouterr()
        answers.append(json.loads(said.out)[0])
        assert (
            (answers[-1]["std"] is None)
            == ("no dropout inside its recurrence: one pass" in said.err)
            == (layer == "nn.LSTM")
        )
    assert answers[0]["probability"] == pytest.approx(answers[1]["probability"], rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--text", ""], "--text: expected at least one word, got none"),
        (["--text", " ?! \n"], "--text: expected at least one word, got none"),
        (["--text", "xyzzy plugh"], "the model knows none of the words that it reads in 'xyzzy plugh'"),
        (["--file", "nowhere.txt"], "--file: cannot read nowhere.txt: No such file or directory"),
        (["--file", "."], "--file: cannot read .: Is a directory"),
        (["--file", "binary"], "--file: expected UTF-8, got invalid start byte at byte 0 of binary"),
        (["--file", "empty"], "--file: expected at least one word, got none in empty"),
        (["--text", "good", "--device", "cuda:99"], "--device cuda:99 cannot be used"),
    ],
)
def test_wrong_texts_are_told_in_one_line(options, message, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("\n\n")
    assert ask("--checkpoint", trained, *options) == 2
    assert message in one_line(capsys)


def test_wrong_checkpoints_are_told_in_one_line(npz, tmp_path, capsys):
    assert ask("--checkpoint", tmp_path / "nowhere", "--text", "good") == 2
    assert f"no checkpoint at {tmp_path / 'nowhere'}: there is no such folder" in one_line(capsys)
    assert ask("--checkpoint", tmp_path, "--text", "good") == 2
    assert "no checkpoint.json in it, nor in best/ or last/" in one_line(capsys)
    out = save_checkpoint(tmp_path / "run", npz)
    assert ask("--checkpoint", out, "--text", "good") == 2
    assert "--checkpoint: expected a vocabulary of words, got one of ranks" in one_line(capsys)
