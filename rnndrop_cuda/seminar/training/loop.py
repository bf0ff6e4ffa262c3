"""Training the seminar's classifier: one epoch, an evaluation, and both for a number of epochs.

Loss and accuracy are averages over examples, whatever the sizes of the batches and the loss function's reduction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.data.reviews import IntArray, Rows

# ids [B, T], labels [B], and where the reviews have lengths of their own those, [B]
Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


class Score(NamedTuple):
    """Loss and accuracy, each averaged over examples."""

    loss: float
    accuracy: float


class Sums(NamedTuple):
    """Of the examples of some batches: the sum of their losses, how many were told right, how many there were."""

    loss: float
    correct: int
    examples: int

    def plus(self, other: Sums) -> Sums:
        """Of both's examples."""
        return Sums(self.loss + other.loss, self.correct + other.correct, self.examples + other.examples)

    def score(self) -> Score:
        """The averages; ValueError where there was no example."""
        if self.examples == 0:
            raise ValueError("the loader must yield at least one example, got none")
        return Score(self.loss / self.examples, self.correct / self.examples)


class History(NamedTuple):
    """One value an epoch: what `train` returns."""

    train_loss: list[float]
    train_accuracy: list[float]
    test_loss: list[float]
    test_accuracy: list[float]


class Batches:
    """Batches of tensors that already lie on the device, in a new order each time it is iterated.

    A DataLoader collates example by example, which costs more than a small model's step; this indexes once a batch.
    X [N, T], y [N]. generator: draws the orders (a CPU generator); None keeps the order as it is.
    """

    def __init__(self, X: Tensor, y: Tensor, batch_size: int, generator: torch.Generator | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.X, self.y, self.batch_size, self.generator = X, y, batch_size, generator

    def __len__(self) -> int:
        return -(-len(self.y) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.generator is None:
            yield from zip(self.X.split(self.batch_size), self.y.split(self.batch_size), strict=True)
            return
        order = torch.randperm(len(self.y), generator=self.generator).to(self.y.device)
        for index in order.split(self.batch_size):
            yield self.X[index], self.y[index]


class LengthBatches:
    """Batches of reviews of about one length, each padded on the right to its longest, in a new order each time.

    rows: N arrays of ids, at least one id each; y [N] on the device that the batches are to be on. generator: draws the
    orders (a CPU generator); None: from the shortest to the longest. A batch is of neighbours in the order of lengths
    within a pool of POOL batches drawn at random, so that little is padded and batches still differ from epoch to
    epoch.
    """

    POOL = 50

    def __init__(
        self, rows: Sequence[IntArray], y: Tensor, batch_size: int, generator: torch.Generator | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        if len(rows) and not self.lengths.min():
            raise ValueError(f"rows must have at least one id each, row {int(self.lengths.argmin())} has none")
        self.ids = [torch.from_numpy(row) for row in rows]
        self.y, self.batch_size, self.generator = y, batch_size, generator

    def __len__(self) -> int:
        pool, rest = divmod(len(self.y), self.POOL * self.batch_size)
        return pool * self.POOL - (-rest // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.order():
            ids = nn.utils.rnn.pad_sequence([self.ids[i] for i in index.tolist()], batch_first=True)
            device = self.y.device
            yield ids.to(device), self.y[index.to(device)], self.lengths[index].to(device)

    def order(self) -> list[Tensor]:
        """The rows of each batch."""
        if self.generator is None:
            return list(self.lengths.argsort(stable=True).split(self.batch_size))
        batches: list[Tensor] = []
        for pool in torch.randperm(len(self.y), generator=self.generator).split(self.POOL * self.batch_size):
            batches += pool[self.lengths[pool].argsort(stable=True)].split(self.batch_size)
        return [batches[k] for k in torch.randperm(len(batches), generator=self.generator)]


def batches_of(
    X: Rows, y: IntArray, batch_size: int, device: torch.device, generator: torch.Generator | None = None
) -> Batches | LengthBatches:
    """Batches of load_reviews' X and y: by length where its rows have lengths of their own."""
    labels = torch.from_numpy(y).to(device)
    if isinstance(X, np.ndarray):
        return Batches(torch.from_numpy(X).to(device), labels, batch_size, generator)
    return LengthBatches(X, labels, batch_size, generator)


def train_epoch(
    train_loader: Iterable[Batch],
    model: nn.Module,
    lossfun: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
) -> Score:
    """One pass with updates. The score is of each batch as it was met, dropout on."""
    model.train()
    return run_batches(train_loader, model, lossfun, device, optimizer).score()


@torch.no_grad()
def evaluate(test_loader: Iterable[Batch], model: nn.Module, lossfun: nn.Module, device: torch.device | str) -> Score:
    """One pass without updates, dropout off."""
    model.eval()
    return run_batches(test_loader, model, lossfun, device).score()


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
    [B, 1]. lossfun(probabilities [B], labels [B] of the same dtype)
    has a `reduction` of "sum" or "mean", as nn.BCELoss does.
    Raises ValueError when num_epochs is negative or a loader yields nothing.
    """
    if num_epochs < 0:
        raise ValueError(f"num_epochs must not be negative, got {num_epochs}")
    model.to(device)
    history = History([], [], [], [])
    for epoch in range(1, num_epochs + 1):
        trained = train_epoch(train_loader, model, lossfun, optimizer, device)
        tested = evaluate(test_loader, model, lossfun, device)
        for values, score in zip(history, (*trained, *tested), strict=True):
            values.append(score)
        print(f"epoch {epoch}/{num_epochs}: {format_scores(train=trained, test=tested)}", flush=True)
    return history


def format_scores(**scores: Score) -> str:
    """The line an epoch is reported with; the scores by the part of the reviews."""
    return ", ".join(f"{part} loss {score.loss:.4f} accuracy {score.accuracy:.4f}" for part, score in scores.items())


def run_batches(
    loader: Iterable[Batch],
    model: nn.Module,
    lossfun: nn.Module,
    device: torch.device | str,
    optimizer: torch.optim.Optimizer | None = None,
    max_norm: float | None = None,
) -> Sums:
    """One pass in the mode that the model is in, with updates where there is an optimizer.

    max_norm: what the norm of all gradients together is scaled down to before a step; None: they stay as they are.
    """
    reduction = getattr(lossfun, "reduction", None)
    if reduction not in ("sum", "mean"):
        raise ValueError(f'lossfun must have a reduction of "sum" or "mean", got {reduction!r}')
    # Sums stay on the device until the end: reading one would make every step wait for it.
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    examples = 0
    for batch in loader:
        ids, labels, *lengths = (tensor.to(device) for tensor in batch)
        probabilities = model(ids.T, *lengths).squeeze(-1)
        loss = lossfun(probabilities, labels.to(probabilities.dtype))
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            if max_norm is not None:
                clip_gradients(model.parameters(), max_norm)
            optimizer.step()
        loss_sum += loss.detach() * (len(labels) if reduction == "mean" else 1)
        correct += ((probabilities > 0.5) == labels).sum()
        examples += len(labels)
    return Sums(loss_sum.item(), int(correct.item()), examples)


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
