"""How the commands say what is wrong: one line, in the words of the command line.

The libraries' errors name fields and arguments, `reviews: expected ..., got ...`; here such a name becomes its flag.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping

from rnndrop_cuda.seminar.data.download import UnverifiedError
from rnndrop_cuda.seminar.training.checkpoint import NoCheckpointError


def flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The flag that sets each field: {"vocab_size": "--vocab-size", ...}; the first where several set the same."""
    flags: dict[str, str] = {}
    for action in parser._actions:  # argparse has no public list of them
        long = [option for option in action.option_strings if option.startswith("--")]
        if long:
            flags.setdefault(action.dest, long[0])  # of a switch, not --no-...
    return flags


def one_line(error: Exception, flags: Mapping[str, str]) -> str:
    """What the error says, on one line; a field's name that it begins with, as in "reviews: ...", becomes its flag."""
    message = " ".join(_message_of(error).splitlines())
    if isinstance(error, UnverifiedError) and "unverified_data" in flags:
        message += f"; {flags['unverified_data']} takes it as it is"
    if isinstance(error, NoCheckpointError):
        message += f"; `rnndrop {error.command}` makes one"
        if error.command == "train":
            message += ", `rnndrop train --data rotten-tomatoes --epochs 3` in a minute"
    return re.sub(r"^(\w+)(?=: )", lambda name: flags.get(name[1], name[1]), message)


def _message_of(error: Exception) -> str:
    """Of what the system refused, such as a file that may not be read: the file and the reason, and no number."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def fail(command: str, message: str, status: int = 2) -> int:
    """Prints `rnndrop COMMAND: MESSAGE` to stderr and returns the exit status."""
    print(f"rnndrop {command}: {message}", file=sys.stderr)
    return status
