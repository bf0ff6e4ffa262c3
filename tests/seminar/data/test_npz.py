"""Keras' npz and files like it: pickles are read but never executed, and anything else is refused."""

import io
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from object_arrays import object_array

from rnndrop_cuda.seminar.data.npz import read_word_index
from rnndrop_cuda.seminar.data.reviews import load_matrix_imdb


def write_npz(path: Path, **arrays: object) -> Path:
    """An npz whose object arrays are whatever pickle is given as bytes."""
    with zipfile.ZipFile(path, "w") as file:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            if isinstance(array, tuple):
                length, pickled = array
                header = {"descr": "|O", "fortran_order": False, "shape": (length,)}
                np.lib.format.write_array_header_1_0(buffer, header)
                buffer.write(pickled)
            else:
                np.lib.format.write_array(buffer, array)
            file.writestr(f"{key}.npy", buffer.getvalue())
    return path


def one_review_npz(path: Path, pickled: bytes, length: int = 1) -> Path:
    labels, good = np.zeros(1, dtype=np.int64), (1, pickle.dumps(object_array([[5]])))
    return write_npz(path, x_train=(length, pickled), y_train=labels, x_test=good, y_test=labels)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    pickled = pickle.dumps(object_array([[3, 70000, 2]]), protocol)
    path = one_review_npz(tmp_path / "a.npz", pickled)
    (X_train, _), _ = load_matrix_imdb(str(path), sha256=None)
    assert X_train.tolist() == [[1, 6, 70003, 5]]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_pickles_of_numpy_1_and_2_are_read(tmp_path, module):
    pickled = pickle.dumps(object_array([[3]]), 2).replace(b"numpy._core.multiarray", module.encode())
    assert module.encode() in pickled
    (X_train, _), _ = load_matrix_imdb(str(one_review_npz(tmp_path / "a.npz", pickled)), sha256=None)
    assert X_train.tolist() == [[1, 6]]


class Touch:
    """Unpickled the ordinary way this makes a file: what a malicious pickle would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return subprocess.check_call, (["touch", str(self.path)],)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: object_array([[1, bad]])], ids=["bare", "in a list"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, protocol, wrap):
    proof = tmp_path / "executed"
    pickled = pickle.dumps(wrap(Touch(proof)), protocol)
    pickle.loads(pickled)
    assert proof.exists(), "the pickle is malicious"
    proof.unlink()
    path = one_review_npz(tmp_path / "bad.npz", pickled)
    with pytest.raises(ValueError, match=r"bad\.npz.*check_call, only lists of ints"):
        load_matrix_imdb(str(path), sha256=None)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("pickled", "length", "message"),
    [
        (pickle.dumps(object_array([["word"]])), 1, "lists of ints only"),
        (pickle.dumps(object_array([[True]])), 1, "lists of ints only"),
        (pickle.dumps(object_array([[[1]]])), 1, "lists of ints only"),
        (pickle.dumps(object_array([{1: 2}])), 1, "lists of ints only"),
        (pickle.dumps(object_array([[-1]])), 1, "ranks in"),
        (pickle.dumps(object_array([[2**40]])), 1, "ranks in"),
        (pickle.dumps(object_array([[5]])), 2, "one-dimensional"),
        (pickle.dumps([[5]]), 1, "one-dimensional"),
        (pickle.dumps(np.dtype), 1, "one-dimensional"),
        (pickle.dumps(object_array([[5]]))[:-8], 1, "damaged|truncated"),
        (b"cnumpy\nndarray\n(I1\ntb.", 1, "refused"),
        (b"no pickle", 1, "refused"),
    ],
)
def test_other_content_is_refused(tmp_path, pickled, length, message):
    path = one_review_npz(tmp_path / "other.npz", pickled, length)
    with pytest.raises(ValueError, match=f"other.npz.*({message})|({message}).*other.npz"):
        load_matrix_imdb(str(path), sha256=None)


def header(text: str) -> bytes:
    """A file of version 2 whose header is this text."""
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text.encode("latin-1")


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1152921504606846976,), }\n",
        "{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 3000 + ")" * 3000 + ", }\n",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1,\n",
    ],
    ids=["2^60 labels", "deep", "cut off"],
)
def test_a_header_that_cannot_be_is_refused_in_one_line(tmp_path, text):
    path = one_review_npz(tmp_path / "a.npz", pickle.dumps(object_array([[5]])))
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**parts, "y_train.npy": header(text)}.items():
            file.writestr(name, data)
    with pytest.raises(ValueError, match="^refused to read ") as refused:
        load_matrix_imdb(str(path), sha256=None)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "labels", [np.zeros(2), np.array([2]), np.array(["0"]), np.zeros((1, 1)), np.zeros(1, dtype=[("a", "i4")])]
)
def test_wrong_labels_are_refused(tmp_path, labels):
    reviews = (1, pickle.dumps(object_array([[5]])))
    path = write_npz(tmp_path / "a.npz", x_train=reviews, y_train=labels, x_test=reviews, y_test=np.zeros(1))
    with pytest.raises(ValueError, match=r"a.npz: expected 0 or 1 in y_train for each of 1 reviews"):
        load_matrix_imdb(str(path), sha256=None)


def test_a_missing_array_is_named(tmp_path):
    path = write_npz(tmp_path / "a.npz", x_train=np.zeros(1))
    with pytest.raises(ValueError, match=r"expected the arrays x_train, y_train, x_test, y_test.*y_train\.npy"):
        load_matrix_imdb(str(path), sha256=None)


def test_reviews_that_are_no_lists_are_refused(tmp_path):
    numbers = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.zeros(1))
    with pytest.raises(ValueError, match=r"expected x_train to be an object array of lists of ints, got float64"):
        load_matrix_imdb(str(write_npz(tmp_path / "a.npz", **numbers)), sha256=None)


@pytest.mark.parametrize("index", [b"{", b"\xff", 100000 * b"[", b"[]", b'{"\\ud800": 1}'])
def test_a_damaged_word_index_is_named(tmp_path, index):
    path = tmp_path / "imdb_word_index.json"
    path.write_bytes(index)
    with pytest.raises(ValueError, match=r"imdb_word_index\.json: expected"):
        read_word_index(path)
