"""How a text becomes words, by Keras' tokeniser or one that splits contractions, and which words have ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SPECIAL_WORDS = ["<pad>", "<start>", "<unknown>", "<unused>"]
PADDING, START, UNKNOWN, _ = range(len(SPECIAL_WORDS))  # their ids
CONTRACTIONS = ("keep", "split")
"""As tokenize reads them."""

KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'

_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_BETWEEN_FILTERS = re.compile(f"[^ {re.escape(KERAS_FILTERS)}]+")
_FILTERS_TO_SPACES = str.maketrans(KERAS_FILTERS, " " * len(KERAS_FILTERS))
# In Unicode and, read as Latin-1, in the Windows code page that many of the reviews were written in.
_APOSTROPHES = "\u2018\u2019\u00b4\x91\x92"
_MARKS = "\u201c\u201d\u2013\u2014\u2026\u00ab\u00bb\u00a8\x85\x93\x94\x96\x97"
_MARKS_TO_ASCII = str.maketrans(_APOSTROPHES + _MARKS, "'" * len(_APOSTROPHES) + " " * len(_MARKS))
_CLITICS = frozenset({"n't", "'s", "'m", "'d", "'re", "'ve", "'ll"})
_CONTRACTION = re.compile(rf"(?<=\w)({'|'.join(sorted(_CLITICS))})(?!\w)")


def tokenize(text: str, contractions: str = "keep") -> list[str]:
    """The words that Keras' text_to_word_sequence finds: lower case, KERAS_FILTERS read as spaces.

    contractions: "keep" is Keras' way. "split" separates contractions as the tokeniser of the pretrained vectors did
    ("don't" to "do n't", "it's" to "it 's") and removes quotes around words and the typographic marks that Keras'
    filters miss, so that nearly every word has a vector. Raises ValueError on another value.
    """
    check_contractions(contractions)
    if contractions == "keep":
        return [word for word in text.lower().translate(_FILTERS_TO_SPACES).split(" ") if word]
    separated = _CONTRACTION.sub(r" \1", text.lower().translate(_MARKS_TO_ASCII).translate(_FILTERS_TO_SPACES))
    return [word for word in map(_without_quotes, separated.split()) if word]


def without_line_breaks(text: str) -> str:
    """The text with each of HTML's line breaks as so many spaces, for a model to read: `<br />` is no word.

    The matrices that models are trained on keep Keras' word "br" for it, as Keras' own file of ids does.
    """
    return _LINE_BREAK.sub(lambda found: " " * len(found.group()), text)


def find_words(text: str, contractions: str = "keep") -> list[tuple[int, int, str]]:
    """(start, end, word) of each word that tokenize finds: text[start:end] is the word as it was written."""
    found = []
    for match in _BETWEEN_FILTERS.finditer(text):
        words = tokenize(match.group(), contractions)
        if words == [match.group().lower()]:
            found.append((*match.span(), words[0]))
            continue
        # As tokenize reads it, a letter at a time: "İ" becomes two.
        read = [(k, letter) for k, c in enumerate(match.group()) for letter in c.lower().translate(_MARKS_TO_ASCII)]
        written, at = "".join(letter for _, letter in read), 0
        for word in words:
            at = max(written.find(word, at), at)
            end = min(at + len(word), len(read))
            first, last = (match.start() + (read[k][0] if k < len(read) else len(match.group())) for k in (at, end))
            found.append((first, last, word))
            at = end
    return found


def ids_of_words(vocabulary: Sequence[str], contractions: str = "keep") -> dict[str, int]:
    """The id of each word that can occur in a text; empty where the vocabulary holds ranks instead of words."""
    return {w: i for i, w in enumerate(vocabulary) if i >= len(SPECIAL_WORDS) and tokenize(w, contractions) == [w]}


def check_contractions(contractions: str) -> None:
    """Raises ValueError where it is neither "keep" nor "split"."""
    if contractions not in CONTRACTIONS:
        raise ValueError(f'contractions: expected "keep" or "split", got {contractions!r}')


def check_utf8(words: Iterable[str], where: str) -> None:
    """ValueError, which begins with `where`, if UTF-8 cannot write one of the words: half of a surrogate pair."""
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: expected words that UTF-8 can write: {error}") from error


def _without_quotes(word: str) -> str:
    return word if word in _CLITICS else word.strip("'")
