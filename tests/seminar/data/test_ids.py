"""Ids as Keras makes them."""

import numpy as np
import pytest

from rnndrop_cuda.seminar.data.reviews import load_matrix_imdb


def keras_ids(train, test, num_words, skip_top, maxlen, seed, start_char, oov_char, index_from):
    """What the seminar's loader computes, written as it says it, one review at a time."""
    rng = np.random.RandomState(seed)
    parts = []
    for reviews in (train, test):
        order = np.arange(len(reviews))
        rng.shuffle(order)
        rows = []
        for i in order:
            ids = ([] if start_char is None else [start_char]) + [rank + index_from for rank in reviews[i]]
            top = max(ids, default=0) + 1 if num_words is None else num_words
            if oov_char is None:
                ids = [w for w in ids if skip_top <= w < top]
            else:
                ids = [w if skip_top <= w < top else oov_char for w in ids]
            rows.append(ids if maxlen is None else ids[:maxlen])
        length = max(map(len, rows)) if maxlen is None else maxlen
        parts.append((np.array([[0] * (length - len(row)) + row for row in rows]), order % 2))
    return parts


KERAS_DEFAULTS = {
    "num_words": None,
    "skip_top": 0,
    "maxlen": None,
    "seed": 113,
    "start_char": 1,
    "oov_char": 2,
    "index_from": 3,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_words": 20, "maxlen": 5},
        {"num_words": 20, "maxlen": 50, "seed": 7},
        {"num_words": 20, "skip_top": 8, "maxlen": 5},
        {"num_words": 20, "skip_top": 8, "maxlen": 5, "oov_char": None},
        {"start_char": None, "index_from": 0, "maxlen": 4},
    ],
    ids=str,
)
def test_matrix_is_the_seminars(npz, ranks, options):
    state = np.random.get_state()[1].tolist()
    loaded = load_matrix_imdb(str(npz), **options, sha256=None)
    assert np.random.get_state()[1].tolist() == state, "numpy's global generator is not touched"
    for (X, y), (expected_X, expected_y) in zip(
        loaded, keras_ids(*ranks, **{**KERAS_DEFAULTS, **options}), strict=True
    ):
        assert X.dtype == y.dtype == np.int64
        np.testing.assert_array_equal(X, expected_X)
        np.testing.assert_array_equal(y, expected_y)


def test_an_empty_review_is_a_row_like_any_other(npz):
    (X_train, _), _ = load_matrix_imdb(str(npz), maxlen=4, sha256=None)
    assert len(X_train) == 48
    assert [0, 0, 0, 1] in X_train.tolist()
