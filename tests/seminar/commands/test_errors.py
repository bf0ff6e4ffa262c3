"""How the commands say what is wrong: fields become flags, and one line is printed."""

import argparse
import errno

import pytest

from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line


@pytest.fixture
def flags():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    group = parser.add_argument_group("data")
    group.add_argument("-n", "--reviews", type=int)
    group.add_argument("--vocab-size", type=int)
    group.add_argument("--maxlen", type=int)
    group.add_argument("--variable-length", dest="maxlen", action="store_const", const=None)
    group.add_argument("--autocast", action=argparse.BooleanOptionalAction)
    return flags_of(parser)


def test_a_field_has_the_flag_that_sets_it(flags):
    assert flags == {
        "help": "--help",
        "reviews": "--reviews",
        "vocab_size": "--vocab-size",
        "maxlen": "--maxlen",
        "autocast": "--autocast",
    }


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("reviews: expected at most 48, got 100"), "--reviews: expected at most 48, got 100"),
        (ValueError("vocab_size: expected 4 or more, got 3"), "--vocab-size: expected 4 or more, got 3"),
        (FileNotFoundError("file: expected a path, got 'a'"), "file: expected a path, got 'a'"),
        (ValueError("other: reviews: expected"), "other: reviews: expected"),
        (ValueError("the reviews: expected"), "the reviews: expected"),
        (ValueError("reviews of another kind"), "reviews of another kind"),
        (OSError("two\nlines"), "two lines"),
        (PermissionError(errno.EACCES, "Permission denied", "words.json"), "words.json: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_the_leading_name_of_a_field_becomes_its_flag(flags, error, line):
    assert one_line(error, flags) == line


def test_a_failure_is_one_line_of_stderr_and_the_status(capsys):
    assert fail("train", "there is no such file") == 2
    assert fail("compare", "it is not as the paper says", 1) == 1
    expected = "rnndrop train: there is no such file\nrnndrop compare: it is not as the paper says\n"
    assert capsys.readouterr() == ("", expected)
