"""`torchrun -m rnndrop_cuda train`: two processes against one, and a process that dies and is started again.

This file is also the program that torchrun starts: ``test_processes.py FOLDER RUN ...``.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rnndrop_cuda.seminar.commands import train as train_command
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, read
from rnndrop_cuda.seminar.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
# 48 reviews in batches of 47 and 1: the second process has one row less, and then none.
SMALL = [
    "--unverified-data", "--vocab-size", "20", "--n-emb", "6", "--n-hidden", "4", "--batch-size", "47",
    "--learning-rate", "0.01", "--epochs", "3", "--clip", "1", "--device", "cpu",
]  # fmt: skip
RUNS = {
    "no dropout": ["--maxlen", "8", "--layer", "nn.LSTM"],
    "gal": ["--maxlen", "8", "--layer", "GalLSTM:0.5", "--word-dropout", "0.2", "--embedding-dropout", "0.2"],
    "gal sample": ["--variable-length", "--layer", "GalLSTM:0.5", "--mask-scope", "sample", "--num-layers", "2"],
    "semeniuta": ["--variable-length", "--layer", "SemeniutaLSTM:0.3"],
    "fast": ["--maxlen", "8", "--layer", "FastRNNLayer:0.5"],
}
QUICK = "gal"  # dropout of every kind; the other runs are slow tests
OTHERS = [run for run in RUNS if run != QUICK]
DIES = "dies"


def arguments(folder, run, name):
    return ["--data", str(folder / "reviews.npz"), *SMALL, *RUNS[run], "--out", str(folder / name)]


def torchrun(folder, program, *options):
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    return subprocess.run(
        [*command, *program], env=environment, cwd=folder, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_npz):
    folder = tmp_path_factory.mktemp("processes")
    write_npz(folder / "reviews.npz")
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """A run by two processes; what was said."""
    run = torchrun(folder, [__file__, str(folder), QUICK])
    assert run.returncode == 0, run.stdout + run.stderr
    return run


@pytest.fixture(scope="module")
def two_of_others(folder):
    """Every other run by two processes, one after the other; what was said."""
    run = torchrun(folder, [__file__, str(folder), *OTHERS])
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def compare(found, expected, tolerance):
    assert found.tensors.keys() >= expected.tensors.keys() - {"optimizer.0.row_step"}
    for name, tensor in expected.tensors.items():
        if name.startswith("model."):
            torch.testing.assert_close(found.tensors[name], tensor, rtol=tolerance, atol=tolerance)
        elif name.startswith("generator."):
            assert torch.equal(found.tensors[name], tensor), name
    histories = [checkpoint.progress["progress"]["history"] for checkpoint in (found, expected)]
    assert len(histories[0]) == 3
    for row, expected_row in zip(*histories, strict=True):
        for key in ("train_loss", "test_loss"):
            assert row[key] == pytest.approx(expected_row[key], rel=tolerance)
        for key in ("train_accuracy", "test_accuracy"):
            assert row[key] == pytest.approx(expected_row[key], abs=tolerance)


@pytest.mark.parametrize("run", [QUICK, *(pytest.param(run, marks=pytest.mark.slow) for run in OTHERS)])
def test_two_processes_train_what_one_trains(run, folder, request):
    """Dropout included: each has the rows of the mask that one process would draw."""
    request.getfixturevalue("two" if run == QUICK else "two_of_others")
    assert train_command.main(arguments(folder, run, f"one {run}")) == 0
    compare(read(folder / f"two {run}" / "last"), read(folder / f"one {run}" / "last"), 2e-5)


@pytest.mark.parametrize("runs, of", [(1, "two"), pytest.param(len(OTHERS), "two_of_others", marks=pytest.mark.slow)])
def test_only_the_first_process_prints(runs, of, request):
    said = request.getfixturevalue(of)
    assert said.stdout.count("epochs; best:") == runs
    assert said.stderr.count("epoch 1/3: ") == runs


@pytest.mark.slow
def test_a_process_that_dies_is_started_again_and_all_resume(two, folder):
    """Rank 1 kills itself in its second epoch: torchrun restarts both, and they end as if nothing had been."""
    run = torchrun(folder, [__file__, str(folder), DIES], "--max-restarts", "1")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "resuming from" in run.stderr
    assert "1 of 3 epochs and 0 batches are done" in run.stderr
    found, expected = read(folder / DIES / "last"), read(folder / "two gal" / "last")
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in found.tensors.items())


def test_wrong_input_is_told_once_and_ends_all(two):
    assert two.stderr.count("rnndrop train: no checkpoint at ") == 1
    assert two.stderr.count("rnndrop train: --layer MyLSTM draws other masks in each process") == 1
    assert two.stderr.count("rnndrop train: --loss-reduction: expected sum, since the gradients of several") == 1
    assert "Traceback" not in two.stderr


# ---------------------------------------------------------------- one of the processes


def die_in_the_second_epoch():
    feed = Trainer._fed

    def deadly(self, *args):
        if self.progress.epochs == 1:
            while not (self.out / "last" / FILE_NAME).exists():  # rank 0 may be at it still
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return feed(self, *args)

    Trainer._fed = deadly


if __name__ == "__main__":
    where, *runs = sys.argv[1:]
    faulthandler.dump_traceback_later(220, exit=True)  # says where it hangs
    torch.set_num_threads(1)
    if runs == [DIES]:
        if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            die_in_the_second_epoch()
        raise SystemExit(train_command.main(arguments(Path(where), "gal", DIES)))
    torch.distributed.init_process_group("gloo")  # once: each run would join a group of its own
    for run in runs:
        if status := train_command.main(arguments(Path(where), run, f"two {run}")):
            raise SystemExit(status)
    assert train_command.main(["--resume", where]) == 2
    for refused in (["--layer", "MyLSTM:0.3"], ["--loss-reduction", "mean"]):
        assert train_command.main([*arguments(Path(where), "fast", "refused"), *refused]) == 2
    torch.distributed.destroy_process_group()
