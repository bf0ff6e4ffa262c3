"""The loop of `rnndrop train`: epochs, checkpoints, going on from one, early stopping and the history.

All that the next weights depend on is in a checkpoint: weights, optimizer, torch's generators, the order of the epoch
in flight and how many of its batches are done. So a run that was killed goes on as if nothing had been, bit for bit.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.data.reviews import PADDING, START, UNKNOWN, Reviews
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training import checkpoint
from rnndrop_cuda.seminar.training.checkpoint import Checkpoint
from rnndrop_cuda.seminar.training.loop import Batch, Score, Sums, batches_of, format_scores, run_batches
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop

LAST, BEST = "last", "best"  # folders in that of the run
OPTIMIZER, GENERATOR = "optimizer.", "generator."
NO_SUMS = Sums(0.0, 0, 0)
TRAIN, VALIDATION, TEST = "train", "val", "test"


@dataclass
class Progress:
    """How far training is. batches, sums and seconds are of the epoch in flight; best is one of history's rows."""

    epochs: int = 0
    batches: int = 0
    sums: Sums = NO_SUMS
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None

    @classmethod
    def of(cls, found: dict[str, Any]) -> Progress:
        """From a checkpoint's JSON."""
        return cls(**{**found, "sums": Sums(*found["sums"])})


class Trainer:
    """One run.

    out: the run's folder. facts: what history.json says of the machine and the data. goes_on_from: a checkpoint of a
    run of the same settings, but for what may change. tensorboard: whether to log into out/tensorboard as well.
    """

    def __init__(
        self,
        settings: TrainSettings,
        reviews: Reviews,
        device: torch.device,
        processes: Processes,
        out: Path,
        facts: dict[str, Any],
        goes_on_from: Checkpoint | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.settings, self.words, self.device, self.processes = settings, reviews.words, device, processes
        self.out, self.facts, self.tensorboard = out, facts, tensorboard
        # On CUDA the host would wait for each step to say how many words it met; DDP and torch.compile want dense ones.
        sparse = device.type == "cpu" and processes.ranks == 1 and settings.compile is None
        self.model = settings.build(sparse=sparse)
        if goes_on_from is None:
            settings.load_pretrained(self.model, reviews.words)
        self.model.to(device)
        self.optimizer = LazyRMSprop(self.model.parameters(), lr=settings.learning_rate)
        self.lossfun = nn.BCELoss(reduction="sum")
        self.order = torch.Generator().manual_seed(settings.seed)
        self.progress = Progress()
        torch.manual_seed(settings.seed)
        if goes_on_from is not None:
            self._restore(goes_on_from)
        self.epoch_order = self.order.get_state()

        reviews, X_val, y_val = reviews.hold_out(settings.validation)
        self.train_batches = batches_of(reviews.X_train, reviews.y_train, settings.batch_size, device, self.order)
        self.scored = {TEST: batches_of(reviews.X_test, reviews.y_test, settings.batch_size, device)}
        if settings.validation is not None:
            self.scored = {VALIDATION: batches_of(X_val, y_val, settings.batch_size, device), **self.scored}
        self.forward = _Forward(self.model, device.type, settings.autocast)
        if settings.compile is not None:
            self.forward.compile(backend=settings.compile)
        self.training_forward = processes.join(self.forward)

    @property
    def columns(self) -> list[str]:
        """Of the history: the keys of its rows."""
        scores = [f"{part}_{what}" for part in (TRAIN, *self.scored) for what in Score._fields]
        return ["epoch", *scores, "seconds"]

    @property
    def monitored(self) -> str:
        """The part of the reviews that chooses the best epoch."""
        return next(iter(self.scored))

    @property
    def stopped_early(self) -> bool:
        """Whether as many epochs as patience says have passed since the best."""
        best, patience = self.progress.best, self.settings.patience
        return best is not None and patience is not None and self.progress.epochs - best["epoch"] >= patience

    def run(self) -> None:
        """Trains to the end.

        Raises OSError where a checkpoint or the history cannot be written, FloatingPointError where the loss is no
        number any more.
        """
        epochs, progress = self.settings.epochs, self.progress
        steps = len(self.train_batches) + sum(map(len, self.scored.values()))
        done = progress.epochs * steps + progress.batches
        shown = None if self.processes.first else True  # None: where there is a terminal
        with tqdm(total=epochs * steps, initial=done, unit="batch", disable=shown) as bar, self._log() as log:
            while progress.epochs < epochs and not self.stopped_early:
                bar.set_description(f"epoch {progress.epochs + 1}/{epochs}")
                row = self._epoch(bar)
                if self.processes.first:
                    scores = format_scores(**{part: self._score(part, row) for part in (TRAIN, *self.scored)})
                    line = f"epoch {progress.epochs}/{epochs}: {scores}, {row['seconds']:.1f} s"
                    bar.write(line, file=sys.stderr)
                    log(row)

    def write_history(self) -> None:
        """history.json and history.csv, whole."""
        progress = self.progress
        contents = {
            "facts": self.facts,
            "settings": asdict(self.settings),
            "stopped early": self.stopped_early,
            "best": progress.best,
            "epochs": progress.history,
        }
        write_whole(self.out / "history.json", (json.dumps(contents, indent=1) + "\n").encode())
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns)
        writer.writeheader()
        writer.writerows(progress.history)
        write_whole(self.out / "history.csv", table.getvalue().encode())

    def _epoch(self, bar: tqdm) -> dict[str, float]:
        """What is left of the epoch in flight, its evaluation, and all that is written of it; its row."""
        settings, progress = self.settings, self.progress
        self.epoch_order = self.order.get_state()
        batches = iter(self.train_batches)
        deque(itertools.islice(batches, progress.batches), maxlen=0)  # done before the run was cut short
        count = len(self.train_batches)
        while progress.batches < count:
            start = time.perf_counter()
            n = min(settings.checkpoint_every or count, count - progress.batches)
            self.training_forward.train()
            fed = self._fed(itertools.islice(batches, n), bar, settings.word_dropout)
            model, optimizer = self.training_forward, self.optimizer
            sums = run_batches(fed, model, self.lossfun, self.device, optimizer, settings.clip)
            sums = self.processes.total(sums)
            if not math.isfinite(sums.loss):
                raise FloatingPointError(
                    f"the training loss is {sums.loss} in epoch {progress.epochs + 1}: try a smaller --learning-rate, "
                    f"or --clip; the checkpoint before it is kept in {self.out / LAST}"
                )
            progress.sums = progress.sums.plus(sums)
            progress.batches += n
            progress.seconds += time.perf_counter() - start
            if progress.batches < count and self.processes.first:
                self._save(LAST)

        start = time.perf_counter()
        scores = [*progress.sums.score()]
        self.forward.eval()
        for part in self.scored.values():
            with torch.no_grad():
                sums = run_batches(self._fed(part, bar, 0.0), self.forward, self.lossfun, self.device)
            scores += self.processes.total(sums).score()
        seconds = progress.seconds + time.perf_counter() - start
        row = dict(zip(self.columns, (progress.epochs + 1, *scores, seconds), strict=True))
        self._end_epoch(row)
        return row

    def _end_epoch(self, row: dict[str, float]) -> None:
        progress = self.progress
        better = progress.best is None or self._value(row) > self._value(progress.best)
        progress.history.append(row)
        progress.best = row if better else progress.best
        progress.epochs, progress.batches, progress.sums, progress.seconds = (
            progress.epochs + 1,
            0,
            NO_SUMS,
            0.0,
        )
        self.epoch_order = self.order.get_state()
        if not self.processes.first:
            return
        if better:  # before the last: killed in between, this epoch is run and the best written again
            self._save(BEST)
        self._save(LAST)
        self.write_history()

    @staticmethod
    def _score(part: str, row: dict[str, float]) -> Score:
        return Score(row[f"{part}_loss"], row[f"{part}_accuracy"])

    def _value(self, row: dict[str, float]) -> float:
        score = self._score(self.monitored, row)
        return score.accuracy if self.settings.monitor == "accuracy" else -score.loss

    def _fed(self, batches: Iterable[Batch], bar: tqdm, word_dropout: float) -> Iterator[Batch]:
        """This process' shares of the batches. Words are dropped before sharing: every process draws the same."""
        for ids, labels, *lengths in batches:
            if word_dropout:
                ids = drop_words(ids, word_dropout)
            yield self.processes.share((ids, labels, lengths[0]) if lengths else (ids, labels))
            bar.update()

    def _save(self, name: str) -> None:
        tensors = {checkpoint.MODEL + key: weight for key, weight in self.model.state_dict().items()}
        if name == LAST:
            for index, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"{OPTIMIZER}{index}.{key}": value for key, value in values.items()}
            tensors[GENERATOR + "cpu"] = torch.get_rng_state()
            tensors[GENERATOR + "order"] = self.epoch_order
            if self.device.type == "cuda":
                tensors[GENERATOR + "cuda"] = torch.cuda.get_rng_state(self.device)
        progress = {**asdict(self.progress), "sums": list(self.progress.sums)}
        contents = {"progress": progress, "data": self.facts["data"], "device": self.device.type}
        checkpoint.save(self.out / name, Checkpoint(self.settings, self.words, tensors, contents))

    def _restore(self, found: Checkpoint) -> None:
        """Raises ValueError where the checkpoint's tensors or progress are not those of a run to go on with."""
        try:
            self.progress = Progress.of(found.progress["progress"])
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
            raise ValueError(f"the checkpoint in {self.out / LAST} cannot be gone on with: {why}") from error

    @contextmanager
    def _log(self) -> Iterator[Callable[[dict[str, float]], None]]:
        """What writes an epoch's row for TensorBoard; events of epochs that a kill undid are purged."""
        if not self.tensorboard or not self.processes.first:
            yield lambda row: None
            return
        from torch.utils.tensorboard import SummaryWriter  # of an extra

        writer: Any = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.progress.epochs + 1)
        with writer:

            def log(row: dict[str, float]) -> None:
                for name in self.columns[1:]:
                    part, _, what = name.partition("_")
                    writer.add_scalar(f"{what}/{part}" if what else name, row[name], int(row["epoch"]))
                writer.flush()

            yield log


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
