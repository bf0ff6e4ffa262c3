"""One training run of a study: everything that it depends on, its figures, and a cache of those by configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.provenance import version
from rnndrop_cuda.seminar.data.reviews import Reviews
from rnndrop_cuda.seminar.data.vectors import load_vectors
from rnndrop_cuda.seminar.language_model.pretrained import load_pretrained
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.settings import FineTuningSettings
from rnndrop_cuda.seminar.training.batches import Parts, scored_on
from rnndrop_cuda.seminar.training.forward import Forward
from rnndrop_cuda.seminar.training.loop import evaluate, fit
from rnndrop_cuda.seminar.training.optimizers import cycle, make_optimizer, takes_sparse_gradients
from rnndrop_cuda.seminar.training.start import fingerprint, transfer
from rnndrop_cuda.seminar.training.unfreezing import unfreeze


@dataclass(frozen=True, kw_only=True)
class Experiment(FineTuningSettings):
    """What a run's figures depend on, the machine apart."""

    labelled: int | None = None
    """So many of the training reviews, drawn with the seed, are trained on; None: all are."""
    passes: int = 1
    """Over the reviews that are trained on, in each epoch: few of them need not be followed by scores each time."""
    reseeded: bool = True
    """Whether dropout draws from the seed again once the weights are drawn, and so is the same for every layer.
    False: it draws what follows, as the run of bench/results/variable_length.json did."""

    def build_pretrained(self, words: list[str], *, sparse: bool) -> RNNClassifier:
        """The classifier of these words, which starts from what is pretrained, if anything is. Errors as start's."""
        vectors = None
        if self.vectors is not None:
            vectors = load_vectors(self.vectors, words, self.n_emb, self.seed).matrix
        model = self.build(len(words), sparse=sparse, vectors=vectors)
        if self.pretrained is not None:
            transfer(model, words, load_pretrained(self.pretrained))
        return model


class Run(NamedTuple):
    """A run's figures. epochs: Epoch.row of each, the training part as met in training, dropout on.

    Where the experiment holds reviews out for validation, all that says test is of those.
    """

    experiment: dict[str, Any]
    data: dict[str, Any]
    epochs: list[dict[str, float]]
    train_accuracy: float
    """Of the trained model on the reviews it was trained on, dropout off."""

    @property
    def scored_on(self) -> str:
        """A part of the reviews, as batches.scored_on says."""
        return scored_on(self.experiment)

    @property
    def test_accuracies(self) -> list[float]:
        """One an epoch."""
        return [epoch[f"{self.scored_on}_accuracy"] for epoch in self.epochs]

    @property
    def test_accuracy(self) -> float:
        return self.test_accuracies[-1]

    @property
    def best_test_accuracy(self) -> float:
        return max(self.test_accuracies)

    @property
    def gap(self) -> float:
        """How much better the trained model does on the reviews it was trained on: overfitting."""
        return self.train_accuracy - self.test_accuracy

    @property
    def seconds(self) -> float:
        """Of an epoch, the median."""
        return statistics.median(epoch["seconds"] for epoch in self.epochs)


class CachedRun(Protocol):
    """A NamedTuple of what JSON can hold."""

    @property
    def epochs(self) -> list[dict[str, float]]: ...
    def _asdict(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=CachedRun)


class Cache(Generic[R]):
    """Runs of a kind by what they depend on: a JSON file each, written whole when the run is done."""

    def __init__(self, folder: Path, kind: type[R]) -> None:
        self.folder, self.kind = folder, kind

    def file(self, experiment: Any, data: dict[str, Any], device: torch.device) -> Path:
        """Where a run of these is: its name is a hash of all that its figures depend on, the processor apart.

        experiment: a dataclass of settings.
        """
        key = {
            "experiment": dataclasses.asdict(experiment),
            "data": data,
            "device": device.type,
            "torch": torch.__version__,
            "rnndrop_cuda": version(),
        }
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]}.json"

    def get(self, file: Path) -> R | None:
        """None where there is none. ValueError where the file is damaged."""
        if not file.is_file():
            return None
        try:
            run = self.kind(**json.loads(file.read_text(encoding="utf-8")))
            if not run.epochs or not all(np.isfinite([*epoch.values()]).all() for epoch in run.epochs):
                raise ValueError("a figure is not finite")
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({error}): delete it") from error
        return run

    def put(self, file: Path, run: R) -> None:
        write_whole(file, (json.dumps(run._asdict(), indent=1) + "\n").encode())


def described(experiment: Experiment, reviews: Reviews) -> dict[str, Any]:
    """What the experiment is trained on: the reviews, and the language model that it starts from, if any."""
    data: dict[str, Any] = {**reviews.described()}
    if experiment.pretrained is not None:
        data["language model sha256"] = fingerprint(experiment.pretrained)
    return data


def train_and_score(
    experiment: Experiment, reviews: Reviews, device: torch.device, after_epoch: Callable[[], object] = lambda: None
) -> Run:
    """Trains as the experiment says. after_epoch: called after each."""
    parts = Parts(
        reviews,
        experiment.batch_size,
        device,
        torch.Generator().manual_seed(experiment.seed),
        validation=experiment.validation,
        labelled=experiment.labelled,
        passes=experiment.passes,
    )
    sparse = takes_sparse_gradients(experiment, device)
    model = experiment.build_pretrained(reviews.words, sparse=sparse).to(device)
    optimizer = make_optimizer(experiment, model)
    if experiment.one_cycle:
        cycle(optimizer, experiment.epochs * len(parts.train))
    lossfun = nn.BCELoss(reduction=experiment.loss_reduction)
    if experiment.reseeded:
        torch.manual_seed(experiment.seed)
    epochs = []
    forward = Forward(model, device.type, experiment.autocast)
    if experiment.gradual_unfreezing:
        unfreeze(model, 1, embedding=not experiment.freeze_vectors)
    for epoch in fit(
        forward, lossfun, optimizer, device, parts.train, parts.scored, experiment.epochs, max_norm=experiment.clip
    ):
        epochs.append(epoch.row())
        if experiment.gradual_unfreezing:
            unfreeze(model, epoch.number + 1, embedding=not experiment.freeze_vectors)
        after_epoch()
    as_trained = evaluate(parts.train_in_order(), forward, lossfun, device)
    data = described(experiment, parts.reviews)
    return Run(dataclasses.asdict(experiment), data, epochs, as_trained.accuracy)
