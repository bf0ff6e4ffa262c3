"""A run of `rnndrop train`: epochs, checkpoints, resuming from one, early stopping and the history.

All that the next weights depend on is in a checkpoint: weights, optimizer, torch's generators, the order of the epoch
in flight and how many of its batches are done. So a run that was killed and is resumed ends with the same bits as one
that was left alone.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.data.reviews import PADDING, START, UNKNOWN, Reviews
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training import checkpoint
from rnndrop_cuda.seminar.training.batches import TRAIN, Batch, Parts
from rnndrop_cuda.seminar.training.checkpoint import Checkpoint
from rnndrop_cuda.seminar.training.loop import Epoch, Progress, Score, Sums, fit
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop

LAST, BEST = "last", "best"  # folders in that of the run
OPTIMIZER, GENERATOR = "optimizer.", "generator."

Row = dict[str, float]
"""Of the history: an epoch's number, scores and seconds."""


class Trainer:
    """One run.

    out: the run's folder. facts: what history.json says of the machine and the data. resumed_from: a checkpoint of a
    run of the same settings, but for what may change. Raises ValueError where its tensors or progress do not fit.
    """

    def __init__(
        self,
        settings: TrainSettings,
        reviews: Reviews,
        device: torch.device,
        processes: Processes,
        out: Path,
        facts: dict[str, Any],
        resumed_from: Checkpoint | None = None,
    ) -> None:
        self.settings, self.words, self.device, self.processes = settings, reviews.words, device, processes
        self.out, self.facts = out, facts
        # On CUDA the host would wait for each step to say how many words it met; DDP and torch.compile want dense ones.
        sparse = device.type == "cpu" and processes.ranks == 1 and settings.compile is None
        self.model = settings.build(sparse=sparse)
        if resumed_from is None:
            settings.load_pretrained(self.model, reviews.words)
        self.model.to(device)
        self.optimizer = LazyRMSprop(self.model.parameters(), lr=settings.learning_rate)
        self.order = torch.Generator().manual_seed(settings.seed)
        self.progress = Progress()
        self.history: list[Row] = []
        self.best: Row | None = None
        torch.manual_seed(settings.seed)
        if resumed_from is not None:
            self._restore(resumed_from)
        self.epoch_order = self.order.get_state()
        self.parts = Parts(reviews, settings.batch_size, device, self.order, validation=settings.validation, test=True)
        self.forward = _Forward(self.model, device.type, settings.autocast)
        if settings.compile is not None:
            self.forward.compile(backend=settings.compile)
        self.training_forward = processes.join(self.forward)

    @property
    def columns(self) -> list[str]:
        """Of the history: the keys of its rows."""
        scores = [f"{part}_{what}" for part in (TRAIN, *self.parts.scored) for what in Score._fields]
        return ["epoch", *scores, "seconds"]

    @property
    def stopped_early(self) -> bool:
        """Whether as many epochs as patience says have passed since the best."""
        best, patience = self.best, self.settings.patience
        return best is not None and patience is not None and self.progress.epochs - best["epoch"] >= patience

    def run(self, feed: Callable[[Iterable[Batch]], Iterable[Batch]] = lambda batches: batches) -> Iterator[Epoch]:
        """Trains to the end and yields each epoch when its checkpoint and the history are written.

        feed: what the batches pass through, such as a progress bar. Raises OSError where a checkpoint or the history
        cannot be written, FloatingPointError where the loss is not finite any more.
        """
        if self.stopped_early:
            return
        settings = self.settings
        for epoch in fit(
            self.training_forward,
            nn.BCELoss(reduction="sum"),
            self.optimizer,
            self.device,
            self.parts.train,
            self.parts.scored,
            settings.epochs,
            start=self.progress,
            every=settings.checkpoint_every,
            within=self._within_epoch,
            feed=lambda part, batches: self._fed(part, feed(batches)),
            evaluated=self.forward,
            max_norm=settings.clip,
            total=self.processes.total,
        ):
            self._check_finite(epoch.scores[TRAIN].loss)
            self._end_epoch({"epoch": epoch.number, **epoch.row()})
            yield epoch
            if self.stopped_early:
                return

    def write_history(self) -> None:
        """history.json and history.csv, whole."""
        contents = {
            "facts": self.facts,
            "settings": asdict(self.settings),
            "stopped early": self.stopped_early,
            "best": self.best,
            "epochs": self.history,
        }
        write_whole(self.out / "history.json", (json.dumps(contents, indent=1) + "\n").encode())
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns)
        writer.writeheader()
        writer.writerows(self.history)
        write_whole(self.out / "history.csv", table.getvalue().encode())

    def _within_epoch(self, progress: Progress) -> None:
        self._check_finite(progress.sums.loss)
        self.progress = progress
        if self.processes.first:
            self._save(LAST)

    def _end_epoch(self, row: Row) -> None:
        better = self.best is None or self._value(row) > self._value(self.best)
        self.history.append(row)
        self.best = row if better else self.best
        self.progress = Progress(epochs=self.progress.epochs + 1)
        self.epoch_order = self.order.get_state()
        if not self.processes.first:
            return
        if better:  # before the last: killed in between, this epoch is run and the best written again
            self._save(BEST)
        self._save(LAST)
        self.write_history()

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} in epoch {self.progress.epochs + 1}: try a smaller learning rate, or "
                f"gradient clipping; the checkpoint before it is kept in {self.out / LAST}"
            )

    def _value(self, row: Row) -> float:
        """Higher is better."""
        part = next(iter(self.parts.scored))
        return row[f"{part}_accuracy"] if self.settings.monitor == "accuracy" else -row[f"{part}_loss"]

    def _fed(self, part: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This process' shares of the batches. Words are dropped before sharing: every process draws the same."""
        word_dropout = self.settings.word_dropout if part == TRAIN else 0.0
        for ids, labels, *lengths in batches:
            if word_dropout:
                ids = drop_words(ids, word_dropout)
            yield self.processes.share((ids, labels, lengths[0]) if lengths else (ids, labels))

    def _save(self, name: str) -> None:
        tensors = {checkpoint.MODEL + key: weight for key, weight in self.model.state_dict().items()}
        if name == LAST:
            for index, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"{OPTIMIZER}{index}.{key}": value for key, value in values.items()}
            tensors[GENERATOR + "cpu"] = torch.get_rng_state()
            tensors[GENERATOR + "order"] = self.epoch_order
            if self.device.type == "cuda":
                tensors[GENERATOR + "cuda"] = torch.cuda.get_rng_state(self.device)
        at = {**asdict(self.progress), "sums": list(self.progress.sums)}
        progress = {**at, "history": self.history, "best": self.best}
        contents = {"progress": progress, "data": self.facts["data"], "device": self.device.type}
        checkpoint.save(self.out / name, Checkpoint(self.settings, self.words, tensors, contents))

    def _restore(self, found: Checkpoint) -> None:
        try:
            at = dict(found.progress["progress"])
            self.history, self.best = at.pop("history"), at.pop("best")
            self.progress = Progress(**{**at, "sums": Sums(*at["sums"])})
            self.model.load_state_dict(found.build().state_dict())
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in found.tensors.items():
                if name.startswith(OPTIMIZER):
                    index, _, key = name.removeprefix(OPTIMIZER).partition(".")
                    state.setdefault(int(index), {})[key] = tensor
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.order.set_state(found.tensors[GENERATOR + "order"])
            torch.set_rng_state(found.tensors[GENERATOR + "cpu"])
            if self.device.type == "cuda" and GENERATOR + "cuda" in found.tensors:
                torch.cuda.set_rng_state(found.tensors[GENERATOR + "cuda"], self.device)
        except (KeyError, TypeError, RuntimeError) as error:
            why = f"{type(error).__name__} {error}"
            raise ValueError(f"cannot resume from the checkpoint in {self.out / LAST}: {why}") from error


class _Forward(nn.Module):
    """The classifier under bfloat16 autocast, its sigmoid in float32: in bfloat16 it is 1 from 0.998 on."""

    def __init__(self, classifier: nn.Module, device_type: str, autocast: bool) -> None:
        super().__init__()
        self.classifier, self.device_type, self.autocast = classifier, device_type, autocast
        if autocast:
            assert isinstance(classifier.output, nn.Module)
            classifier.output.register_forward_hook(_to_float32)

    def forward(self, ids: Tensor, *lengths: Tensor) -> Tensor:
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.autocast):
            probabilities: Tensor = self.classifier(ids, *lengths)
        return probabilities


def _to_float32(_: nn.Module, args: Any, logits: Tensor) -> Tensor:
    return logits.float()


def drop_words(ids: Tensor, p: float) -> Tensor:
    """ids with each word but padding and start unknown with probability p, drawn with torch's generator."""
    dropped = torch.rand(ids.shape, device=ids.device) < p
    return ids.masked_fill(dropped & (ids != PADDING) & (ids != START), UNKNOWN)
