"""One training run of a study: everything that it depends on, its figures, and a cache of those by configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.provenance import version
from rnndrop_cuda.seminar.data.reviews import Reviews
from rnndrop_cuda.seminar.data.vectors import load_vectors
from rnndrop_cuda.seminar.language_model.pretrained import load_pretrained
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.settings import FineTuningSettings
from rnndrop_cuda.seminar.training.batches import Batch, Parts, scored_on
from rnndrop_cuda.seminar.training.forward import Forward
from rnndrop_cuda.seminar.training.loop import Epoch, evaluate, fit, predicted
from rnndrop_cuda.seminar.training.optimizers import cycle, make_optimizer, takes_sparse_gradients
from rnndrop_cuda.seminar.training.start import fingerprint, transfer
from rnndrop_cuda.seminar.training.unfreezing import unfreeze

TEACHERS_APART = 1000
"""Between the seeds of an experiment's teachers, so that those of another seed's are others."""


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
    teachers: int = 0
    """Self-training: so many classifiers are trained on the labelled reviews first, each with a seed of its own. By the
    mean of their predictions the other training reviews are labelled for the classifier that counts, which starts anew.
    """
    teaching: tuple[tuple[str, Any], ...] = ()
    """Settings of the teachers where they are others."""
    confidence: tuple[float, ...] = (0.9,)
    """The least probability of such a label, one a round: reviews whose own has less are left out. In every round
    after the first the only teacher is the classifier of the round before."""

    @property
    def taught_by(self) -> list[Experiment]:
        """The runs whose predictions label the other reviews."""
        if not self.teachers:
            return []
        if len(self.confidence) > 1:
            return [dataclasses.replace(self, confidence=self.confidence[:-1])]
        alone = {"teachers": 0, "teaching": (), **dict(self.teaching)}
        return [
            dataclasses.replace(self, **alone, seed=self.seed + TEACHERS_APART * number)
            for number in range(1, self.teachers + 1)
        ]

    def check(self) -> None:
        """As FineTuningSettings.check."""
        super().check()
        if self.teachers and self.labelled is None:
            raise ValueError("teachers: expected reviews without labels for them to predict, got none")
        if not self.confidence or not all(0.5 <= least <= 1 for least in self.confidence):
            raise ValueError(f"confidence: expected probabilities in [0.5, 1], got {[*self.confidence]}")

    def build_pretrained(self, words: list[str], *, sparse: bool) -> RNNClassifier:
        """The classifier of these words, which starts from what is pretrained, if anything is. Errors as start's."""
        vectors = None
        if self.vectors is not None:
            vectors = load_vectors(self.vectors, words, self.n_emb, self.seed).matrix
        model = self.build(len(words), sparse=sparse, vectors=vectors)
        if self.pretrained is not None:
            transfer(model, words, load_pretrained(self.pretrained))
        return model


class StudyRun(NamedTuple):
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
) -> StudyRun:
    """Trains as the experiment says. after_epoch: called after each, those of teachers apart."""
    parts = _parts(experiment, experiment.seed, reviews, device)
    epochs = []

    def after(epoch: Epoch) -> None:
        epochs.append(epoch.row())
        after_epoch()

    forward, lossfun = _fitted(experiment, reviews.words, parts, parts.scored, device, after)
    as_trained = evaluate(parts.train_in_order(), forward, lossfun, device)
    data = described(experiment, parts.reviews)
    return StudyRun(dataclasses.asdict(experiment), data, epochs, as_trained.accuracy)


def _parts(experiment: Experiment, labels_of: int, reviews: Reviews, device: torch.device) -> Parts:
    """The batches of a run. labels_of: the seed that draws which reviews are labelled, a teacher's as well."""
    order = torch.Generator().manual_seed(labels_of)
    parts = Parts(
        reviews,
        experiment.batch_size,
        device,
        order,
        validation=experiment.validation,
        labelled=experiment.labelled,
        passes=experiment.passes,
    )
    if experiment.seed != labels_of:
        order.manual_seed(experiment.seed)
    if experiment.teachers:
        said = [_said_by(teacher, labels_of, reviews, device) for teacher in experiment.taught_by]
        parts.label_the_others(torch.stack(said).mean(0), experiment.confidence[-1])
    return parts


def _said_by(teacher: Experiment, labels_of: int, reviews: Reviews, device: torch.device) -> Tensor:
    """The probability that the trained teacher gives each review without a label, [N] on the CPU."""
    parts = _parts(teacher, labels_of, reviews, device)
    forward, _ = _fitted(teacher, reviews.words, parts, {}, device)
    return predicted(forward, parts.unlabelled, device)


def _fitted(
    experiment: Experiment,
    words: list[str],
    parts: Parts,
    scored: Mapping[str, Iterable[Batch]],
    device: torch.device,
    after: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Forward, nn.Module]:
    """The trained classifier and its loss function. after: called after each epoch."""
    sparse = takes_sparse_gradients(experiment, device)
    model = experiment.build_pretrained(words, sparse=sparse).to(device)
    optimizer = make_optimizer(experiment, model)
    if experiment.one_cycle:
        cycle(optimizer, experiment.epochs * len(parts.train))
    lossfun = nn.BCELoss(reduction=experiment.loss_reduction)
    if experiment.reseeded:
        torch.manual_seed(experiment.seed)
    forward = Forward(model, device.type, experiment.autocast)
    if experiment.gradual_unfreezing:
        unfreeze(model, 1, embedding=not experiment.freeze_vectors)
    for epoch in fit(
        forward, lossfun, optimizer, device, parts.train, scored, experiment.epochs, max_norm=experiment.clip
    ):
        if experiment.gradual_unfreezing:
            unfreeze(model, epoch.number + 1, embedding=not experiment.freeze_vectors)
        after(epoch)
    return forward, lossfun
