"""A run that fails before it has a result leaves nothing behind, whichever command it is."""

import pytest
from command_line import status

import rnndrop_command

RUNS = {
    "compare": ["--data", "absent.npz"],
    "train": ["--data", "absent.npz"],
    "train --pretrained": ["--pretrained", "absent"],
    "language-model train": ["--text", "absent.txt"],
    "study dropout": ["--data", "absent.npz"],
    "study pretraining": [],
    "study language-model": ["--only", "nothing"],
    "visualize": ["--checkpoint", "absent"],
}


@pytest.mark.parametrize("command", RUNS)
def test_no_empty_folder_is_left(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = command.removesuffix(" --pretrained").split()
    assert status(rnndrop_command.main, *words, *RUNS[command], "--out", "a/b") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not any(tmp_path.iterdir())
