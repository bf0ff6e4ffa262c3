"""Text as ids: of reviews, or of files with a sentence a line; the words are ranked on what is trained on.

<start> begins every text and so ends the one before it: predicting it is predicting the end. It is what the reviews of
the classifier begin with, which may start from a language model, and what others call <eos>.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda.seminar.data.csv_reviews import CSV_SOURCES, PACKAGE, REVIEWS_CSV_SHA256, read_split, shuffled
from rnndrop_cuda.seminar.data.reviews import DATA_SEED
from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS, START, UNKNOWN, tokenize
from rnndrop_cuda.seminar.language_model.settings import TextSettings
from rnndrop_cuda.seminar.training.batches import TEST, TRAIN, VALIDATION

HELD_OUT = 0.05
"""Of the reviews to train on, for validation and again for the test; of a text, for validation."""
REVIEWS_VOCABULARY = 10000
UNK = "<unk>"  # an unknown word in the files of the Penn Treebank and of WikiText
NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}

Tokens = list[list[str]]
"""Of each text."""


@dataclass(frozen=True)
class Text:
    """parts: ids [N] by part, each from a <start> to a <start>; words[id] is an id's token."""

    parts: dict[str, Tensor]
    words: list[str]
    facts: dict[str, Any]

    def described(self) -> dict[str, Any]:
        """Which text it is, and of how many tokens, those counted that are predicted."""
        return {**self.facts, **{f"{NAMES[part]} tokens": len(ids) - 1 for part, ids in self.parts.items()}}


def load_text(settings: TextSettings) -> Text:
    """The text of the settings.

    Raises OSError where a file cannot be read, ValueError where it is no UTF-8 or has fewer than two tokens, and
    otherwise as read_split does.
    """
    if settings.text:
        parts, facts = _of_files(settings)
        size = settings.vocab_size
    else:
        parts, facts = _of_reviews(settings)
        size = settings.vocab_size or REVIEWS_VOCABULARY
    ranked = [word for word, _ in Counter(itertools.chain.from_iterable(parts[TRAIN])).most_common()]
    known = [word for word in ranked if word not in SPECIAL_WORDS and word != UNK]
    words = (SPECIAL_WORDS + known)[:size]
    facts = {**facts, "level": settings.level, "words": f"{len(known)}, ranked on the training part", "ids": len(words)}
    return Text({part: encode(tokens, words) for part, tokens in parts.items()}, words, facts)


def encode(texts: Tokens, words: Sequence[str]) -> Tensor:
    """The ids of texts one after the other, with a <start> before each and at the end."""
    id_of = ids_of(words)
    ids = [START]
    for tokens in texts:
        ids += [id_of.get(token, UNKNOWN) for token in tokens]
        ids.append(START)
    return torch.tensor(ids)


def ids_of(words: Sequence[str]) -> dict[str, int]:
    """The id of each token that can occur in a text."""
    return {word: k for k, word in enumerate(words) if k >= len(SPECIAL_WORDS)}


def lines_of(text: str) -> list[str]:
    """As Python reads them from a file: what else Unicode calls the end of a line is none."""
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def tokens_of(text: str, settings: TextSettings) -> list[str]:
    """Any text, cut as that of the settings is: files at white space, reviews as for the classifier."""
    if settings.level == "character":
        return list(text if settings.text else " ".join(text.split()))
    return text.split() if settings.text else tokenize(text, settings.contractions)


def read_lines(path: str, settings: TextSettings, argument: str = "text") -> Tokens:
    """The tokens of each line of a file, blank lines too. Errors as load_text's, named after the argument."""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise OSError(f"{argument}: cannot read {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")  # the byte order mark of editors on Windows
    except UnicodeDecodeError as error:
        raise ValueError(f"{argument}: expected UTF-8, got {error.reason} at byte {error.start} of {path}") from error
    texts = [tokens_of(line, settings) for line in lines_of(text)]
    _check_size(texts, settings.level, argument, path)
    return texts


def _check_size(texts: Tokens, level: str, argument: str, where: str) -> None:
    tokens = sum(map(len, texts))
    if tokens < 2:
        unit = "words" if level == "word" else "characters"
        raise ValueError(f"{argument}: expected at least two {unit}, got {tokens} in {where}")


def _of_files(settings: TextSettings) -> tuple[dict[str, Tokens], dict[str, Any]]:
    train = [line for path in settings.text for line in read_lines(path, settings)]
    if settings.valid is not None:
        valid = read_lines(settings.valid, settings, "valid")
    else:
        kept = len(train) - max(1, round(HELD_OUT * len(train)))
        train, valid = train[:kept], train[kept:]
        where = "what is left of " + ", ".join(settings.text)
        _check_size(train, settings.level, "text", f"{where} to train on without --valid")
        _check_size(valid, settings.level, "text", f"{where} to validate on without --valid")
    parts = {TRAIN: train, VALIDATION: valid}
    if settings.test is not None:
        parts[TEST] = read_lines(settings.test, settings, "test")
    files = [*settings.text, *(path for path in (settings.valid, settings.test) if path is not None)]
    hashed: dict[str, Any] = {}
    for path in files:  # those of one name together
        hashed.setdefault(Path(path).name, hashlib.sha256()).update(Path(path).expanduser().read_bytes())
    return parts, {"source": ", ".join(hashed), "sha256": {name: of.hexdigest() for name, of in hashed.items()}}


def _of_reviews(settings: TextSettings) -> tuple[dict[str, Tokens], dict[str, Any]]:
    """Of the reviews to train on; those held out are the last ones of each label, since neighbours are of one film."""
    reviews, _ = read_split(settings.data)
    blocks: dict[str, list[str]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for label in (0, 1):
        texts = [text for text, of in reviews if of == label]
        held = round(HELD_OUT * len(texts))
        blocks[TRAIN] += texts[: len(texts) - 2 * held]
        blocks[VALIDATION] += texts[len(texts) - 2 * held : len(texts) - held]
        blocks[TEST] += texts[len(texts) - held :]
    first = settings.reviews
    if first is not None and first > len(blocks[TRAIN]):
        raise ValueError(f"reviews: expected at most {len(blocks[TRAIN])} of {settings.data}, got {first}")
    parts: dict[str, Tokens] = {}
    for part, texts in blocks.items():
        texts, _ = shuffled(texts, [], DATA_SEED)
        if first is not None:
            texts = texts[: first if part == TRAIN else max(1, first // 8)]
        parts[part] = [tokens_of(text, settings) for text in texts]
    facts: dict[str, Any] = {
        "source": f"PyPI {PACKAGE}, source {CSV_SOURCES[settings.data]}, training part",
        "sha256": REVIEWS_CSV_SHA256,
        "split": f"the last {HELD_OUT:.0%} of each label's block for the test, those before them for validation",
        "reviews": {NAMES[part]: len(texts) for part, texts in parts.items()},
    }
    return parts, facts
