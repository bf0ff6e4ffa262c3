"""`rnndrop train`: trains one review classifier, with checkpoints to resume from, by one process or under torchrun."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options, runs
from rnndrop_cuda.seminar.commands.errors import flags_of, one_line
from rnndrop_cuda.seminar.commands.train_options import OUT, make_parser
from rnndrop_cuda.seminar.settings import Layer, TrainSettings
from rnndrop_cuda.seminar.training import tensorboard
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.start import sizes_of
from rnndrop_cuda.seminar.training.trainer import LAST, Trainer

# Settings that may be others when a run is resumed: they say when it ends or is saved, not what is trained.
MAY_CHANGE = {"epochs", "patience", "checkpoint_every", "unverified_data"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop train argv...`; 0 done, 1 the loss is not finite, 2 wrong input or unwritable, 130 Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    processes = Processes()
    try:
        given = options.given(make_parser(), argv)
        trainer = _prepared(argv, given, processes)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        processes.stop()
        return runs.fail_once(processes, "train", one_line(error, flags_of(make_parser())))
    return runs.train_to_the_end(trainer, given.get("tensorboard", False), "accuracy, loss")


def _prepared(argv: list[str], given: dict[str, Any], processes: Processes) -> Trainer:
    """All that can be wrong is found here, before training."""
    device = options.usable_device(runs.device_name(given.get("device", "auto"), processes))
    if given.get("tensorboard"):
        tensorboard.check_installed()
    processes.start(device)
    settings, out, resumed_from = processes.from_first(
        lambda: runs.open_run(_completed(given), TrainSettings, OUT, MAY_CHANGE, processes.restarted)
    )
    if resumed_from is not None and settings.one_cycle and settings.epochs != resumed_from.settings.epochs:
        raise ValueError(
            f"--epochs: expected {resumed_from.settings.epochs} as before, over which --one-cycle plans the learning "
            f"rate, got {settings.epochs}"
        )
    reviews = settings.load().first(settings.reviews)
    data = reviews.described()
    if resumed_from is not None and (resumed_from.words != reviews.words or resumed_from.progress.get("data") != data):
        raise ValueError(f"--data {settings.data} is no longer what the checkpoint in {out / LAST} was trained on")
    if processes.ranks > 1:
        _check_shared(settings)
    trainer = Trainer(
        settings,
        reviews,
        device,
        processes,
        out,
        {**facts(device, shlex.join(["rnndrop", "train", *argv])), "processes": processes.ranks, "data": data},
        resumed_from,
    )
    if resumed_from is not None and processes.first:
        runs.say_resumed(trainer, resumed_from)
    return trainer


def _completed(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, and those that follow from them. Errors as sizes_of's."""
    if "resume" in given:
        return given
    implied: dict[str, Any] = {}
    if given.get("variable_length"):
        implied["maxlen"] = None  # the default is one of reviews of one length
    if "pretrained" in given:
        implied |= sizes_of(given["pretrained"])
    return {**implied, **given}


def _check_shared(settings: TrainSettings) -> None:
    if settings.gradual_unfreezing:
        raise ValueError("--gradual-unfreezing: expected one process, since several must know what is trained")
    if settings.loss_reduction != "sum":
        raise ValueError("--loss-reduction: expected sum, since the gradients of several processes are added up")
    layer = Layer.parse(settings.layer)
    if layer.name == "MyLSTM" and layer.dropout:
        raise ValueError("--layer MyLSTM draws other masks in each process: use SemeniutaLSTM with several processes")
