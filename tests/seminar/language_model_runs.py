"""Texts small enough for a test, and runs of `rnndrop language-model` on them."""

import random
from pathlib import Path

from command_line import status

from rnndrop_cuda.seminar.commands import language_model as command
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.training.checkpoint import read_of

SMALL = ["--n-emb", "6", "--n-hidden", "6", "--batch-size", "4", "--bptt", "5", "--device", "cpu", "--clip", "1"]


def write_text(path: Path, lines: int, seed: int = 0) -> Path:
    """Sentences of 1 to 8 words out of 20."""
    dice = random.Random(seed)
    sentences = [" ".join(f"w{int(20 * dice.random() ** 2)}" for _ in range(dice.randint(1, 8))) for _ in range(lines)]
    path.write_text("\n".join(sentences) + "\n")
    return path


def language_model(*arguments):
    return status(command.main, *arguments)


def checkpoint(folder):
    return read_of(folder, LanguageModelSettings)
