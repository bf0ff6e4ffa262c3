"""Batches of reviews: of one length, or of similar lengths, in the order of the file or a new one each epoch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.data.reviews import IntArray, Reviews, Rows

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""ids [B, T], labels [B], and where the reviews have lengths of their own those, [B]."""
TRAIN, VALIDATION, TEST = "train", "val", "test"
"""The parts of the reviews, as the keys of scores name them."""
PART_NAMES = {TEST: "test", VALIDATION: "validation"}


def scored_on(settings: Mapping[str, Any]) -> str:
    """The part of the reviews that a model of these settings is judged by, VALIDATION or TEST."""
    return TEST if settings.get("validation") is None else VALIDATION


class Batches:
    """Batches of tensors that already lie on the device, in a new order each time it is iterated.

    A DataLoader collates example by example, which costs more than a small model's step; this indexes once a batch.
    X [N, T], y [N]. generator: draws the orders (a CPU generator); None keeps the order as it is.
    """

    def __init__(self, X: Tensor, y: Tensor, batch_size: int, generator: torch.Generator | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
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
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        if len(rows) and not self.lengths.min():
            raise ValueError(f"rows: expected at least one id each, row {int(self.lengths.argmin())} has none")
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


class Parts:
    """The batches of a run: to train on in the generator's order, and by part those to score on.

    validation: so many of the training reviews are held out, as the part VALIDATION, which comes first in `scored`;
    None: none are. test: whether the test reviews are scored on beside them; without validation they always are.
    labelled: so many of the reviews that are left are trained on, drawn with `order`; None: all are. passes: how often
    each of them is met in an epoch.
    """

    def __init__(
        self,
        reviews: Reviews,
        batch_size: int,
        device: torch.device,
        order: torch.Generator,
        *,
        validation: int | None = None,
        test: bool = False,
        labelled: int | None = None,
        passes: int = 1,
    ) -> None:
        self.reviews, X_val, y_val = reviews.hold_out(validation)
        self._kept, kept = self.reviews, len(self.reviews.y_train)
        self._labelled, self._others = [*range(kept)], list[int]()
        if labelled is not None:
            if labelled > kept:
                raise ValueError(f"labelled: expected at most the {kept} reviews to train on, got {labelled}")
            drawn = torch.randperm(kept, generator=order).tolist()
            self._labelled, self._others = drawn[:labelled], drawn[labelled:]
            self.reviews = self._kept.trained_on(self._labelled)
        self._batch_size, self._device, self._order, self._passes = batch_size, device, order, passes
        met = self.reviews if passes == 1 else self._kept.trained_on(self._labelled * passes)
        self.train = batches_of(met.X_train, met.y_train, batch_size, device, order)
        self.scored: dict[str, Batches | LengthBatches] = {}
        if validation is not None:
            self.scored[VALIDATION] = batches_of(X_val, y_val, batch_size, device)
        if validation is None or test:
            self.scored[TEST] = batches_of(reviews.X_test, reviews.y_test, batch_size, device)

    @property
    def unlabelled(self) -> Rows:
        """X of the reviews that are left and not trained on."""
        return self._kept.trained_on(self._others).X_train

    def label_the_others(self, probabilities: Tensor, confidence: float) -> None:
        """Has the unlabelled reviews trained on as well, once an epoch, each with the label that is likelier.

        probabilities: of each being positive, [N]. confidence: of a label; a review whose own has less is left out.
        """
        y = self._kept.y_train.copy()
        y[self._others] = (probabilities > 0.5).numpy()
        sure = (torch.maximum(probabilities, 1 - probabilities) >= confidence).tolist()
        chosen = [*itertools.compress(self._others, sure)]
        met = dataclasses.replace(self._kept, y_train=y).trained_on(self._labelled * self._passes + chosen)
        self.train = batches_of(met.X_train, met.y_train, self._batch_size, self._device, self._order)

    def train_in_order(self) -> Batches | LengthBatches:
        """The labelled reviews that are trained on, to score the trained model on them."""
        return batches_of(self.reviews.X_train, self.reviews.y_train, self._batch_size, self._device)

    @property
    def steps_an_epoch(self) -> int:
        """Batches of training and scoring together."""
        return len(self.train) + sum(map(len, self.scored.values()))
