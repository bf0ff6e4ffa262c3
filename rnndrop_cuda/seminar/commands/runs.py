"""What the commands that train with checkpoints share: a run's folder, its progress bar, and how it ends."""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.seminar.commands.errors import fail, one_line
from rnndrop_cuda.seminar.training import tensorboard
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, Checkpoint, read_of
from rnndrop_cuda.seminar.training.loop import Epoch
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.run import BEST, LAST, ResumableSettings, Run

S = TypeVar("S", bound=ResumableSettings)


def open_run(
    given: dict[str, Any], kind: type[S], out: str, may_change: Collection[str], restarted: bool
) -> tuple[S, Path, Checkpoint[S] | None]:
    """The run's settings and folder, and the checkpoint that it is resumed from, if any.

    given: the options that were given. kind: of the settings. out: the folder where none is given. may_change: settings
    that may be others when a run is resumed. restarted: by torchrun, with the command that had begun the run. Raises
    OSError and ValueError as read_of does, and where the folder cannot be written or has a run of other settings.
    """
    changes = {field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given}
    if "resume" in given:
        folder = Path(given["resume"])
        if not (folder / LAST).exists() and (folder / FILE_NAME).is_file():
            raise ValueError(f"--resume {folder}: name the run's folder, the one above")
        found = read_of(folder / LAST, kind)
        settings = dataclasses.replace(found.settings, **changes)
        settings.check()
        _check_same(found.settings, settings, may_change, f"--resume {folder}: its run has ", "")
    else:
        folder = Path(given.get("out", out))
        settings = kind(**changes)
        settings.check()
        if given.get("fresh") and not restarted:
            _keep_aside(folder, kind.COMMAND)
        found = None
        if (folder / LAST / FILE_NAME).exists():
            found = read_of(folder / LAST, kind)
            before, after = f"{folder} holds a run with ", ": use another --out, or --fresh"
            _check_same(found.settings, settings, may_change, before, after)
    check_writable(folder)
    return settings, folder, found


def train_to_the_end(run: Run[S], log_for_tensorboard: bool, monitored: str) -> int:
    """Trains with a progress bar and a line an epoch; 0 done, 1 the loss is not finite, 2 unwritable, 130 Ctrl-C.

    monitored: the scores of the best epoch that are told at the end, as "accuracy, loss". Only the first of several
    processes says anything.
    """
    command, processes = run.settings.COMMAND, run.processes
    try:
        _train(run, log_for_tensorboard)
    except OSError as error:
        return fail_once(processes, command, f"writing to {run.out}: {one_line(error, {})}")
    except FloatingPointError as error:
        return fail_once(processes, command, str(error), 1)
    except KeyboardInterrupt:
        saved = (run.out / LAST / FILE_NAME).exists()
        how = f"resume from the last checkpoint with --resume {run.out}" if saved else "there is no checkpoint yet"
        return fail_once(processes, command, f"stopped; {how}", 130)
    finally:
        processes.stop()
    if processes.first:
        run.write_history()
        _print_end(run, monitored.split(", "))
    return 0


def say_resumed(run: Run[S], resumed_from: Checkpoint[S]) -> None:
    """What is done already, and where the bits will not be the same; ValueError where it is more than there is."""
    at, command = run.progress, run.settings.COMMAND
    if at.batches and at.batches >= (batches := operator.length_hint(run.train_batches)):
        raise ValueError(f"cannot resume: the checkpoint says {at.batches} batches of an epoch that has {batches}")
    if run.best is not None and (missing := set(run.columns) - run.best.keys()):
        raise ValueError(f"cannot resume: the checkpoint's history lacks {', '.join(sorted(missing))}")
    done = f"{at.epochs} of {run.settings.epochs} epochs and {at.batches} batches are done"
    print(f"rnndrop {command}: resuming from {run.out / LAST}: {done}", file=sys.stderr)
    if (written_on := resumed_from.progress["device"]) != run.device.type:
        print(
            f"rnndrop {command}: warning: the checkpoint was written on {written_on}; "
            "results will not be bit-identical",
            file=sys.stderr,
        )


def device_name(name: str, processes: Processes) -> str:
    """Under torchrun each process of a machine has a GPU of its own."""
    if processes.ranks > 1 and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        return f"cuda:{processes.local_rank}"
    return name


def fail_once(processes: Processes, command: str, message: str, status: int = 2) -> int:
    """As fail; only the first of several processes says it."""
    return fail(command, message, status) if processes.first else status


def _train(run: Run[S], log_for_tensorboard: bool) -> None:
    epochs, first, steps = run.settings.epochs, run.processes.first, run.steps_an_epoch
    log: AbstractContextManager[Callable[[Epoch], None]] = nullcontext(lambda epoch: None)
    if log_for_tensorboard and first:
        log = tensorboard.logging_to(run.out / "tensorboard", run.progress.epochs)
    done = run.progress.epochs * steps + run.progress.batches
    shown = None if first else True  # None: where there is a terminal
    with tqdm(total=epochs * steps, initial=done, unit="batch", disable=shown) as bar, log as write_events:

        def watched(batches: Iterable[Any]) -> Iterator[Any]:
            bar.set_description(f"epoch {run.progress.epochs + 1}/{epochs}")
            for batch in batches:
                yield batch
                bar.update()

        for epoch in run.run(watched):
            if first:
                bar.write(f"epoch {epoch.number}/{epochs}: {run.line(epoch)}", file=sys.stderr)
                write_events(epoch)


def _print_end(run: Run[S], monitored: list[str]) -> None:
    best, epochs = run.best, run.progress.epochs
    assert best is not None
    early = f", stopped early: none better in {run.settings.patience}" if run.stopped_early else ""
    scores = ", ".join(f"{part} {what} {best[f'{part}_{what}']:.4f}" for part in run.scored for what in monitored)
    print(f"{epochs} epoch{'s' * (epochs != 1)}{early}; best: epoch {best['epoch']:.0f}, {scores}")
    print("written: " + ", ".join(str(run.out / name) for name in (BEST, LAST, "history.csv", "history.json")))


def _check_same(of_run: S, now: S, may_change: Collection[str], before_them: str, after_them: str) -> None:
    """ValueError with the differences between these two texts, where there are any."""
    old, new = dataclasses.asdict(of_run), dataclasses.asdict(now)
    others = [name for name in old if old[name] != new[name] and name not in may_change]
    if others:
        differences = ", ".join(f"{name} {_shown(old[name])}, not {_shown(new[name])}" for name in others)
        raise ValueError(f"{before_them}{differences}{after_them}")


def _shown(value: object) -> str:
    return "not given" if value is None else repr(value)


def _keep_aside(out: Path, command: str) -> None:
    if any((out / name).exists() for name in (LAST, BEST)):
        if out.name in ("", ".."):
            raise ValueError(f"out: expected a folder by its name, as the earlier run is renamed, got {out}")
        aside = next(path for n in range(1, 10**6) if not (path := out.with_name(f"{out.name}.{n}")).exists())
        out.rename(aside)
        print(f"rnndrop {command}: the earlier run is kept as {aside}", file=sys.stderr)
