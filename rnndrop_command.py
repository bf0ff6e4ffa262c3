"""The command `rnndrop`: finds the subcommand's module, imports only that, and passes it the other arguments.

It lies outside of the package, whose import brings torch in: --help, --version and a shell's completion need none. What
ends any command in the same way is here too: Ctrl-C, a closed pipe, a full disk, too little memory.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

SEMINAR = "rnndrop_cuda.seminar.commands"
COMMANDS = {
    "info": ("rnndrop_cuda.info", "show what was built, what can be used here, and why the rest cannot"),
    "compare": (SEMINAR + ".compare", "train the review classifier with each layer and compare the layers"),
    "study": (SEMINAR + ".study", "run one of the seminar's studies, over several seeds"),
    "train": (SEMINAR + ".train", "train one classifier, with checkpoints to resume from"),
    "language-model": (
        SEMINAR + ".language_model",
        "train a language model, report its perplexity, generate text (or: lm)",
    ),
    "predict": (SEMINAR + ".predict", "predict the sentiment of a text, and how sure the classifier is"),
    "vectors": (SEMINAR + ".vectors", "show which of the reviews' words have a pretrained vector"),
    "visualize": (SEMINAR + ".visualize", "show what a classifier does with one review, word by word"),
    "bench": ("bench.lstm", "time the layer on every backend (needs the source checkout)"),
}
ALIASES = {"lm": "language-model"}

DEMO_EXTRA = {"jinja2", "jsonargparse", "matplotlib", "rich", "safetensors", "toml", "tqdm"}
STOPPED, PIPE_CLOSED = 130, 141
"""Exit statuses: 128 and the number of the signal."""
TOO_LARGE = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
    "Overflow when",
)
"""What torch says, in a RuntimeError, of a tensor for which there is no memory."""


class ShowVersion(argparse.Action):
    """Looks the version up, which takes 10 ms, only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata as metadata

        try:
            version = metadata.version("rnndrop-cuda")
        except metadata.PackageNotFoundError:
            version = "(not installed, run from its source folder)"
        print(f"rnndrop {version}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the commands' own parser does."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument COMMAND: ")
        print(f"{self.prog}: {message} (--help lists the commands)", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop argv...`; returns 0 done, 1 failed, 2 wrong input, 130 Ctrl-C, 141 a closed pipe."""
    argv = sys.argv[1:] if argv is None else list(argv)
    _prepare_streams()
    command = argv[0] if argv and argv[0] in (*COMMANDS, *ALIASES) else ""
    try:
        try:
            return _run(argv)
        finally:  # --help and --version end in a SystemExit
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(command, "stopped", STOPPED)
    except BrokenPipeError:
        _give_up_stdout()
        return PIPE_CLOSED
    except OSError as error:
        _give_up_stdout()
        return _fail(command, f"{error.filename or 'the output cannot be written'}: {error.strerror or error}", 1)
    except FloatingPointError as error:
        return _fail(command, str(error), 1)
    except (MemoryError, RuntimeError) as error:
        said = re.sub(r"\[enforce fail .*?\] .*?\. ", "", " ".join(str(error).split())) or "MemoryError"
        if isinstance(error, RuntimeError) and not any(reason in said for reason in TOO_LARGE):
            raise
        return _fail(command, f"there is not enough memory for these sizes: {said[:200]}", 1)


def _run(argv: list[str]) -> int:
    parser = Parser(
        prog="rnndrop",
        description="LSTM layers with dropout inside the recurrence.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<16}{what}" for name, (_, what) in COMMANDS.items())
        + "\n\n`rnndrop COMMAND --help` tells more about each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the program's version and exit")
    command = parser.add_argument("command", type=_command, metavar="COMMAND", help="one of those below")
    argv = _complete(parser, command, argv)
    args = parser.parse_args(argv[:1])
    module_name, _ = COMMANDS[ALIASES.get(args.command, args.command)]
    if args.command == "bench" and not _bench_importable():
        return _fail("bench", "needs the source checkout (the folder bench/ is not installed)", 2)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in DEMO_EXTRA:
            raise
        return _fail(args.command, f"{missing} is missing: from the checkout, pip install '.[demo]'", 2)
    status: int = module.main(argv[1:]) or 0
    return status


def _complete(parser: argparse.ArgumentParser, command: argparse.Action, argv: list[str]) -> list[str]:
    """Answers a shell that asks how the command line may go on, and exits, where argcomplete is installed.

    Behind a command whose options jsonargparse reads, which answers itself, it returns that command, and the action of
    language-model; argv without a shell that asks.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return argv
    try:
        import argcomplete
    except ModuleNotFoundError:
        return argv
    before = int(os.environ["_ARGCOMPLETE"])  # words, the program's name among them
    whole = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")[before:-1]
    name = ALIASES.get(whole[0], whole[0]) if whole else ""
    if name not in COMMANDS or (name == "bench" and not _bench_importable()):
        what_for = {name: what for name, (_, what) in COMMANDS.items()}
        command.completer = argcomplete.ChoicesCompleter(what_for)  # type: ignore[attr-defined]
        parser.add_argument("arguments", nargs="*").completer = argcomplete.FilesCompleter()  # type: ignore[attr-defined]
        argcomplete.autocomplete(parser)
    known = whole[: 2 if name == "language-model" else 1]
    os.environ["_ARGCOMPLETE"] = str(before + len(known))
    if name == "language-model" and len(known) == 1:
        argcomplete.autocomplete(importlib.import_module(SEMINAR + ".language_model_options").main_parser())
    elif not COMMANDS[name][0].startswith(SEMINAR):
        argcomplete.autocomplete(importlib.import_module(COMMANDS[name][0]).parser())
    return known


def _command(name: str) -> str:
    """An argparse type."""
    if name in (*COMMANDS, *ALIASES):
        return name
    import difflib

    nearest = difflib.get_close_matches(name, COMMANDS, 1)
    rest = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(COMMANDS)}"
    raise argparse.ArgumentTypeError(f"there is no command {name!r}; {rest}")


def _prepare_streams() -> None:
    """Reads nothing and writes nowhere where a stream was closed; escapes what the output's encoding lacks.

    A path that is not UTF-8 has such letters, and without UTF-8 there is no plus-minus sign.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(command: str, message: str, status: int) -> int:
    print(f"rnndrop {command}".rstrip() + f": {message}", file=sys.stderr)
    return status


def _give_up_stdout() -> None:
    """So that Python, when it ends, does not fail once more to write what is left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _bench_importable() -> bool:
    """Whether bench/ lies beside this file or in the current folder; puts that checkout on the import path."""
    for root in (Path(__file__).parent, Path.cwd()):
        if (root / "bench" / "lstm.py").is_file() and (root / "rnndrop_command.py").is_file():
            sys.path.insert(0, str(root))
            return True
    return False
