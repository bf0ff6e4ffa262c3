"""What the commands' options have in common: a parser that errs in one line, files of options, bounds, devices."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import torch

from rnndrop_cuda.seminar.settings import COUNTS, LARGEST, Layer

FORMATS = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


class WrongValueError(argparse.ArgumentTypeError, ValueError):
    """argparse shows the text of the first kind; jsonargparse, for a value in a file, that of the second."""


class Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line, with exit code 2. Under torchrun only the first process says it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, print_config=None, **settings)
        self.file: Path | None = None  # of options, as ConfigFile found it
        self.reads_file = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(message.replace('in "<unicode string>", ', "").split())
        message = re.sub(r"Expected a <class 'str'>. Got value: (.*)$", r"expected text, got \1", message)
        message = re.sub(r'^Parser key "(\w+)"', lambda key: "--" + key[1].replace("_", "-"), message)
        message = re.sub(r"^argument (--[\w-]+)[^:]*", r"\1", message)
        if unknown := re.fullmatch(r"Option '(.+)' is not accepted", message):
            message = f"--config {self.file}: unknown key {unknown[1]!r}; {self._nearest_key(unknown[1])}"
        if message.startswith("Unexpected config"):
            message = "expected keys and values, such as batch_size"
        if self.reads_file:
            message = f"--config {self.file}: {message}"
        if os.environ.get("RANK", "0") == "0":
            print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)

    def _nearest_key(self, unknown: str) -> str:
        keys = [action.dest for action in self._actions if action.dest not in ("help", "config")]
        nearest = difflib.get_close_matches(unknown.replace("-", "_"), keys, 1)
        return f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(keys)}"


class ConfigFile(jsonargparse.ActionConfigFile):
    """--config FILE: options from a TOML or YAML file, under their long names; flags win over it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        parser.file, parser.reads_file = Path(values), True
        if not parser.file.is_file():
            parser.error("there is no such file")
        if parser.file.suffix not in FORMATS:
            parser.error("its name must end in .toml, .yaml or .yml")
        parser.parser_mode = FORMATS[parser.file.suffix]
        super().__call__(parser, namespace, values, option_string)
        parser.reads_file = False


def add_config(group: argparse._ActionsContainer) -> None:
    """The option of every command that has many."""
    group.add_argument(
        "--config", action=ConfigFile, metavar="FILE", help="options from a TOML or YAML file; flags win over it"
    )


class Switch(argparse.BooleanOptionalAction):
    """--name and --no-name; true or false in a file."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.type = true_or_false


def true_or_false(given: Any) -> bool:
    """An argparse type, of a value in a file."""
    if not isinstance(given, bool):
        raise WrongValueError(f"expected true or false, got {given!r}")
    return given


def number(kind: type, expected: str, holds: Callable[[Any], bool]) -> Any:
    """An argparse type: text, or what a file holds, to a number of `kind` for which `holds` is true."""

    def parse(given: Any) -> Any:
        value = math.nan  # holds for nothing
        if isinstance(given, (str, int, kind)) and not isinstance(given, bool):
            with contextlib.suppress(ValueError):
                value = kind(given)
        if not holds(value):
            raise WrongValueError(f"expected {expected}, got {given!r}")
        return value

    return parse


def _count(name: str) -> Any:
    """An argparse type: what the setting of that name may be."""
    least, most = COUNTS[name]
    return number(int, f"a whole number from {least:,} to {most:,}", lambda value: least <= value <= most)


whole = number(int, "a whole number of at least 0", lambda value: value >= 0)
positive = number(int, "a whole number of at least 1", lambda value: value >= 1)
seed = number(int, "a whole number in [0, 2**63)", lambda value: 0 <= value < 2**63)
vocab_size, num_layers = map(_count, ("vocab_size", "num_layers"))
above_0 = number(float, f"a finite number above 0 and at most {LARGEST:g}", lambda value: 0 < value <= LARGEST)
probability = number(float, "a probability in [0, 1)", lambda value: 0 <= value < 1)


def layer(given: Any) -> Layer:
    """An argparse type: "Name" or "Name:p". A Layer is one already: defaults come here, too."""
    try:
        return given if isinstance(given, Layer) else Layer.parse(str(given))
    except ValueError as error:
        raise WrongValueError(str(error)) from error


def add_run_folder(group: argparse._ArgumentGroup, out: str) -> None:
    """Where a run with checkpoints lies, and what it runs on. out: the folder where none is given."""
    where = group.add_mutually_exclusive_group()
    where.add_argument("--out", type=str, metavar="DIR", help=f"the run's folder (default: {out})")
    where.add_argument("--resume", type=str, metavar="DIR", help="resume the run in DIR, with its settings")
    add = group.add_argument
    add("--fresh", action="store_true", help="start anew; an earlier run in the folder is kept under another name")
    add_device(group)
    add("--tensorboard", action=Switch, help="log for TensorBoard, in DIR/tensorboard")


def add_device(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--device", type=str, default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)"
    )


def add_checkpoint(parser: argparse.ArgumentParser, out: str) -> None:
    """What a trained model is read from. out: the folder where none is given."""
    what = "the folder of a run (uses its best checkpoint) or of a checkpoint"
    parser.add_argument("--checkpoint", type=str, default=out, metavar="DIR", help=f"{what} (default: {out})")


def add_unverified_data(group: argparse._ActionsContainer, action: Any = "store_true") -> None:
    group.add_argument(
        "--unverified-data",
        action=action,
        default=None,
        help="accept an npz whose hash is not that of Keras' file; its pickles are not executed either way",
    )


def add_number(settings: Any, group: argparse._ArgumentGroup, name: str, kind: Any, metavar: str, what: str) -> None:
    """The option that sets the field `name` of a run's settings; the default, that of `settings`, is only shown."""
    _add_field(settings, group, name, what, type=kind, metavar=metavar)


def add_choice(settings: Any, group: argparse._ArgumentGroup, name: str, choices: Iterable[str], what: str) -> None:
    """As add_number, one of several words."""
    _add_field(settings, group, name, what, choices=tuple(choices))


def _add_field(settings: Any, group: argparse._ArgumentGroup, name: str, what: str, **how: Any) -> None:
    default = getattr(settings, name)
    shown = f"(default: {'none' if default is None else default})"
    group.add_argument("--" + name.replace("_", "-"), help=f"{what} {shown}", **how)


def add_parts(group: argparse._ActionsContainer) -> None:
    """How many reviews a comparison or a study trains and is scored on."""
    group.add_argument("--reviews", type=positive, metavar="N", help="train on the first N reviews, test on N/4")
    group.add_argument(
        "--validation",
        type=positive,
        metavar="N",
        help="hold out the last N training reviews and score on them; the test reviews are not used",
    )


def given(parser: Parser, argv: list[str]) -> dict[str, Any]:
    """The options that were given, by flags or in the file that --config names; flags win, and null is not given."""
    return {name: value for name, value in vars(parser.parse_args(argv, defaults=False)).items() if value is not None}


def usable_device(name: str) -> torch.device:
    """The device of that name; of "auto" the GPU where there is one. Raises ValueError where it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a CPU-only torch asserts
        raise ValueError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device
