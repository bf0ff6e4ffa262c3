"""A command run as from the command line, and what it says when something is wrong."""

from collections.abc import Callable

import pytest


def status(main: Callable[[list[str]], int], *arguments: object) -> int:
    """The exit status of the command, argparse's included."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, all of it one line of stderr."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err
