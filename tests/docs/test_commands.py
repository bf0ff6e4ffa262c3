"""The commands that the README and the site show exist, with the flags that they are shown with. None is run."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence

import pytest
from pages import PAGES, PROJECT, commands, inline_code, name, text

import rnndrop_command as cli

SOURCES = {".py", ".md", ".ipynb", ".toml", ".sh", ".h", ".cpp"}
BY_NAME = re.compile(r"pip install\s+(-\S+\s+)*['\"]?rnndrop[_-]cuda\b")

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


@pytest.fixture(scope="module")
def help_of():
    """The help of `rnndrop COMMAND`, or of `python -m bench.COMMAND`, asked once."""
    known: dict[str, str] = {}

    def ask(command: str) -> str:
        if command not in known:
            of_bench = command.startswith("bench.")
            main = importlib.import_module(command).main if of_bench else cli.main
            with pytest.MonkeyPatch.context() as patch:
                printed: list[str] = []
                patch.setattr("sys.stdout.write", printed.append)
                with pytest.raises(SystemExit) as ended:
                    main(["--help"] if of_bench else [command, "--help"])
            assert ended.value.code == 0
            known[command] = "".join(printed)
        return known[command]

    return ask


def flags(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def check_flags(command: str, arguments: list[str], help_of) -> None:
    unknown = flags(arguments) - flags(re.findall(r"--[\w-]+", help_of(command)))
    assert not unknown, f"{command}: {unknown}"


def check_rnndrop(arguments: list[str], help_of) -> None:
    """arguments: what follows `rnndrop`."""
    command, *rest = arguments
    if command == "COMMAND" or command.startswith("-"):
        return
    assert command in cli.COMMANDS, command
    check_flags(command, rest, help_of)
    if command == "study" and rest and rest[0] != "NAME":
        assert re.search(rf"^  {rest[0]} ", help_of("study"), re.MULTILINE), rest[0]


def check(line: str, help_of) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "rnndrop":
        check_rnndrop(words[1:], help_of)
    elif words[0] == "torchrun":
        check_rnndrop(words[words.index("rnndrop_cuda") + 1 :], help_of)
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):.*## ", text(PROJECT / "Makefile"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), line
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), line
        if words[2].startswith("bench."):
            check_flags(words[2], words[3:], help_of)
    elif words[0] in ("auditwheel", "twine"):  # of the dev extra
        assert f'"{words[0]}' in text(PROJECT / "pyproject.toml"), line
    elif words[0] == "python":
        assert (PROJECT / words[1]).exists(), line
    elif words[0] == "bench/gpu_check.sh":
        parts = re.search(r"^all_parts=\((.*)\)$", text(PROJECT / words[0]), re.MULTILINE)[1].split()
        assert set(words[1:]) <= set(parts), line
    elif words[:3] == [".venv/bin/python", "-m", "pytest"]:
        assert (PROJECT / words[3]).exists(), line
    else:
        assert words[:2] == ["pip", "install"], f"a command that this test does not know: {line}"


@every_page
def test_commands_exist(page, help_of):
    for line in commands(page):
        check(line, help_of)


@every_page
def test_commands_in_the_prose_exist(page, help_of):
    every_flag = {flag for command in cli.COMMANDS for flag in re.findall(r"--[\w-]+", help_of(command))}
    for code in inline_code(page):
        if code.startswith("--"):
            assert flags(code.split()) <= every_flag, code
        elif re.match(r"(rnndrop|make|python -m) ", code):
            check(code, help_of)


def test_nobody_is_told_to_install_by_a_name_that_is_nobodys_on_pypi():
    """Who took that name there would run code on the reader's machine: from the checkout it is '.'."""
    folders = ("rnndrop_cuda", "bench", "examples", "docs", "csrc")
    files = [file for folder in folders for file in (PROJECT / folder).rglob("*") if file.suffix in SOURCES]
    told = [
        name(file) for file in [*files, *PROJECT.glob("*.*")] if file.suffix in SOURCES and BY_NAME.search(text(file))
    ]
    assert told == []
