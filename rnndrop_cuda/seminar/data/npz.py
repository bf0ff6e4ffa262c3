"""Keras' imdb.npz and files of its structure: word ranks and labels, read without ever executing a pickle.

The object arrays inside an npz are pickled. They are read by an unpickler that can build nothing but lists of ints.
"""

from __future__ import annotations

import json
import pickle
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from rnndrop_cuda.seminar.data.text import check_utf8

IMDB = "imdb.npz"
IMDB_SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
WORD_INDEX = "imdb_word_index.json"
WORD_INDEX_MD5 = "bfafd718b763782e994055a2d397834f"

# A header or a pickle that is not what it claims to be; one of 2^60 elements, and one of brackets in brackets, too; a
# member that is encrypted or packed in another way.
UNREADABLE = (
    pickle.UnpicklingError, ValueError, TypeError, AttributeError, IndexError, MemoryError, OverflowError,
    RecursionError, SyntaxError, NotImplementedError, RuntimeError, tokenize.TokenError,
)  # fmt: skip

KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> dict[str, Any]:
    """x_train, x_test: lists of lists of ranks; y_train, y_test: arrays of 0 and 1. ValueError where they are not."""
    try:
        with zipfile.ZipFile(path) as npz:
            arrays = {key: _read_npy(npz, key) for key in KEYS}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or not an npz file ({error}); fetch it again") from error
    except KeyError as error:
        raise ValueError(f"{path}: expected the arrays {', '.join(KEYS)}: {error.args[0]}") from error
    except UNREADABLE as error:
        raise ValueError(f"refused to read {path}: {' '.join(str(error).split()) or type(error).__name__}") from error
    for part in ("train", "test"):
        reviews, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if not isinstance(reviews, list):
            raise ValueError(f"{path}: expected x_{part} to be an object array of lists of ints, got {reviews.dtype}")
        if np.shape(labels) != (len(reviews),) or labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
            raise ValueError(
                f"{path}: expected 0 or 1 in y_{part} for each of {len(reviews)} reviews, got other labels"
            )
    return arrays


def read_word_index(path: Path) -> dict[str, int]:
    """The rank of each word. ValueError where the file holds anything else."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    if not isinstance(index, dict) or not all(type(rank) is int and rank > 0 for rank in index.values()):
        raise ValueError(f"{path}: expected an object that maps words to ranks of at least 1, got something else")
    check_utf8(index, str(path))
    return index


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
