"""The optimizer of a run and its learning rates: one for all weights or one for each group, constant or a cycle.

A rate follows from the number of steps alone, so that a checkpoint need not hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.settings import FineTuningSettings
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop
from rnndrop_cuda.seminar.training.unfreezing import groups_of


def takes_sparse_gradients(settings: FineTuningSettings, device: torch.device) -> bool:
    """Whether the embedding had better have sparse gradients, of the words that a batch meets alone."""
    # On CUDA the host would wait for each step to say how many words it met; Adam takes none.
    return device.type == "cpu" and settings.optimizer == "RMSprop"


def make_optimizer(settings: FineTuningSettings, model: RNNClassifier) -> torch.optim.Optimizer:
    """Of all weights, those of a lower layer at a lower rate where layer_decay is not 1."""
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "RMSprop": LazyRMSprop,
        # Fused, since a step over one tensor after another takes four times as long on a CPU.
        "Adam": lambda weights, lr: torch.optim.Adam(weights, lr, fused=True),
    }
    weights: list[Any] = [*model.parameters()]  # the frozen ones have no gradient
    if settings.layer_decay != 1:
        weights = [
            {"params": group, "lr": settings.learning_rate * settings.layer_decay**depth}
            for depth, group in enumerate(groups_of(model))
        ]
    return makers[settings.optimizer](weights, lr=settings.learning_rate)


def cycle(optimizer: torch.optim.Optimizer, steps: int, done: int = 0) -> None:
    """Lets the rates rise to what they are and fall again over so many steps, of which so many are done."""
    schedule = OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps + 1,
        cycle_momentum="betas" in optimizer.defaults,  # RMSprop has none that could be cycled
    )
    if done:
        schedule.load_state_dict({**schedule.state_dict(), "last_epoch": done - 1, "_step_count": done + 1})
        schedule.step()
    optimizer.register_step_post_hook(lambda *_: schedule.step())
