"""`torchrun -m rnndrop_cuda language-model train`: two processes against one, every dropout on.

This file is also the program that torchrun starts: ``test_lm_processes.py FOLDER``.
"""

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from language_model_runs import SMALL, checkpoint, language_model, write_text

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
OPTIONS = [
    "--embedding-dropout", "0.2", "--dropout-in", "0.3", "--dropout-out", "0.3", "--dropout-between", "0.2",
    "--num-layers", "2", "--input-dropout", "0.3", "--hidden-dropout", "0.3", "--candidate-dropout", "0.3",
    "--cell-zoneout", "0.1", "--mask-scope", "sample", "--optimizer", "sgd", "--learning-rate", "1",
]  # fmt: skip
RUNS = {
    "adaptive": [*OPTIONS, "--checkpoint-every", "3"],
    "tied": [*OPTIONS, "--head", "tied", "--dropout-mask", "sequence", "--activation", "1", "--slowness", "1"],
}


def arguments(folder, run, name):
    """5 rows, of which the processes have 2 and 3."""
    text = ["train", "--text", folder / "text", *SMALL, "--batch-size", "5", "--epochs", "2"]
    return [*text, *RUNS[run], "--out", folder / name]


def test_two_processes_train_what_one_trains(tmp_path):
    write_text(tmp_path / "text", 40)
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    run = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("2 epochs; best:") == len(RUNS)
    assert run.stderr.count("--batch-size: expected a row of text for each of 2 processes, got 1 rows") == 1
    for name in RUNS:
        assert language_model(*arguments(tmp_path, name, f"one {name}")) == 0
        found, expected = (checkpoint(tmp_path / f"{k} {name}" / "last") for k in ("two", "one"))
        assert found.tensors.keys() == expected.tensors.keys()
        for key, tensor in expected.tensors.items():
            if key.startswith("model."):
                torch.testing.assert_close(found.tensors[key], tensor, rtol=2e-5, atol=2e-5)
            elif key.startswith("generator."):
                assert torch.equal(found.tensors[key], tensor), key
        for row, other in zip(*(of.progress["progress"]["history"] for of in (found, expected)), strict=True):
            assert row["train_loss"] == pytest.approx(other["train_loss"], rel=2e-5)
            assert row["val_loss"] == pytest.approx(other["val_loss"], rel=2e-5)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    faulthandler.dump_traceback_later(220, exit=True)  # says where it hangs
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")  # once: each run would join a group of its own
    for run in RUNS:
        if status := language_model(*arguments(where, run, f"two {run}")):
            raise SystemExit(status)
    assert language_model(*arguments(where, "tied", "refused"), "--batch-size", "1") == 2
    torch.distributed.destroy_process_group()
