"""A run of `rnndrop train`: the classifier, its optimizer and its batches. What keeps a run alive is in run.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.data.reviews import PADDING, START, UNKNOWN, Reviews
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training.batches import TRAIN, Batch, Parts
from rnndrop_cuda.seminar.training.checkpoint import Checkpoint
from rnndrop_cuda.seminar.training.forward import Forward
from rnndrop_cuda.seminar.training.optimizers import cycle, make_optimizer, takes_sparse_gradients
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.run import BEST as BEST
from rnndrop_cuda.seminar.training.run import LAST as LAST
from rnndrop_cuda.seminar.training.run import Row, Run
from rnndrop_cuda.seminar.training.start import start
from rnndrop_cuda.seminar.training.unfreezing import unfreeze


class Trainer(Run[TrainSettings]):
    """One run of the classifier. Arguments and errors are Run's; reviews: those that it is trained and scored on."""

    def __init__(
        self,
        settings: TrainSettings,
        reviews: Reviews,
        device: torch.device,
        processes: Processes,
        out: Path,
        facts: dict[str, Any],
        resumed_from: Checkpoint[TrainSettings] | None = None,
    ) -> None:
        # DDP and torch.compile want dense gradients.
        sparse = takes_sparse_gradients(settings, device) and processes.ranks == 1 and settings.compile is None
        model = settings.build(sparse=sparse)
        # A checkpoint has the weights: the language model may be gone when a run is resumed.
        pretrained = start(settings, model, reviews.words) if resumed_from is None else resumed_from.pretrained
        if pretrained is not None:
            facts = {**facts, "pretrained": pretrained}
        model.to(device)
        optimizer = make_optimizer(settings, model)
        super().__init__(settings, reviews.words, model, optimizer, device, processes, out, facts, resumed_from)
        self.lossfun = nn.BCELoss(reduction=settings.loss_reduction)
        self.parts = Parts(reviews, settings.batch_size, device, self.order, validation=settings.validation, test=True)
        self.train_batches, self.scored = self.parts.train, self.parts.scored
        if settings.one_cycle:
            steps = len(self.parts.train)
            cycle(optimizer, settings.epochs * steps, self.progress.epochs * steps + self.progress.batches)
        self.forward = Forward(self.model, device.type, settings.autocast)
        if settings.compile is not None:
            self.forward.compile(backend=settings.compile)
        self.training_forward = processes.join(self.forward)

    @property
    def steps_an_epoch(self) -> int:
        return self.parts.steps_an_epoch

    def _begin_epoch(self) -> None:
        if self.settings.gradual_unfreezing:
            assert isinstance(self.model, RNNClassifier)
            unfreeze(self.model, self.progress.epochs + 1, embedding=not self.settings.freeze_vectors)

    def _value(self, row: Row) -> float:
        part = next(iter(self.scored))
        return row[f"{part}_accuracy"] if self.settings.monitor == "accuracy" else -row[f"{part}_loss"]

    def _fed(self, part: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This process' shares of the batches. Words are dropped before sharing: every process draws the same."""
        word_dropout = self.settings.word_dropout if part == TRAIN else 0.0
        for ids, labels, *lengths in batches:
            if word_dropout:
                ids = drop_words(ids, word_dropout)
            yield self.processes.share((ids, labels, lengths[0]) if lengths else (ids, labels))


def drop_words(ids: Tensor, p: float) -> Tensor:
    """ids with each word but padding and start unknown with probability p, drawn with torch's generator."""
    dropped = torch.rand(ids.shape, device=ids.device) < p
    return ids.masked_fill(dropped & (ids != PADDING) & (ids != START), UNKNOWN)
