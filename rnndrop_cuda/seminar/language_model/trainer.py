"""A run of `rnndrop language-model train`: model, optimizer, pieces of text and the state carried between them.

What keeps a run alive is in training/run.py. The test text is not looked at here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.language_model.pieces import Pieces
from rnndrop_cuda.seminar.language_model.scores import NO_TOKENS, Reader, TextScore
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.language_model.text import Text
from rnndrop_cuda.seminar.training.batches import TRAIN, VALIDATION
from rnndrop_cuda.seminar.training.checkpoint import Checkpoint
from rnndrop_cuda.seminar.training.loop import Epoch
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.run import Row, Run

STATE = "state."


class LanguageModelTrainer(Run[LanguageModelSettings]):
    """One run. Arguments and errors are Run's, and ValueError where there are more processes than rows."""

    score_fields = TextScore._fields
    nothing = NO_TOKENS
    lossfun = nn.Identity()  # the model's head has the loss

    def __init__(
        self,
        settings: LanguageModelSettings,
        text: Text,
        device: torch.device,
        processes: Processes,
        out: Path,
        facts: dict[str, Any],
        resumed_from: Checkpoint[LanguageModelSettings] | None = None,
    ) -> None:
        self.train_batches: Pieces = Pieces(text.parts[TRAIN], settings.batch_size, settings.bptt, device)
        self.scored: dict[str, Pieces] = {
            VALIDATION: Pieces(text.parts[VALIDATION], settings.batch_size, settings.bptt, device)
        }
        rows = min(len(pieces.ids) for pieces in (self.train_batches, self.scored[VALIDATION]))
        if rows < processes.ranks:
            raise ValueError(
                f"batch_size: expected a row of text for each of {processes.ranks} processes, got {rows} rows"
            )
        self.reader = Reader(settings.loss_over)
        self.reader.whole = processes.whole
        model = settings.build(len(text.words)).to(device)
        super().__init__(
            settings, text.words, model, make_optimizer(settings, model), device, processes, out, facts, resumed_from
        )
        self.measure = self.reader.measure
        self.forward = self.model
        # An adaptive softmax leaves out the clusters that a piece has no word of.
        self.training_forward = processes.join(self.model, find_unused=settings.head == "adaptive")

    @property
    def steps_an_epoch(self) -> int:
        return len(self.train_batches) + sum(map(len, self.scored.values()))

    def line(self, epoch: Epoch) -> str:
        return f"{super().line(epoch)}, {self.train_batches.tokens / epoch.training_seconds:,.0f} tokens/s in training"

    def _value(self, row: Row) -> float:
        return -row[f"{VALIDATION}_loss"]

    def _begin_epoch(self) -> None:
        """The learning rate of the epoch, and from where on the weights are averaged."""
        settings = self.settings
        losses = [row[f"{VALIDATION}_loss"] for row in self.history]
        averaged_from = averaging_begins(losses, settings.nonmono) if settings.optimizer == "nt-asgd" else None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, losses)
            if settings.optimizer == "nt-asgd":
                group["t0"] = math.inf if averaged_from is None else averaged_from * len(self.train_batches)
        self.averages = averaged_from is not None

    def _carried(self) -> dict[str, Tensor]:
        whole = self.processes.all_rows(self.reader.state, 1)
        return {f"{STATE}{k}": tensor for k, tensor in enumerate(whole)}

    def _restore_carried(self, tensors: Mapping[str, Tensor]) -> None:
        found = [tensors[f"{STATE}{k}"] for k in range(sum(name.startswith(STATE) for name in tensors))]
        rows = self.processes.rows_of(len(self.train_batches.ids))
        self.reader.state = [tensor[:, rows].to(self.device) for tensor in found]

    def _scoring(self) -> AbstractContextManager[Any]:
        return self._averaged() if self.averages else nullcontext()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with the averages of its weights in their place."""
        kept = {weight: weight.detach().clone() for weight in self.model.parameters()}
        try:
            with torch.no_grad():
                for weight in kept:
                    weight.copy_(self.optimizer.state[weight]["ax"])
            yield
        finally:
            with torch.no_grad():
                for weight, value in kept.items():
                    weight.copy_(value)


def learning_rate(settings: LanguageModelSettings, losses: Sequence[float]) -> float:
    """Of the next epoch, by the validation losses of those before it."""
    lowest = list(itertools.accumulate(losses, min))
    no_lower = sum(losses[k] >= lowest[k - 1] for k in range(max(1, settings.anneal_after), len(losses)))
    decays = max(0, len(losses) + 1 - settings.decay_after)
    return settings.learning_rate / settings.decay**decays / settings.anneal**no_lower


def averaging_begins(losses: list[float], nonmono: int) -> int | None:
    """The epochs after which NT-ASGD averages, by the validation losses so far; None: it does not yet.

    Merity et al., arXiv 1708.02182, algorithm 1: when a loss is worse than the best of those before the last `nonmono`.
    """
    for k in range(nonmono + 1, len(losses)):
        if losses[k] > min(losses[: k - nonmono]):
            return k + 1
    return None


def make_optimizer(settings: LanguageModelSettings, model: nn.Module) -> torch.optim.Optimizer:
    options: Any = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        # Fused, since a step over one tensor after another takes a third of the whole on a CPU.
        "adam": lambda: torch.optim.Adam(model.parameters(), **options, fused=True),
        "sgd": lambda: torch.optim.SGD(model.parameters(), **options, fused=True),
        # Until it averages, and in its steps, it is SGD.
        "nt-asgd": lambda: torch.optim.ASGD(model.parameters(), lambd=0.0, t0=math.inf, **options),
    }
    return makers[settings.optimizer]()
