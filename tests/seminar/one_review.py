"""A review, the words of a model that reads it, and the page about it."""

import json
import re
from pathlib import Path

from checkpoints import save_checkpoint

from rnndrop_cuda.seminar.data import WORD_INDEX

# Ranks 1 to 16: the ids 4 to 19 of a vocabulary of 20.
WORDS = ["film", "good", "bad", "script", "alert", "a", "the", "wonderful", "awful", "it's", "café", "in", "of"]
WORDS += ["incomprehensibilities", "was", "not"]
VOCABULARY = ["<pad>", "<start>", "<unknown>", "<unused>", *WORDS]
TEXT = "A <script>alert('it's bad')</script> &amp; Wonderful CAFÉ, incomprehensibilities!\n"
REST = " film was <script>alert(2)</script> read on."
TEXT += "The" + REST
READ = ["A", "script", "alert", "'it's", "bad'", "script", "amp", "Wonderful", "CAFÉ", "incomprehensibilities", "The"]
MAXLEN = 12


def with_words(npz: Path, words: list[str] = WORDS) -> Path:
    """The npz, whose first ranks have these words now."""
    npz.with_name(WORD_INDEX).write_text(json.dumps({word: rank for rank, word in enumerate(words, start=1)}))
    return npz


def save(data: Path, folder: Path, layer: str = "GalLSTM:0.5", **options: object) -> Path:
    """A checkpoint in the folder, of a model that reads reviews of `data` cropped to MAXLEN."""
    return save_checkpoint(folder, data, layer, **{"maxlen": MAXLEN, **options})


def page_data(out: Path) -> dict:
    """What the script of the page in a folder draws."""
    return json.loads(re.search(r'id="data">(.*?)</script>', (out / "review.html").read_text())[1])
