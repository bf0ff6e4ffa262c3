"""Text as ids: what is a token, who ranks the words, what is held out, and which words are unknown."""

import pytest
import torch

from rnndrop_cuda.seminar.data.csv_reviews import read_split
from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS, START, UNKNOWN, tokenize
from rnndrop_cuda.seminar.language_model.settings import TextSettings
from rnndrop_cuda.seminar.language_model.text import encode, load_text, tokens_of
from rnndrop_cuda.seminar.training.batches import TEST, TRAIN, VALIDATION


@pytest.fixture
def files(tmp_path):
    texts = {"train": "a b a\n\nc a <unk>\n", "valid": "c d\n", "test": "b a\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {"text": (str(tmp_path / "train"),), **{name: str(tmp_path / name) for name in ("valid", "test")}}


def words_of(text, part):
    return [text.words[k] for k in text.parts[part].tolist()]


def test_files_in_the_form_of_the_penn_treebank(files):
    """A line's end is a token, a blank line's too, as in the standard counts; <unk> is the unknown word."""
    text = load_text(TextSettings(**files))
    assert text.words == [*SPECIAL_WORDS, "a", "b", "c"]
    assert words_of(text, TRAIN) == ["<start>", "a", "b", "a", "<start>", "<start>", "c", "a", "<unknown>", "<start>"]
    assert words_of(text, VALIDATION) == ["<start>", "c", "<unknown>", "<start>"]
    assert words_of(text, TEST) == ["<start>", "b", "a", "<start>"]
    described = text.described()
    assert (described["train tokens"], described["validation tokens"], described["test tokens"]) == (9, 3, 3)


def test_what_ends_a_line_and_what_is_none(tmp_path):
    """As Python reads a file: what else Unicode calls the end of a line is a character of a text."""
    path = tmp_path / "text"
    path.write_bytes("\ufeffa b\r\nb\u2028\x0ca\rb\n".encode())
    valid = str(tmp_path / "valid")
    (tmp_path / "valid").write_text("a b\n")
    text = load_text(TextSettings(text=(str(path),), valid=valid))
    assert words_of(text, TRAIN) == ["<start>", "a", "b", "<start>", "b", "a", "<start>", "b", "<start>"]
    text = load_text(TextSettings(text=(str(path),), valid=valid, level="character"))
    assert sorted(text.words[4:]) == ["\x0c", " ", "a", "b", "\u2028"]


def test_files_of_one_name_are_told_apart(files, tmp_path):
    """By the hash: a run is not gone on with when one of them has changed."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "train").write_text("b a a\n")
    both = {**files, "text": (*files["text"], str(tmp_path / "more" / "train"))}
    before = load_text(TextSettings(**both)).described()
    (tmp_path / "train").write_text("a b a\n\na c <unk>\n")
    after = load_text(TextSettings(**both)).described()
    assert before != after
    assert set(before["sha256"]) == {"train", "valid", "test"}


def test_any_text_is_cut_as_that_of_the_settings(tmp_path):
    text = "He DIDN'T,  say so."
    of_reviews = TextSettings()
    assert tokens_of(text, of_reviews) == ["he", "didn't", "say", "so"]
    assert tokens_of(text, TextSettings(contractions="split")) == ["he", "did", "n't", "say", "so"]
    assert tokens_of(text, TextSettings(text=("file",))) == ["He", "DIDN'T,", "say", "so."]
    assert tokens_of("a  b", TextSettings(level="character")) == ["a", " ", "b"]
    assert tokens_of("a  b", TextSettings(level="character", text=("file",))) == ["a", " ", " ", "b"]


def test_words_that_are_not_known():
    words = [*SPECIAL_WORDS, "a"]
    assert encode([["a", "x", "<pad>"]], words).tolist() == [START, 4, UNKNOWN, UNKNOWN, START]


def test_a_vocabulary_of_the_most_frequent(files):
    text = load_text(TextSettings(**files, vocab_size=5))
    assert text.words == [*SPECIAL_WORDS, "a"]
    assert text.parts[TEST].tolist() == [START, UNKNOWN, 4, START]


def test_characters_are_tokens(tmp_path):
    (tmp_path / "text").write_text("ab a\nb\n" * 20)
    text = load_text(TextSettings(text=(str(tmp_path / "text"),), level="character"))
    assert sorted(text.words[4:]) == [" ", "a", "b"]
    assert words_of(text, TRAIN)[:6] == ["<start>", "a", "b", " ", "a", "<start>"]


def test_without_a_validation_file_the_last_lines_are_held_out(tmp_path):
    (tmp_path / "text").write_text("".join(f"word{k} x\n" for k in range(40)))
    text = load_text(TextSettings(text=(str(tmp_path / "text"),)))
    assert len(text.parts[TRAIN]) == 1 + 3 * 38
    assert words_of(text, VALIDATION) == ["<start>", "<unknown>", "x", "<start>", "<unknown>", "x", "<start>"]
    assert TEST not in text.parts


def test_reviews_are_the_training_part_in_three_and_the_test_part_is_not_read():
    text = load_text(TextSettings(data="rotten-tomatoes"))
    train, _ = read_split("rotten-tomatoes")
    reviews = text.facts["reviews"]
    assert sum(reviews.values()) == len(train)
    assert reviews["validation"] == reviews["test"] == 2 * round(0.05 * len(train) / 2)
    words = {word for review, _ in train for word in tokenize(review)}
    assert set(text.words[len(SPECIAL_WORDS) :]) <= words
    last_of_label = [tokenize(review) for review, label in train if label == 0][-1]
    told = " ".join(words_of(text, TEST))
    known = [word if word in set(text.words) else "<unknown>" for word in last_of_label]
    assert f"<start> {' '.join(known)} <start>" in told
    assert len(text.words) == 10000


def test_the_first_reviews_only():
    text = load_text(TextSettings(data="rotten-tomatoes", reviews=80))
    assert text.facts["reviews"] == {"train": 80, "validation": 10, "test": 10}
    assert torch.equal(text.parts[TRAIN], load_text(TextSettings(data="rotten-tomatoes", reviews=80)).parts[TRAIN])
    with pytest.raises(ValueError, match="reviews: expected at most"):
        load_text(TextSettings(data="rotten-tomatoes", reviews=10**6))
