"""`rnndrop visualize`: what it writes, and wrong input."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import status
from one_review import MAXLEN, READ, TEXT, VOCABULARY, page_data, save, with_words

import rnndrop_command as cli
from rnndrop_cuda.seminar import load_reviews
from rnndrop_cuda.seminar.analysis.trace import QUANTITIES, read, trace
from rnndrop_cuda.seminar.commands import visualize
from rnndrop_cuda.seminar.data import WORD_INDEX, csv_reviews, held_out_texts
from rnndrop_cuda.seminar.training import checkpoint


@pytest.fixture
def data(npz: Path) -> Path:
    """The npz of tests, with words for its ranks."""
    return with_words(npz)


@pytest.fixture
def folder(data: Path, tmp_path: Path) -> Path:
    return save(data, tmp_path / "checkpoint")


def test_the_whole_command(folder, tmp_path, capsys):
    """In a process of its own."""
    command = [sys.executable, "-m", "rnndrop_cuda", "visualize", "--checkpoint", folder, "--out", tmp_path / "a" / "b"]
    run = subprocess.run([*command, "--text", TEXT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert re.match(r"(posi|nega)tive, P\(positive\) = 0\.\d+; with dropout 0\.\d+ ± 0\.\d+\nwritten: ", run.stdout)
    out = tmp_path / "a" / "b"
    assert {path.name for path in out.iterdir()} == {"review.html", "review.png"}
    assert (out / "review.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "review.html").read_text()
    assert page.count("&lt;script&gt;") == 1 and page.count("&lt;<span") == 1
    assert "<script>alert" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "loads nothing"
    model, _, settings = checkpoint.load_checkpoint(folder)
    traced = trace(model, read(TEXT, VOCABULARY, MAXLEN).ids, settings.maxlen)
    found = page_data(out)
    assert found["words"] == READ
    np.testing.assert_allclose(found["probabilities"], traced.probabilities, atol=6e-5)
    np.testing.assert_allclose(found["band"]["sd"], traced.band.sd, atol=6e-5)
    assert found["states"].keys() == set(QUANTITIES)
    for name, state in found["states"].items():
        np.testing.assert_allclose(state, traced.states[name], atol=6e-4)


@pytest.mark.parametrize(("times", "wide"), [(1, 880), (5, 1815), (20, 1980)])
def test_a_long_review_has_a_png_that_fits_a_screen(times: int, wide: int, data: Path, tmp_path: Path) -> None:
    folder = save(data, tmp_path / "checkpoint", maxlen=None)
    assert (
        visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), "--text", "good film " * 5 * times]) == 0
    )
    width, height = struct.unpack(">II", (tmp_path / "review.png").read_bytes()[16:24])
    assert (width, height) == (wide, 935)


def test_a_review_of_the_test_part(folder, data, tmp_path):
    reviews = load_reviews(str(data), 20, MAXLEN, sha256=None)
    n = int((reviews.X_test > 3).sum(1).argmax())
    assert visualize.main(["--checkpoint", str(folder), "--review", str(n), "--out", str(tmp_path)]) == 0
    assert page_data(tmp_path)["words"] == reviews.words_of(i for i in reviews.X_test[n] if i != 1)
    label = "positive" if reviews.y_test[n] else "negative"
    assert f"It is labelled {label}." in (tmp_path / "review.html").read_text()


def test_a_review_that_has_a_text_is_shown_as_it_was_written(tmp_path, monkeypatch):
    """And the file of the reviews is read once."""
    folder = save(Path("rotten-tomatoes"), tmp_path / "checkpoint")
    readings, read_csv = [], csv_reviews._read_csv
    monkeypatch.setattr(csv_reviews, "_read_csv", lambda source: readings.append(source) or read_csv(source))
    assert visualize.main(["--checkpoint", str(folder), "--review", "3", "--out", str(tmp_path)]) == 0
    assert readings == ["rotten_tomatoes"]
    text = held_out_texts("rotten-tomatoes")[3]
    assert "plotting , wooden" in text
    assert page_data(tmp_path)["words"] == text.replace(",", "").split()[: MAXLEN - 1]
    assert "plotting</span> , <span" in (tmp_path / "review.html").read_text()


def test_a_model_without_dropout_or_padding(data, tmp_path, capsys):
    folder = save(data, tmp_path / "checkpoint", "nn.LSTM", maxlen=None)
    argv = ["--checkpoint", str(folder), "--out", str(tmp_path), "--text", TEXT * 40, "--top-reviews", "0"]
    assert visualize.main(argv) == 0
    assert "no dropout inside, hence no band" in capsys.readouterr().out
    found = page_data(tmp_path)
    assert len(found["words"]) == 40 * (len(READ) + 8)
    assert found["band"] is None and found["top"] is None
    assert "no dropout inside its recurrence" in (tmp_path / "review.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", ""], "--text: expected at least one word, got none"),
        (["--text", " <>!? \n"], "--text: expected at least one word, got none"),
        (["--text", "Zyzzyva qwerty"], "--text: expected a word that the model knows, got none in the 2"),
        (["--text", "film \udcff"], "--text: expected UTF-8: 'utf-8' codec can't encode"),
        (["--review", "32"], "--review: expected a number from 0 to 31 for "),
        (["--review", "-1"], "--review: expected a whole number of at least 0, got '-1'"),
        (["--review", "1", "--text", "film"], "--text: not allowed with argument --review"),
        (["--samples", "0"], "--samples: expected a whole number of at least 1, got '0'"),
        (["--checkpoint", "absent"], "no checkpoint at absent: there is no such folder; `rnndrop train` makes one"),
        (["--text", "film " * 3001], "--text: "),
    ],
)
def test_wrong_input_is_one_line(folder, tmp_path, capsys, options, message):
    if len(options[-1]) > 3001:
        folder = save(tmp_path / "reviews.npz", tmp_path / "ragged", maxlen=None)
        message = "expected at most 3000 words that the model reads, got 3001"
    assert status(visualize.main, "--checkpoint", folder, "--out", tmp_path / "out", *options) == 2
    captured = capsys.readouterr()
    *usage, last = captured.err.splitlines()
    assert not usage or usage[0].startswith("usage:")
    assert last.startswith("rnndrop visualize: ") and message in last
    assert not (tmp_path / "out" / "review.html").exists()


def test_a_review_without_a_word_is_one_line(folder, data, tmp_path, capsys):
    reviews = load_reviews(str(data), 20, MAXLEN, sha256=None)
    (n,) = np.flatnonzero((reviews.X_test > 1).sum(1) == 0)
    assert visualize.main(["--checkpoint", str(folder), "--review", str(n), "--out", str(tmp_path)]) == 2
    line = f"rnndrop visualize: review {n} of {data}: row: expected at least one word, got none\n"
    assert capsys.readouterr().err == line


def test_other_data_than_the_models_is_one_line(folder, data, tmp_path, capsys):
    data.with_name(WORD_INDEX).unlink()
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), "--text", "a film"]) == 2
    assert "is no longer what" in capsys.readouterr().err
    data.unlink()
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), "--text", "a film"]) == 2
    assert "path of an npz file" in capsys.readouterr().err
    options = ["--text", "a film", "--top-reviews", "0"]
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), *options]) == 0, "the text is enough"


def test_a_damaged_checkpoint_and_a_folder_in_the_way_are_one_line(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    argv = ["--checkpoint", str(folder), "--text", "a film"]
    assert visualize.main([*argv, "--out", str(tmp_path / "file")]) == 2
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert visualize.main([*argv, "--out", str(tmp_path)]) == 2
    in_the_way, damaged = capsys.readouterr().err.splitlines()
    assert "--out: expected a folder that can be written" in in_the_way
    assert "is damaged" in damaged


def test_the_missing_extra_is_one_line(monkeypatch, capsys):
    for name in ("commands.visualize", "reports.picture"):
        monkeypatch.delitem(sys.modules, f"rnndrop_cuda.seminar.{name}")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert cli.main(["visualize"]) == 2
    assert capsys.readouterr().err == "rnndrop visualize: jinja2 is missing: from the checkout, pip install '.[demo]'\n"
