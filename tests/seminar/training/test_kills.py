"""A run that is killed, again and again, ends with the weights of one that was left alone.

This file is also the program that trains and kills: ``python test_kills.py train|language-model random|everywhere NPZ
FOLDER KILLS``. It imports torch once and forks a process for every life of a run, which is why it is not pytest's own
process.
"""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from rnndrop_cuda.seminar.commands import language_model as language_model_command
from rnndrop_cuda.seminar.commands import train as train_command
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, read_of

# Masks, dropped words, the lazy optimizer and its rate all have a state to resume with; 6 batches an epoch.
TRAIN = [
    "--unverified-data", "--vocab-size", "20", "--maxlen", "8", "--n-emb", "6", "--n-hidden", "4", "--batch-size", "8",
    "--layer", "GalLSTM:0.5", "--word-dropout", "0.1", "--embedding-dropout", "0.1", "--clip", "1", "--device", "cpu",
    "--learning-rate", "0.01", "--one-cycle", "--layer-decay", "0.5",
]  # fmt: skip
# And the state of the text's rows; 6 batches an epoch, too.
LANGUAGE_MODEL = [
    "--n-emb", "6", "--n-hidden", "6", "--batch-size", "4", "--bptt", "6", "--hidden-dropout", "0.3", "--cell-zoneout",
    "0.1", "--embedding-dropout", "0.2", "--dropout-out", "0.3", "--clip", "1", "--device", "cpu",
]  # fmt: skip


@pytest.mark.parametrize(
    "command, where, at_least",
    [
        ("train", "random", 4),
        ("language-model", "random", 4),
        pytest.param("train", "everywhere", 20, marks=pytest.mark.slow),
        pytest.param("language-model", "everywhere", 20, marks=pytest.mark.slow),
    ],
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_ends_with_the_same_bits(command, where, at_least, npz, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    program = [sys.executable, __file__, command, where, str(npz), str(tmp_path), str(at_least)]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    kills = int(run.stdout.split()[-1])
    assert kills >= at_least


# ---------------------------------------------------------------- the program


def whole_checkpoint(folder):
    return read_of(folder, SETTINGS)


def command_line(npz):
    if MAIN is train_command.main:
        return ["--data", str(npz), *TRAIN]
    text = npz.with_name("text")
    text.write_text("".join(f"w{k * k % 7} w{k % 5} w{k % 3}\n" for k in range(36)))
    return ["train", "--text", str(text), *LANGUAGE_MODEL]


def begin(argv, log, before_training=lambda: None):
    """The process id of a fork that trains."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with log.open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        before_training()
        status = MAIN(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended_well(child, log):
    """True for an end of its own with status 0, False for one by SIGKILL; anything else fails."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert os.waitstatus_to_exitcode(status) == 0, log.read_text()
    return True


def assert_same(out, expected_out):
    """All tensors, the optimizer's and the generators' too, and the history but for its times."""
    for name in ("last", "best"):
        found, expected = whole_checkpoint(out / name), whole_checkpoint(expected_out / name)
        assert found.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(tensor, expected.tensors[key]) for key, tensor in found.tensors.items())
        histories = [
            [{**row, "seconds": 0} for row in checkpoint.progress["progress"]["history"]]
            for checkpoint in (found, expected)
        ]
        assert histories[0] == histories[1]


def kill_at_random_moments(npz, folder, at_least):
    log = folder / "log"
    argv = [*command_line(npz), "--epochs", "8", "--checkpoint-every", "2"]
    start = time.monotonic()
    assert ended_well(begin([*argv, "--out", str(folder / "alone")], log), log)
    whole = time.monotonic() - start
    dice, kills, runs, finished = random.Random(0), 0, 0, False
    while kills < at_least or not finished:
        out = folder / f"killed{runs}"
        child = begin([*argv, "--out", str(out)], log)
        if kills < at_least:
            time.sleep(dice.uniform(0, whole / 2))
            os.kill(child, signal.SIGKILL)  # a child that has ended stays until it is waited for
        finished = ended_well(child, log)
        if (out / "last" / FILE_NAME).exists():
            whole_checkpoint(out / "last")  # whole
        if finished:
            assert_same(out, folder / "alone")
            runs += 1
        else:
            kills += 1
    return kills


def kill_at_every_step_of_writing(npz, folder, _):
    """Before the n-th call that changes what a file's name means, for every n."""
    log = folder / "log"
    argv = [*command_line(npz), "--epochs", "1", "--checkpoint-every", "4"]
    assert ended_well(begin([*argv, "--out", str(folder / "alone")], log), log)

    def killed_at(n):
        calls = 0

        def deadly(call):
            def counted(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counted

        def patch():
            os.replace, os.fsync, Path.unlink = deadly(os.replace), deadly(os.fsync), deadly(Path.unlink)

        return patch

    n = 1
    while True:
        out = folder / f"killed{n}"
        if ended_well(begin([*argv, "--out", str(out)], log, killed_at(n)), log):
            return n - 1
        if (out / "last" / FILE_NAME).exists():
            whole_checkpoint(out / "last")
        assert ended_well(begin([*argv, "--out", str(out)], log), log)
        assert_same(out, folder / "alone")
        # Killed at the very last deletion, what was to be deleted stays, and that is all.
        assert len(list((out / "last").iterdir())) in (3, 4)
        assert not list(out.rglob("*.partial"))
        n += 1


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork has none of the others
    for first in (torch.optim.RMSprop, torch.optim.Adam):  # imports for two seconds: once, not in every fork
        first([torch.zeros(1)])
    MAIN, SETTINGS = {
        "train": (train_command.main, TrainSettings),
        "language-model": (language_model_command.main, LanguageModelSettings),
    }[sys.argv[1]]
    test = {"random": kill_at_random_moments, "everywhere": kill_at_every_step_of_writing}[sys.argv[2]]
    print(test(Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])))
