"""Ragged reviews: cropped as the matrix is, and not padded."""

import numpy as np
from ragged_rows import SENTENCES

from rnndrop_cuda.seminar.data.reviews import load_reviews


def lengths_of(rows):
    return [len(row) for row in rows]


def test_ragged_reviews_are_the_matrix_without_its_padding(sentences):
    matrix = load_reviews(SENTENCES, maxlen=12)
    cropped = load_reviews(SENTENCES, maxlen=12, ragged=True)
    assert matrix.words == cropped.words == sentences.words
    whole_of = {"X_train": sentences.X_train, "X_test": sentences.X_test}
    for part, whole in whole_of.items():
        assert isinstance(whole, list)
        assert {len(row) > 12 for row in whole} == {True, False}, "some are cropped and some are not"
        for row, short, padded in zip(whole, getattr(cropped, part), getattr(matrix, part), strict=True):
            assert row.dtype == np.int64
            assert row[0] == 1
            np.testing.assert_array_equal(short, row[:12])
            np.testing.assert_array_equal(padded, [0] * (12 - len(short)) + short.tolist())
    np.testing.assert_array_equal(sentences.y_train, matrix.y_train)
    np.testing.assert_array_equal(sentences.y_test, matrix.y_test)


def test_ragged_reviews_of_an_npz(npz):
    matrix = load_reviews(str(npz), 20, 8, sha256=None)
    cropped = load_reviews(str(npz), 20, 8, sha256=None, ragged=True)
    whole = load_reviews(str(npz), 20, None, sha256=None)
    assert max(lengths_of(whole.X_train)) > 8
    assert min(lengths_of(whole.X_train)) == 1, "the empty review is its start alone"
    for row, short, padded in zip(whole.X_train, cropped.X_train, matrix.X_train, strict=True):
        np.testing.assert_array_equal(short, row[:8])
        np.testing.assert_array_equal(padded, [0] * (8 - len(short)) + short.tolist())
