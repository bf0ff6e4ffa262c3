"""The command `rnndrop`: finds the subcommand's module, imports only that, and passes it the other arguments."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

SEMINAR = "rnndrop_cuda.seminar.commands"
COMMANDS = {
    "info": ("rnndrop_cuda.info", "show what was built, what can be used here, and why the rest cannot"),
    "compare": (SEMINAR + ".compare", "train the review classifier with each layer and compare the layers"),
    "study": (SEMINAR + ".study", "answer one of the seminar's further questions, with several seeds"),
    "train": (SEMINAR + ".train", "train one classifier, with checkpoints to resume from"),
    "predict": (SEMINAR + ".predict", "tell the sentiment of a text, and how sure the classifier is"),
    "vectors": (SEMINAR + ".vectors", "show which of the reviews' words have a pretrained vector"),
    "visualize": (SEMINAR + ".visualize", "show what a classifier does with one review, word by word"),
    "bench": ("bench.lstm", "time the layer on every backend (needs the source checkout)"),
}

DEMO_EXTRA = {"jinja2", "jsonargparse", "matplotlib", "rich", "safetensors", "toml", "tqdm"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop argv...` and returns its exit status: 0 done, 1 failed, 2 wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="rnndrop",
        description="LSTM layers with dropout inside the recurrence.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<11}{what}" for name, (_, what) in COMMANDS.items())
        + "\n\n`rnndrop COMMAND --help` tells more about each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    args = parser.parse_args(argv[:1])
    module_name, _ = COMMANDS[args.command]
    if args.command == "bench" and not _bench_importable():
        print("rnndrop bench: needs the source checkout (the folder bench/ is not installed)", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in DEMO_EXTRA:
            raise
        print(f"rnndrop {args.command}: {missing} is missing: pip install '.[demo]' in the checkout", file=sys.stderr)
        return 2
    return module.main(argv[1:]) or 0


def _bench_importable() -> bool:
    """Whether bench/ lies beside the package or in the current folder; puts that checkout on the import path."""
    for root in (Path(__file__).parents[1], Path.cwd()):
        if (root / "bench" / "lstm.py").is_file() and (root / "rnndrop_cuda" / "cli.py").is_file():
            sys.path.insert(0, str(root))
            return True
    return False
