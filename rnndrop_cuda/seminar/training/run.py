"""A run that can be killed: epochs, checkpoints, resuming from one, early stopping and the history.

All that the next weights depend on is in a checkpoint: weights, optimizer, torch's generators, the order of the epoch
in flight and how many of its batches are done. So a run that was killed and is resumed ends with the same bits as one
that was left alone. What is trained, and on what, is a subclass's: the classifier's is in trainer.py.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.training import checkpoint
from rnndrop_cuda.seminar.training.batches import TRAIN
from rnndrop_cuda.seminar.training.checkpoint import Checkpoint
from rnndrop_cuda.seminar.training.loop import (
    NO_SUMS,
    AnySums,
    Epoch,
    Measure,
    Progress,
    Score,
    classified,
    fit,
    format_scores,
)
from rnndrop_cuda.seminar.training.optimizer_state import check_state
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.progress import check_progress

LAST, BEST = "last", "best"  # folders in that of the run
OPTIMIZER, GENERATOR = "optimizer.", "generator."

Row = dict[str, float]
"""Of the history: an epoch's number, scores and seconds."""
Batch = Any
"""What a part's batches are: tensors, the first dimension of each that of the rows."""


class ResumableSettings(checkpoint.Settings, Protocol):
    """What every run's settings have."""

    @property
    def epochs(self) -> int: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def checkpoint_every(self) -> int | None: ...
    @property
    def clip(self) -> float | None: ...
    @property
    def seed(self) -> int: ...


S = TypeVar("S", bound=ResumableSettings)


class Run(Generic[S]):
    """One run. A subclass makes the model and the optimizer, and sets `forward`, `train_batches` and `scored`.

    out: the run's folder. facts: what history.json says of the machine and the data. resumed_from: a checkpoint of a
    run of the same settings, but for what may change. Raises ValueError where its tensors or progress do not fit.
    """

    lossfun: nn.Module
    measure: Measure = staticmethod(classified)
    nothing: AnySums = NO_SUMS
    score_fields: ClassVar[tuple[str, ...]] = Score._fields
    forward: nn.Module
    """What is scored."""
    training_forward: nn.Module
    """The same, joined with those of the other processes."""
    train_batches: Iterable[Batch]
    scored: Mapping[str, Iterable[Batch]]
    """Batches by part; the first part chooses the best epoch."""

    def __init__(
        self,
        settings: S,
        words: list[str],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        processes: Processes,
        out: Path,
        facts: dict[str, Any],
        resumed_from: Checkpoint[S] | None = None,
    ) -> None:
        self.settings, self.words, self.device, self.processes = settings, words, device, processes
        self.model, self.optimizer = model, optimizer
        self.out, self.facts = out, facts
        self.order = torch.Generator().manual_seed(settings.seed)
        self.progress = Progress(sums=self.nothing)
        self.history: list[Row] = []
        self.best: Row | None = None
        torch.manual_seed(settings.seed)
        if resumed_from is not None:
            self._restore(resumed_from)
        self.epoch_order = self.order.get_state()
        self._begin_epoch()

    @property
    def steps_an_epoch(self) -> int:
        """Batches of training and scoring together."""
        raise NotImplementedError

    def line(self, epoch: Epoch) -> str:
        """What is said of an epoch."""
        return f"{format_scores(epoch.scores)}, {epoch.seconds:.1f} s"

    @property
    def columns(self) -> list[str]:
        """Of the history: the keys of its rows."""
        scores = [f"{part}_{what}" for part in (TRAIN, *self.scored) for what in self.score_fields]
        return ["epoch", *scores, "seconds"]

    @property
    def stopped_early(self) -> bool:
        """Whether as many epochs as patience says have passed since the best."""
        best, patience = self.best, self.settings.patience
        return best is not None and patience is not None and self.progress.epochs - best["epoch"] >= patience

    def run(self, feed: Callable[[Iterable[Batch]], Iterable[Batch]] = lambda batches: batches) -> Iterator[Epoch]:
        """Trains to the end and yields each epoch when its checkpoint and the history are written.

        feed: what the batches pass through, such as a progress bar. Raises OSError where a checkpoint or the history
        cannot be written, FloatingPointError where a loss or another score is not finite any more.
        """
        if self.stopped_early:
            return
        settings = self.settings
        for epoch in fit(
            self.training_forward,
            self.lossfun,
            self.optimizer,
            self.device,
            self.train_batches,
            self.scored,
            settings.epochs,
            start=self.progress,
            every=settings.checkpoint_every,
            within=self._within_epoch,
            feed=lambda part, batches: self._fed(part, feed(batches)),
            evaluated=self.forward,
            max_norm=settings.clip,
            total=self.processes.total,
            measure=self.measure,
            nothing=self.nothing,
            scoring=self._scoring,
        ):
            for part, score in epoch.scores.items():
                for what, value in score._asdict().items():
                    self._check_finite(f"{'training' if part == TRAIN else part} {what}", value)
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
        self._check_finite("training loss", progress.sums.loss)
        self.progress = progress
        carried = self._carried()
        if self.processes.first:
            self._save(LAST, carried)

    def _end_epoch(self, row: Row) -> None:
        better = self.best is None or self._value(row) > self._value(self.best)
        self.history.append(row)
        self.best = row if better else self.best
        self.progress = Progress(self.progress.epochs + 1, sums=self.nothing)
        self.epoch_order = self.order.get_state()
        if self.processes.first:
            if better:  # before the last: killed in between, this epoch is run and the best written again
                with self._scoring():
                    self._save(BEST)
            self._save(LAST)
            self.write_history()
        self._begin_epoch()

    def _check_finite(self, score: str, value: float) -> None:
        if not math.isfinite(value):
            last = self.out / LAST
            saved = (last / checkpoint.FILE_NAME).exists()
            kept = f"the checkpoint before it is kept in {last}" if saved else "there is no checkpoint yet"
            raise FloatingPointError(
                f"the {score} is {value} in epoch {self.progress.epochs + 1}: try a smaller learning rate, or "
                f"gradient clipping; {kept}"
            )

    # ---------------------------------------------------------------- what a subclass may say

    def _value(self, row: Row) -> float:
        """By which the best epoch is chosen: higher is better."""
        raise NotImplementedError

    def _fed(self, part: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This process' shares of the batches."""
        for batch in batches:
            yield self.processes.share(batch)

    def _begin_epoch(self) -> None:
        """Called before each epoch, once more where one is resumed: what depends on the history alone is set here."""

    def _carried(self) -> dict[str, Tensor]:
        """What goes from batch to batch beside weights, optimizer and generators. Called in every process."""
        return {}

    def _restore_carried(self, tensors: Mapping[str, Tensor]) -> None:
        """tensors: all of a checkpoint."""

    def _scoring(self) -> AbstractContextManager[Any]:
        """What the model is scored in, and the best weights are saved in."""
        return nullcontext()

    # ---------------------------------------------------------------- checkpoints

    def _save(self, name: str, carried: Mapping[str, Tensor] | None = None) -> None:
        tensors = {checkpoint.MODEL + key: weight for key, weight in self.model.state_dict().items()}
        if name == LAST:
            for index, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"{OPTIMIZER}{index}.{key}": value for key, value in values.items()}
            tensors |= carried or {}
            tensors[GENERATOR + "cpu"] = torch.get_rng_state()
            tensors[GENERATOR + "order"] = self.epoch_order
            if self.device.type == "cuda":
                tensors[GENERATOR + "cuda"] = torch.cuda.get_rng_state(self.device)
        at = {**asdict(self.progress), "sums": list(self.progress.sums)}
        progress = {**at, "history": self.history, "best": self.best}
        contents = {"progress": progress, "data": self.facts["data"], "device": self.device.type}
        if "pretrained" in self.facts:
            contents["pretrained"] = self.facts["pretrained"]
        checkpoint.save(self.out / name, Checkpoint(self.settings, self.words, tensors, contents))

    def _restore(self, found: Checkpoint[S]) -> None:
        try:
            check_progress(found.progress)
            at = dict(found.progress["progress"])
            self.history, self.best = at.pop("history"), at.pop("best")
            self.progress = Progress(**{**at, "sums": type(self.nothing)(*at["sums"])})
            found.load_into(self.model)
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in found.tensors.items():
                if name.startswith(OPTIMIZER):
                    index, _, key = name.removeprefix(OPTIMIZER).partition(".")
                    state.setdefault(int(index), {})[key] = tensor
            check_state(self.optimizer, state, OPTIMIZER)
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self._restore_carried(found.tensors)
            self.order.set_state(found.tensors[GENERATOR + "order"])
            torch.set_rng_state(found.tensors[GENERATOR + "cpu"])
            if self.device.type == "cuda" and GENERATOR + "cuda" in found.tensors:
                torch.cuda.set_rng_state(found.tensors[GENERATOR + "cuda"], self.device)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"cannot resume from the checkpoint in {self.out / LAST}: {why}") from error
