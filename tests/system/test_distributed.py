"""DistributedDataParallel over the layer: two processes with half of the batch each, against one with all of it.

This file is also the program of each process: ``python test_distributed.py RANK PORT FOLDER``.
"""

import faulthandler
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from rnndrop_cuda import LSTM, LayerMasks
from tests.modules import NOT_USABLE, backends
from tests.problems import relative_error

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]
BACKENDS = backends("cpu", "python")
DROPOUT = {
    "dropout": 0.3, "input_dropout": 0.5, "hidden_dropout": 0.5, "candidate_dropout": 0.5, "weight_dropout": 0.5,
}  # fmt: skip
T, B, I, H, STEPS, RANKS = 5, 6, 4, 8, 2, 2
DEADLINE = 120  # seconds; the two processes take about five


def of_samples(masks, share):
    """The masks of a part of the batch, from those of all of it."""
    return [LayerMasks(x=m.x[share], h=m.h[share], g=m.g[:, share], w=m.w, y=_steps(m.y, share)) for m in masks]


def _steps(mask, share):
    return None if mask is None else mask[:, share]


def train(backend, masks, rank=None):
    """The gradients of each step and the parameters after them: of all the batch, or of a rank's share."""
    torch.manual_seed(1)
    options = {} if masks == "none" else DROPOUT
    module = LSTM(
        I, H, 2, bidirectional=True, mask_scope="sample", **options, dtype=torch.float64, backend=backend
    )  # fmt: skip
    x = torch.randn(STEPS, T, B, I, dtype=torch.float64)
    given = [module.draw_masks(T, B) if masks == "given" else None for _ in range(STEPS)]
    model, share = module, slice(None)
    if rank is not None:
        share = slice(rank * B // RANKS, (rank + 1) * B // RANKS)
        torch.manual_seed(2 + rank)  # masks drawn on the way are each rank's own
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 - rank)  # the wrapper has to bring rank 0's
        model = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    gradients = []
    for step in range(STEPS):
        optimizer.zero_grad()
        step_masks = None if given[step] is None else of_samples(given[step], share)
        y, (h_n, c_n) = model(x[step][:, share], masks=step_masks)
        # A mean: the ranks' mean is then the mean over the whole batch.
        sum(value.sin().mean() for value in (y, h_n, c_n)).backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
        optimizer.step()
    return {"gradients": gradients, "parameters": [parameter.detach() for parameter in module.parameters()]}


# ---------------------------------------------------------------- one of the processes


def run_rank(rank, port, folder):
    faulthandler.dump_traceback_later(DEADLINE - 20, exit=True)  # says where it hangs
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    usable = [name for name in ("cpu", "python") if not NOT_USABLE[name]]
    results = {
        (backend, masks): train(backend, masks, rank) for backend in usable for masks in ("none", "given", "drawn")
    }
    torch.save(results, folder / f"rank{rank}.pt")
    torch.distributed.barrier()  # neither leaves while the other still needs its connections
    torch.distributed.destroy_process_group()


# ---------------------------------------------------------------- the tests


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank hands back."""
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    logs = [folder / f"rank{rank}.log" for rank in range(RANKS)]
    processes = []
    for rank, log in enumerate(logs):
        command = [sys.executable, __file__, str(rank), str(port), str(folder)]
        with log.open("wb") as output:
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    end = time.monotonic() + DEADLINE
    codes = [None] * RANKS
    # Where one fails, the other would wait for it.
    while None in codes and not any(codes) and time.monotonic() < end:
        time.sleep(0.05)
        codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    if any(code != 0 for code in codes):
        said = "\n".join(f"--- rank {rank}\n{log.read_text()}" for rank, log in enumerate(logs))
        pytest.fail(f"exit codes {codes}, None is one that was killed while it ran\n{said}", pytrace=False)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


def assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert e.any()
        assert relative_error(a, e) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masks", ["none", "given"])
def test_gradients_and_steps_equal_those_of_one_process(backend, masks, ranks):
    alone = train(backend, masks)
    for rank in ranks:
        shared = rank[backend, masks]
        for step in range(STEPS):
            assert_close(shared["gradients"][step], alone["gradients"][step])
        assert_close(shared["parameters"], alone["parameters"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masks", ["none", "given", "drawn"])
def test_ranks_keep_equal_parameters(backend, masks, ranks):
    """Bit for bit, also where each rank draws masks of its own."""
    first, second = (rank[backend, masks]["parameters"] for rank in ranks)
    assert all(map(torch.equal, first, second))


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
