"""Training: `fit` is the one loop, an epoch at a time; one pass, an evaluation, and the seminar's `train`.

What a batch is scored by is the business of a Measure. The classifier's is the default: loss and accuracy are averages
over examples, whatever the sizes of the batches and the loss function's reduction.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.data.reviews import Rows
from rnndrop_cuda.seminar.training.batches import TEST, TRAIN, Batch, batches_of

PREDICTED_AT_ONCE = 128
"""Reviews."""


class Score(NamedTuple):
    """Loss and accuracy, each averaged over examples."""

    loss: float
    accuracy: float

    def __str__(self) -> str:
        return f"loss {self.loss:.4f} accuracy {self.accuracy:.4f}"


class Sums(NamedTuple):
    """Of the examples of some batches: the sum of their losses, how many were classified correctly, their number."""

    loss: float
    correct: int
    examples: int

    def plus(self, other: Sums) -> Sums:
        """Of both's examples."""
        return Sums(self.loss + other.loss, self.correct + other.correct, self.examples + other.examples)

    def score(self) -> Score:
        """The averages; ValueError where there was no example."""
        if self.examples == 0:
            raise ValueError("expected at least one example in the batches, got none")
        return Score(self.loss / self.examples, self.correct / self.examples)


NO_SUMS = Sums(0.0, 0, 0)

AnySums = Any
"""Sums, or those of another kind of run: a NamedTuple of numbers with `plus` and `score`, which gives one, too."""
Measure = Callable[[nn.Module, nn.Module, Sequence[Tensor]], tuple[Tensor, tuple[Tensor | int, ...]]]
"""Of model, loss function and a batch on the device: what is minimised, and what the batch adds to each of the sums."""


class History(NamedTuple):
    """One value an epoch: what `train` returns."""

    train_loss: list[float]
    train_accuracy: list[float]
    test_loss: list[float]
    test_accuracy: list[float]


def train_epoch(
    train_loader: Iterable[Batch],
    model: nn.Module,
    lossfun: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
) -> Score:
    """One pass over the loader with updates: the mean loss and accuracy of each batch as it was met, dropout on.

    Batches are ``(ids [B, T], labels [B])``, or the same with lengths ``[B]``.
    """
    model.train()
    return run_batches(train_loader, model, lossfun, device, optimizer).score()


@torch.no_grad()
def evaluate(test_loader: Iterable[Batch], model: nn.Module, lossfun: nn.Module, device: torch.device | str) -> Score:
    """One pass without updates, dropout off."""
    model.eval()
    return run_batches(test_loader, model, lossfun, device).score()


@dataclass(frozen=True)
class Progress:
    """How far training is. batches, sums and seconds are of the epoch in flight."""

    epochs: int = 0
    batches: int = 0
    sums: AnySums = NO_SUMS
    seconds: float = 0.0


class Epoch(NamedTuple):
    """One that is done: its number from 1, its scores by the part of the reviews, TRAIN's as met in training."""

    number: int
    scores: dict[str, Any]
    seconds: float
    training_seconds: float
    """Of them, those without scoring."""

    def row(self) -> dict[str, float]:
        """{"train_loss": ..., "train_accuracy": ..., "test_loss": ..., ..., "seconds": ...}."""
        scores = {f"{part}_{what}": x for part, score in self.scores.items() for what, x in score._asdict().items()}
        return {**scores, "seconds": self.seconds}


def classified(
    model: nn.Module, lossfun: nn.Module, batch: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor | int, ...]]:
    """The Measure of a classifier: of its probabilities.

    ValueError where lossfun has no reduction that it knows, FloatingPointError where the probabilities are NaN.
    """
    reduction = getattr(lossfun, "reduction", None)
    if reduction not in ("sum", "mean"):
        raise ValueError(f'lossfun: expected a reduction of "sum" or "mean", got {reduction!r}')
    ids, labels, *lengths = batch
    probabilities = model(ids.T, *lengths).squeeze(-1)
    try:
        loss = lossfun(probabilities, labels.to(probabilities.dtype))
    except RuntimeError as error:  # nn.BCELoss refuses NaN as it does any number that is no probability
        if probabilities.isfinite().all():
            raise
        raise FloatingPointError("the model's output is no number any more: try a smaller learning rate") from error
    loss_sum = loss.detach() * (len(labels) if reduction == "mean" else 1)
    return loss, (loss_sum, ((probabilities > 0.5) == labels).sum(), len(labels))


def fit(
    model: nn.Module,
    lossfun: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    train_batches: Iterable[Batch],
    scored: Mapping[str, Iterable[Batch]],
    epochs: int,
    *,
    start: Progress | None = None,
    every: int | None = None,
    within: Callable[[Progress], None] = lambda progress: None,
    feed: Callable[[str, Iterable[Batch]], Iterable[Batch]] = lambda part, batches: batches,
    evaluated: nn.Module | None = None,
    max_norm: float | None = None,
    total: Callable[[AnySums], AnySums] = lambda sums: sums,
    measure: Measure = classified,
    nothing: AnySums = NO_SUMS,
    scoring: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[Epoch]:
    """Trains until so many epochs are done in all, and yields each once it is scored.

    scored: batches by the part of the reviews that they are of. start: what was done before; so many of its epoch's
    batches are skipped. every: batches after which `within` is called with the progress inside an epoch; it needs
    train_batches with a length. feed: what the batches of a part pass through, such as a progress bar. evaluated: the
    module that is scored, None: the model. max_norm, measure, nothing: as for run_batches. total: makes the sums of one
    process those of all. scoring: what the scored parts are run in. Raises ValueError where there is no batch.
    """
    start = start or Progress(sums=nothing)
    evaluated = model if evaluated is None else evaluated
    count = 0 if every is None else operator.length_hint(train_batches)
    for number in range(start.epochs + 1, epochs + 1):
        at = start if number == start.epochs + 1 else Progress(number - 1, sums=nothing)
        batches = iter(train_batches)
        deque(itertools.islice(batches, at.batches), maxlen=0)
        while True:
            begun = time.perf_counter()
            model.train()
            fed = feed(TRAIN, itertools.islice(batches, every))
            sums = total(run_batches(fed, model, lossfun, device, optimizer, max_norm, measure, nothing))
            seconds = at.seconds + time.perf_counter() - begun
            at = Progress(at.epochs, at.batches + (every or 0), at.sums.plus(sums), seconds)
            if at.batches >= count:
                break
            within(at)
        begun = time.perf_counter()
        scores = {TRAIN: at.sums.score()}
        evaluated.eval()
        for part, part_batches in scored.items():
            with torch.no_grad(), scoring():
                fed = feed(part, part_batches)
                sums = run_batches(fed, evaluated, lossfun, device, measure=measure, nothing=nothing)
            scores[part] = total(sums).score()
        yield Epoch(number, scores, at.seconds + time.perf_counter() - begun, at.seconds)


def train(
    train_loader: Iterable[Batch],
    test_loader: Iterable[Batch],
    model: nn.Module,
    lossfun: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    num_epochs: int,
) -> History:
    """Trains for num_epochs, printing a line an epoch; returns the four histories.

    The loaders yield (ids [B, T], labels [B]), as a DataLoader over the rows of load_matrix_imdb does, or
    (ids, labels, lengths [B]). The model takes ids [T, B], and lengths where there are any, and returns probabilities
    [B, 1]. lossfun(probabilities [B], labels [B] of the same dtype) has a `reduction` of "sum" or "mean", as nn.BCELoss
    does. Raises ValueError when num_epochs is negative or a loader yields nothing.
    """
    if num_epochs < 0:
        raise ValueError(f"num_epochs: expected at least 0, got {num_epochs}")
    model.to(device)
    history = History([], [], [], [])
    for epoch in fit(model, lossfun, optimizer, device, train_loader, {TEST: test_loader}, num_epochs):
        for values, score in zip(history, (*epoch.scores[TRAIN], *epoch.scores[TEST]), strict=True):
            values.append(score)
        print(f"epoch {epoch.number}/{num_epochs}: {format_scores(epoch.scores)}", flush=True)
    return history


def format_scores(scores: Mapping[str, Any]) -> str:
    """The line an epoch is reported with; the scores by the part of the data."""
    return ", ".join(f"{part} {score}" for part, score in scores.items())


@torch.no_grad()
def predicted(model: nn.Module, X: Rows, device: torch.device | str) -> Tensor:
    """The classifier's probability for each row of load_reviews' X, dropout off: [N] on the CPU."""
    model.eval()
    probabilities = torch.zeros(len(X))
    for ids, rows, *lengths in batches_of(X, np.arange(len(X)), PREDICTED_AT_ONCE, torch.device(device)):
        probabilities[rows.cpu()] = model(ids.T, *lengths).squeeze(-1).float().cpu()
    return probabilities


def run_batches(
    loader: Iterable[Sequence[Tensor]],
    model: nn.Module,
    lossfun: nn.Module,
    device: torch.device | str,
    optimizer: torch.optim.Optimizer | None = None,
    max_norm: float | None = None,
    measure: Measure = classified,
    nothing: AnySums = NO_SUMS,
) -> AnySums:
    """One pass in the mode that the model is in, with updates where there is an optimizer.

    max_norm: what the norm of all gradients together is scaled down to before a step; None: they stay as they are.
    nothing: the sums of no batch, of the kind that measure adds to.
    """
    # Sums stay on the device until the end: reading one would make every step wait for it.
    sums = [
        torch.zeros((), dtype=torch.float64 if isinstance(zero, float) else torch.int64, device=device)
        for zero in nothing
    ]
    for batch in loader:
        loss, added = measure(model, lossfun, [tensor.to(device) for tensor in batch])
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            if max_norm is not None:
                clip_gradients(model.parameters(), max_norm)
            optimizer.step()
        for total, value in zip(sums, added, strict=True):
            total += value
    return type(nothing)(*(total.item() for total in sums))


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """nn.utils.clip_grad_norm_, which refuses the sparse gradients of an embedding: here their rows are clipped."""
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())  # not a copy
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    scale = (max_norm / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)  # torch's own epsilon
    for gradient in gradients:
        gradient.mul_(scale)
