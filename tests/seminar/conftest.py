"""Reviews small enough for a test: an npz of the structure of Keras' imdb.npz, and the ranks that it holds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from object_arrays import object_array
from ragged_rows import SENTENCES

from rnndrop_cuda.seminar.data.reviews import Reviews, load_reviews

Ranks = list[list[int]]


@pytest.fixture(scope="session")
def ranks() -> tuple[Ranks, Ranks]:
    """48 training and 32 test reviews of 0 to 11 words, ranks 1 to 29; the first of each is empty."""
    rng = np.random.default_rng(0)

    def reviews(n: int) -> Ranks:
        return [[]] + [rng.integers(1, 30, size=rng.integers(1, 12)).tolist() for _ in range(n - 1)]

    return reviews(48), reviews(32)


@pytest.fixture(scope="session")
def write_npz(ranks: tuple[Ranks, Ranks]) -> Callable[[Path], None]:
    """Writes these reviews to a path."""
    train, test = ranks

    def write(path: Path) -> None:
        np.savez(
            path,
            x_train=object_array(train),
            y_train=np.arange(len(train)) % 2,
            x_test=object_array(test),
            y_test=np.arange(len(test)) % 2,
        )

    return write


@pytest.fixture
def npz(tmp_path: Path, write_npz: Callable[[Path], None]) -> Path:
    path = tmp_path / "reviews.npz"
    write_npz(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a run."""
    return tmp_path / "run"


@pytest.fixture
def command(npz: Path, out: Path) -> list[str]:
    """The arguments of a small run of `rnndrop train`; other commands' tests have others."""
    from train_runs import SMALL  # here: it needs the demo extra

    return ["--data", str(npz), *SMALL, "--epochs", "2", "--out", str(out)]


@pytest.fixture(scope="session")
def sentences() -> Reviews:
    """Whole, each of a length of its own."""
    return load_reviews(SENTENCES, maxlen=None)
