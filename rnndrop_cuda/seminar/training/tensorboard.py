"""An epoch's scores and seconds for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rnndrop_cuda.seminar.training.loop import Epoch


def check_installed() -> None:
    """ModuleNotFoundError, naming the extra, where TensorBoard is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tensorboard: expected the package to be installed: from the checkout, pip install '.[tensorboard]'"
        ) from error


@contextmanager
def logging_to(folder: Path, epochs_done: int) -> Iterator[Callable[[Epoch], None]]:
    """What writes an epoch's events into the folder; events of later epochs than those done, which a kill undid, go."""
    from torch.utils.tensorboard import SummaryWriter  # of an extra

    writer: Any = SummaryWriter(str(folder), purge_step=epochs_done + 1)
    with writer:

        def log(epoch: Epoch) -> None:
            for part, score in epoch.scores.items():
                for what, value in score._asdict().items():
                    writer.add_scalar(f"{what}/{part}", value, epoch.number)
            writer.add_scalar("seconds", epoch.seconds, epoch.number)
            writer.flush()

        yield log
