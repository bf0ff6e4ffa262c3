"""`rnndrop train`: trains one review classifier, with checkpoints to resume from, by one process or under torchrun."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line
from rnndrop_cuda.seminar.commands.train_options import OUT, SETTINGS, given_options, make_parser
from rnndrop_cuda.seminar.settings import Layer, TrainSettings
from rnndrop_cuda.seminar.training import tensorboard
from rnndrop_cuda.seminar.training.batches import Batch
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, Checkpoint, read
from rnndrop_cuda.seminar.training.loop import Epoch, format_scores
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.trainer import BEST, LAST, Trainer

# Settings that may be others when a run is resumed: they say when it ends or is saved, not what is trained.
MAY_CHANGE = {"epochs", "patience", "checkpoint_every", "unverified_data"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop train argv...`; 0 done, 1 the loss is not finite, 2 wrong input or unwritable, 130 Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    processes = Processes()
    try:
        given = given_options(argv)
        trainer = _prepared(argv, given, processes)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        processes.stop()
        return _fail(processes, one_line(error, flags_of(make_parser("rnndrop train"))))
    try:
        _train(trainer, given.get("tensorboard", False))
    except OSError as error:
        return _fail(processes, f"writing to {trainer.out}: {error}")
    except FloatingPointError as error:
        return _fail(processes, str(error), 1)
    except KeyboardInterrupt:
        saved = (trainer.out / LAST / FILE_NAME).exists()
        how = f"resume from the last checkpoint with --resume {trainer.out}" if saved else "there is no checkpoint yet"
        return _fail(processes, f"stopped; {how}", 130)
    finally:
        processes.stop()
    return 0


def _prepared(argv: list[str], given: dict[str, Any], processes: Processes) -> Trainer:
    """All that can be wrong is found here, before training."""
    device = options.usable_device(_device_name(given.get("device", "auto"), processes))
    if given.get("tensorboard"):
        tensorboard.check_installed()
    processes.start(device)
    settings, out, resumed_from = processes.from_first(lambda: _open(given, processes.restarted))
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
        at = trainer.progress
        done = f"{at.epochs} of {settings.epochs} epochs and {at.batches} batches are done"
        print(f"rnndrop train: resuming from {out / LAST}: {done}", file=sys.stderr)
        if (written_on := resumed_from.progress["device"]) != device.type:
            print(
                f"rnndrop train: warning: the checkpoint was written on {written_on}; "
                "results will not be bit-identical",
                file=sys.stderr,
            )
    return trainer


def _train(trainer: Trainer, log_for_tensorboard: bool) -> None:
    """Trains to the end, with a progress bar and a line an epoch. Only the first of several processes says anything."""
    epochs, first = trainer.settings.epochs, trainer.processes.first
    steps = trainer.parts.steps_an_epoch
    log: AbstractContextManager[Callable[[Epoch], None]] = nullcontext(lambda epoch: None)
    if log_for_tensorboard and first:
        log = tensorboard.logging_to(trainer.out / "tensorboard", trainer.progress.epochs)
    done = trainer.progress.epochs * steps + trainer.progress.batches
    shown = None if first else True  # None: where there is a terminal
    with tqdm(total=epochs * steps, initial=done, unit="batch", disable=shown) as bar, log as write_events:

        def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
            bar.set_description(f"epoch {trainer.progress.epochs + 1}/{epochs}")
            for batch in batches:
                yield batch
                bar.update()

        for epoch in trainer.run(watched):
            if first:
                line = f"epoch {epoch.number}/{epochs}: {format_scores(epoch.scores)}, {epoch.seconds:.1f} s"
                bar.write(line, file=sys.stderr)
                write_events(epoch)
    if first:
        trainer.write_history()
        _print_end(trainer)


def _print_end(trainer: Trainer) -> None:
    best, epochs = trainer.best, trainer.progress.epochs
    assert best is not None
    early = f", stopped early: none better in {trainer.settings.patience}" if trainer.stopped_early else ""
    scores = ", ".join(
        f"{part} accuracy {best[f'{part}_accuracy']:.4f}, {part} loss {best[f'{part}_loss']:.4f}"
        for part in trainer.parts.scored
    )
    print(f"{epochs} epochs{early}; best: epoch {best['epoch']:.0f}, {scores}")
    print("written: " + ", ".join(str(trainer.out / name) for name in (BEST, LAST, "history.csv", "history.json")))


# ---------------------------------------------------------------- the run's folder


def _open(given: dict[str, Any], restarted: bool) -> tuple[TrainSettings, Path, Checkpoint | None]:
    """The run's settings and folder, and the checkpoint that it is resumed from, if any.

    restarted: by torchrun, with the command that had begun the run. Raises OSError and ValueError as read does, and
    where the folder cannot be written or has a run of other settings.
    """
    changes = {name: given[name] for name in SETTINGS if name in given}
    if "resume" in given:
        out = Path(given["resume"])
        if not (out / LAST).exists() and (out / FILE_NAME).is_file():
            raise ValueError(f"--resume {out}: name the run's folder, the one above")
        found = read(out / LAST)
        settings = dataclasses.replace(found.settings, **changes)
        _check_same(found.settings, settings, f"--resume {out}: its run has ", "")
    else:
        out = Path(given.get("out", OUT))
        if changes.get("variable_length"):
            changes.setdefault("maxlen", None)  # the default is one of reviews of one length
        settings = TrainSettings(**changes)
        if given.get("fresh") and not restarted:
            _keep_aside(out)
        found = None
        if (out / LAST / FILE_NAME).exists():
            found = read(out / LAST)
            _check_same(found.settings, settings, f"{out} holds a run with ", ": use another --out, or --fresh")
    settings.check()
    check_writable(out)
    return settings, out, found


def _check_same(of_run: TrainSettings, now: TrainSettings, before_them: str, after_them: str) -> None:
    """ValueError with the differences between these two texts, where there are any."""
    old, new = dataclasses.asdict(of_run), dataclasses.asdict(now)
    others = [name for name in SETTINGS if old[name] != new[name] and name not in MAY_CHANGE]
    if others:
        differences = ", ".join(f"{name} {old[name]!r}, not {new[name]!r}" for name in others)
        raise ValueError(f"{before_them}{differences}{after_them}")


def _keep_aside(out: Path) -> None:
    if any((out / name).exists() for name in (LAST, BEST)):
        aside = next(path for n in range(1, 10**6) if not (path := out.with_name(f"{out.name}.{n}")).exists())
        out.rename(aside)
        print(f"rnndrop train: the earlier run is kept as {aside}", file=sys.stderr)


def _device_name(name: str, processes: Processes) -> str:
    """Under torchrun each process of a machine has a GPU of its own."""
    if processes.ranks > 1 and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        return f"cuda:{processes.local_rank}"
    return name


def _check_shared(settings: TrainSettings) -> None:
    layer = Layer.parse(settings.layer)
    if layer.name == "MyLSTM" and layer.dropout:
        raise ValueError("--layer MyLSTM draws other masks in each process: use SemeniutaLSTM with several processes")


def _fail(processes: Processes, message: str, status: int = 2) -> int:
    return fail("train", message, status) if processes.first else status
