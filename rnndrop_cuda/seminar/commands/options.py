"""What the options of the commands have in common: a parser that errs in one line, numbers within bounds, devices."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from rnndrop_cuda.seminar.settings import Layer


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit code 2. Under torchrun only the first process says it."""

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":
            print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


def number(kind: type, expected: str, holds: Callable[[Any], bool]) -> Any:
    """An argparse type: text to a number of `kind` for which `holds` is true."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # holds for nothing
        if not holds(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return parse


whole = number(int, "a whole number of at least 0", lambda value: value >= 0)
positive = number(int, "a whole number of at least 1", lambda value: value >= 1)
seed = number(int, "a whole number in [0, 2**63)", lambda value: 0 <= value < 2**63)
vocab_size = number(int, "a whole number of at least 4", lambda value: value >= 4)
above_0 = number(float, "a finite number above 0", lambda value: 0 < value < math.inf)
probability = number(float, "a probability in [0, 1]", lambda value: 0 <= value <= 1)


def layer(text: str) -> Layer:
    """An argparse type: "Name" or "Name:p"."""
    try:
        return Layer.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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
