"""No command ends in a traceback: whatever the flags, the files and the checkpoints that it is given.

Drawn by hypothesis; an exception that rnndrop_command.main lets through fails the test.
"""

import functools
import importlib
import json
import os
import shutil
from pathlib import Path

import pytest
from checkpoints import save_checkpoint
from command_line import status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from language_model_runs import SMALL as SMALL_TEXT
from language_model_runs import language_model, write_text
from train_runs import SMALL, train

import rnndrop_command
from rnndrop_cuda.seminar.commands.language_model_options import evaluate_parser, generate_parser, train_parser

EVERY = functools.partial(
    settings, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = ["-1", "0", "1", "2", "3.5", "1e30", "nan", "inf", ""]
TEXTS = ["", "a", "GalLSTM", "GalLSTM:0.5", "nn.LSTM", "MyLSTM:1", "cpu", "meta", "accuracy", "{}", "[1", "\udcff", "é"]
PATHS = [".", "nowhere", "file", "folder", "folder/nowhere", "reviews.npz", "run", "damaged.npz", "/dev/null"]
HUGE = str(10**12)
# As many as asked for are made or run, one after the other: what is slow is no error.
COUNTED = {
    "--epochs",
    "--seeds",
    "--samples",
    "--num-layers",
    "--top-reviews",
    "--vocab-size",
    "--patience",
    "--tokens",
}
LEFT_OUT = {"--help", "--print_shtab", "--compile", "--paper", "--config"}
STATUSES = {0, 1, 2}


def flags(command):
    """Of the command's own parser."""
    found = {}

    class StopError(Exception):
        pass

    def parse(parser, *args, **kwargs):
        found.update((o, a) for a in parser._actions for o in a.option_strings if o.startswith("--"))
        raise StopError

    module = importlib.import_module(f"rnndrop_cuda.seminar.commands.{command}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rnndrop_cuda.seminar.commands.options.Parser.parse_args", parse)
        with pytest.raises(StopError):
            module.main([])
    return {option: action for option, action in found.items() if option not in LEFT_OUT}


@st.composite
def arguments(draw, options):
    """Up to three of these flags, each with a value, a wrong one more often than not."""
    chosen = draw(st.lists(st.sampled_from(sorted(options.items(), key=str)), max_size=3, unique_by=str))
    line = []
    for option, action in chosen:
        huge = [] if option in COUNTED else [HUGE, str(10**30)]
        line += [option] if action.nargs == 0 else [option, draw(st.sampled_from([*NUMBERS, *TEXTS, *PATHS, *huge]))]
    return line


@pytest.fixture
def folder(npz, tmp_path, monkeypatch):
    """The current folder, with what PATHS name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a good film\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "damaged.npz").write_bytes(npz.read_bytes()[:-40])
    save_checkpoint(tmp_path / "run", npz)
    return tmp_path


QUICK = ["--quick", "--data", "reviews.npz", "--unverified-data", "--reviews", "8", "--seeds", "1"]
BASES = {
    "train": [*SMALL, "--epochs", "1", "--data", "reviews.npz", "--out", "out"],
    "compare": [*SMALL, "--epochs", "1", "--data", "reviews.npz", "--out", "out", "--layers", "nn.LSTM"],
    "study": [
        "initial-state",
        "--quick",
        "--data",
        "reviews.npz",
        "--unverified-data",
        "--reviews",
        "8",
        "--seeds",
        "1",
    ],
    "predict": ["--checkpoint", "run", "--text", "good"],
    "visualize": ["--checkpoint", "run", "--out", "out"],
    "vectors": ["file", "--data", "reviews.npz", "--unverified-data"],
}


@pytest.mark.parametrize("command", BASES)
@given(data=st.data())
@EVERY(max_examples=25)
def test_flags(command, folder, data):
    line = [command, *BASES[command], *data.draw(arguments(flags(command)))]
    shutil.rmtree("out", ignore_errors=True)
    assert status(rnndrop_command.main, *line) in STATUSES, line


def test_paths_that_are_not_utf_8(folder):
    data, out = "data\udcff.npz", "out\udcff"
    shutil.copy("reviews.npz", data)
    small = [*SMALL, "--epochs", "1", "--data", data]
    for line in (
        ["train", *small, "--out", out],
        ["train", "--resume", out],
        ["visualize", "--checkpoint", out, "--review", "1", "--top-reviews", "0", "--samples", "2", "--out", out],
        ["compare", *small, "--layers", "nn.LSTM", "--out", out + "/compare"],
        ["study", "initial-state", *QUICK[:1], "--data", data, *QUICK[3:], "--out", out + "/study"],
    ):
        assert status(rnndrop_command.main, *line) == 0, line


LANGUAGE_MODEL = {
    "train": (train_parser, [*SMALL_TEXT, "--epochs", "1", "--text", "text", "text", "text", "--out", "out"]),
    "evaluate": (evaluate_parser, ["--checkpoint", "words"]),
    "generate": (generate_parser, ["--checkpoint", "words", "--tokens", "3"]),
}


@pytest.mark.parametrize("action", LANGUAGE_MODEL)
@given(data=st.data())
@EVERY(max_examples=20)
def test_flags_of_the_language_model(action, folder, data):
    if not (folder / "words").exists():
        write_text(folder / "text", 20)
        texts = ["--text", "text", "text", "text"]
        assert language_model("train", *SMALL_TEXT, "--epochs", "1", *texts, "--out", "words") == 0
    parser, base = LANGUAGE_MODEL[action]
    known = {o: a for a in parser()._actions for o in a.option_strings if o.startswith("--") and o not in LEFT_OUT}
    line = ["language-model", action, *base, *data.draw(arguments(known))]
    shutil.rmtree("out", ignore_errors=True)
    assert status(rnndrop_command.main, *line) in STATUSES, line


@given(content=st.binary(max_size=40) | st.text(max_size=40).map(str.encode), suffix=st.sampled_from(["toml", "yaml"]))
@EVERY(max_examples=60)
def test_files_of_options(folder, content, suffix):
    (folder / f"options.{suffix}").write_bytes(content)
    line = ["train", "--resume", "nowhere", "--config", f"options.{suffix}"]
    assert status(rnndrop_command.main, *line) == 2, content


@given(content=st.binary(max_size=200))
@EVERY(max_examples=60)
def test_files_of_everything_else(folder, content):
    (folder / "any.txt").write_bytes(content)
    (folder / "any.npz").write_bytes(b"PK\x03\x04" + content)
    for line in (
        ["predict", "--checkpoint", "run", "--file", "any.txt"],
        ["vectors", "any.txt", "--data", "reviews.npz", "--unverified-data"],
        ["vectors", "any.npz", "--data", "any.npz", "--unverified-data"],
    ):
        assert status(rnndrop_command.main, *line) == 2, content


def places(value, path=()):
    """The path of each value in this JSON, the whole included."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = changed(copy[key], rest, new)
    return copy


ANY_JSON = st.sampled_from(
    [None, True, -1, 0, 3, 2**40, 10**30, 1.5, "", "GalLSTM:0.5", "../x", [], [[]], {}, {"a": 1}]
)


@given(data=st.data())
@EVERY(max_examples=60)
def test_checkpoints(folder, data):
    if not (folder / "trained").exists():
        assert train("--data", "reviews.npz", *SMALL, "--epochs", "1", "--out", "trained") == 0
    shutil.rmtree("other", ignore_errors=True)
    shutil.copytree("trained", "other")
    file = Path("other", "last", "checkpoint.json")
    contents = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(places(contents))))
    # a run of that many epochs would be resumed, and go on for ever
    new = data.draw(ANY_JSON.filter(lambda value: path[-1:] != ("epochs",) or not isinstance(value, int)))
    file.write_text(json.dumps(changed(contents, path, new)))
    for line in (
        ["train", "--resume", "other"],
        ["predict", "--checkpoint", "other/last", "--text", "good"],
        ["visualize", "--checkpoint", "other/last", "--out", "pictures", "--samples", "2"],
    ):
        assert status(rnndrop_command.main, *line) in STATUSES, (path, new, line)
    assert os.path.exists("trained")
