"""One training run of a study: everything that it depends on, its figures, and a cache of those by configuration."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.provenance import version
from rnndrop_cuda.seminar.data.reviews import DATA_SEED, IMDB_SHA256, Reviews, load_reviews
from rnndrop_cuda.seminar.data.vectors import embedding_of, load_vectors
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.loop import batches_of, evaluate, train_epoch
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop

EMBEDDINGS = ("normal", "uniform", "vectors", "vectors frozen")


@dataclass(frozen=True)
class Experiment:
    """What a run's figures depend on, the machine apart. The seminar's values are the defaults."""

    data: str = "movie-reviews"
    unverified_data: bool = False
    reviews: int | None = None
    seq_len: int | None = 32
    """None: every review as long as it is, up to `longest`."""
    longest: int = 400
    contractions: str = "keep"
    vocab_size: int = 20000
    embedding: str = "normal"
    """One of EMBEDDINGS: N(0, 1) as nn.Embedding's own, U(-0.05, 0.05), or pretrained, trained further or not."""
    vectors: str | None = None
    n_emb: int = 300
    n_hidden: int = 128
    torch_lstm: bool = False
    """nn.LSTM itself; else this package's LSTM with `options`."""
    options: tuple[tuple[str, Any], ...] = ()
    batch_size: int = 128
    learning_rate: float = 0.001
    epochs: int = 5
    seed: int = 0

    def load(self) -> Reviews:
        """The reviews. Errors as load_reviews, and ValueError where there are fewer than asked for."""
        ragged = self.seq_len is None
        maxlen = self.longest if ragged else self.seq_len
        reviews = load_reviews(
            self.data, self.vocab_size, maxlen, DATA_SEED,
            sha256=None if self.unverified_data else IMDB_SHA256, ragged=ragged, contractions=self.contractions,
        )  # fmt: skip
        return reviews.first(self.reviews)

    def build(self, words: list[str], *, sparse: bool) -> RNNClassifier:
        """The classifier, its weights drawn with the seed."""
        torch.manual_seed(self.seed)
        layer: Callable[..., nn.Module] = nn.LSTM if self.torch_lstm else functools.partial(LSTM, **dict(self.options))
        embedding: Callable[..., nn.Module] = functools.partial(nn.Embedding, sparse=sparse)
        if self.vectors is not None and self.embedding.startswith("vectors"):
            vectors = load_vectors(self.vectors, words, self.n_emb, self.seed)
            embedding = embedding_of(vectors, freeze=self.embedding == "vectors frozen", sparse=sparse)
        model = RNNClassifier(
            self.n_emb, self.n_hidden, len(words), 1, self.batch_size, rec_layer=layer, embedding=embedding
        )
        if self.embedding == "uniform":
            assert isinstance(model.word_embeddings.weight, torch.Tensor)
            nn.init.uniform_(model.word_embeddings.weight, -0.05, 0.05)
        return model


class Run(NamedTuple):
    """A run's figures. epochs: one a pass, as met in training (dropout on) and on the test reviews."""

    experiment: dict[str, Any]
    data: dict[str, Any]
    epochs: list[dict[str, float]]
    train_accuracy: float
    """Of the trained model on what it was trained on, dropout off."""

    @property
    def test_accuracy(self) -> float:
        return self.epochs[-1]["test_accuracy"]

    @property
    def best_test_accuracy(self) -> float:
        return max(epoch["test_accuracy"] for epoch in self.epochs)

    @property
    def gap(self) -> float:
        """How much better the trained model does on what it was trained on: overfitting."""
        return self.train_accuracy - self.test_accuracy

    @property
    def seconds(self) -> float:
        """Of an epoch, the median."""
        return statistics.median(epoch["seconds"] for epoch in self.epochs)


class Cache:
    """Runs by what they depend on: a JSON file each, written whole when the run is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, experiment: Experiment, data: dict[str, Any], device: torch.device) -> Path:
        """Where a run of these is: its name is a hash of all that its figures depend on, the processor apart."""
        key = {
            "experiment": dataclasses.asdict(experiment),
            "data": data,
            "device": device.type,
            "torch": torch.__version__,
            "rnndrop_cuda": version(),
        }
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]}.json"

    def get(self, file: Path) -> Run | None:
        """None where there is none. ValueError where the file is damaged."""
        if not file.is_file():
            return None
        try:
            run = Run(**json.loads(file.read_text(encoding="utf-8")))
            if not run.epochs or not all(np.isfinite([*epoch.values()]).all() for epoch in run.epochs):
                raise ValueError("its figures are no numbers")
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({error}): delete it") from error
        return run

    def put(self, file: Path, run: Run) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(run._asdict(), indent=1) + "\n").encode())


def train_and_score(
    experiment: Experiment, reviews: Reviews, device: torch.device, after_epoch: Callable[[], object] = lambda: None
) -> Run:
    """Trains as the experiment says. after_epoch: called after each."""
    order = torch.Generator().manual_seed(experiment.seed)
    train_batches = batches_of(reviews.X_train, reviews.y_train, experiment.batch_size, device, order)
    test_batches = batches_of(reviews.X_test, reviews.y_test, experiment.batch_size, device)
    model = experiment.build(reviews.words, sparse=device.type == "cpu").to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = LazyRMSprop(trained, lr=experiment.learning_rate)
    lossfun = nn.BCELoss(reduction="sum")
    torch.manual_seed(experiment.seed)
    epochs = []
    for _ in range(experiment.epochs):
        start = time.perf_counter()
        learned = train_epoch(train_batches, model, lossfun, optimizer, device)
        tested = evaluate(test_batches, model, lossfun, device)
        epochs.append(
            {
                "train_loss": learned.loss,
                "train_accuracy": learned.accuracy,
                "test_loss": tested.loss,
                "test_accuracy": tested.accuracy,
                "seconds": time.perf_counter() - start,
            }
        )
        after_epoch()
    as_trained = evaluate(
        batches_of(reviews.X_train, reviews.y_train, experiment.batch_size, device), model, lossfun, device
    )
    return Run(dataclasses.asdict(experiment), reviews.described(), epochs, as_trained.accuracy)
