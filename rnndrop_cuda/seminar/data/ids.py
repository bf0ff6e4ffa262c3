"""From the ranks of words to rows of ids, and from rows to a matrix, as Keras makes them.

Ids: 0 padding, 1 start, 2 out of vocabulary, else frequency rank (from 1) + 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rnndrop_cuda.seminar.data.text import START, UNKNOWN

IntArray = NDArray[np.int64]
Rows = IntArray | list[IntArray]
"""The ids of N reviews: a matrix [N, length], or as many arrays of lengths of their own."""


@dataclass(frozen=True)
class Encoding:
    """How the ranks of a review become its ids; see load_matrix_imdb, whose arguments these are."""

    num_words: int | None = None
    skip_top: int = 0
    maxlen: int | None = None
    start_char: int | None = START
    oov_char: int | None = UNKNOWN
    index_from: int = 3

    def rows(self, reviews: Sequence[Sequence[int]]) -> list[IntArray]:
        """The ids of each review, cropped on the right but not padded."""
        return [np.array(self._ids(ranks), dtype=np.int64) for ranks in reviews]

    def _ids(self, ranks: Sequence[int]) -> list[int]:
        # Ids are only dropped when oov_char is None; otherwise what is cropped anyway need not be encoded.
        read = ranks if self.oov_char is None or self.maxlen is None else ranks[: self.maxlen]
        start = [] if self.start_char is None else [self.start_char]
        ids = start + [rank + self.index_from for rank in read]
        top = float("inf") if self.num_words is None else self.num_words
        if self.oov_char is None:
            return [i for i in ids if self.skip_top <= i < top][: self.maxlen]
        return [i if self.skip_top <= i < top else self.oov_char for i in ids][: self.maxlen]


def padded(rows: list[IntArray], length: int | None) -> IntArray:
    """[N, length], padded on the left; None: as long as the longest row."""
    if length is None:
        length = max(map(len, rows), default=0)
    X = np.zeros((len(rows), length), dtype=np.int64)
    for row_of_X, row in zip(X, rows, strict=True):
        row_of_X[length - len(row) :] = row
    return X


def check_sizes(num_words: int | None, maxlen: int | None) -> None:
    """Raises ValueError where there can be no such vocabulary or no such matrix."""
    if num_words is not None and num_words < 4:
        raise ValueError(f"num_words: expected at least 4, the special words, or None, got {num_words}")
    if maxlen is not None and maxlen < 1:
        raise ValueError(f"maxlen: expected at least 1 or None, got {maxlen}")
