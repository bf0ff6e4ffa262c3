"""Large blocks of the engine's memory stay for its next call, and no more of them than csrc/cpu/buffer.cpp says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rnndrop_cuda import LSTM
from tests.modules import NOT_USABLE

pytestmark = [
    pytest.mark.skipif(bool(NOT_USABLE["cpu"]), reason=NOT_USABLE["cpu"]),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and counts page faults as Linux does"),
]
CALLS = """
import ctypes, resource
import torch
from rnndrop_cuda import LSTM

torch.set_num_threads(1)
torch.set_grad_enabled(False)

def call(H):  # with rows enough to pack the weights for
    return LSTM(H, H).eval()(torch.zeros(1, 400, H))
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CALLS + program],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_page_is_mapped_again():
    """Packed weights of 8 MB are 2048 pages of 4 KB; x and y, which are torch's, are 192."""
    faults = run("""
layer, x = LSTM(512, 512).eval(), torch.zeros(2, 96, 512)
for calls in (4, 20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        layer(x)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls)
""")
    assert float(faults) < 500


def test_it_is_bounded():
    """Layers of 260 MB of packed weights in all leave 128 MB."""
    kept = run("""
def resident():
    ctypes.CDLL(None).malloc_trim(0)
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

call(64)
before = resident()
for H in (512, 640, 768, 896, 1024, 1152, 1280, 1408):
    call(H)
print(resident() - before)
""")
    assert 50 < float(kept) < 128 + 20


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a system without huge pages")
def test_huge_pages_are_asked_for_where_a_weight_is_large():
    """Of 16 MB that the engine packs for a call, and of 32 that pack_weights keeps, all but what fills no such page."""
    for_a_call, kept = run("""
from rnndrop_cuda import pack_weights

def advised():
    size, total = 0, 0
    for line in open("/proc/self/smaps"):
        if line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("VmFlags:") and "hg" in line.split():
            total += size
    return total / 1024

layer, x = LSTM(1024, 1024).eval(), torch.zeros(2, 96, 1024)
nothing = advised()
layer(x)
for_a_call = advised()
pack_weights(layer)
print(for_a_call - nothing, advised() - for_a_call)
""").split()
    assert float(for_a_call) >= 14
    assert float(kept) >= 28


@pytest.mark.parametrize("dropped", [{}, {"input_dropout": 0.5, "hidden_dropout": 0.5, "candidate_dropout": 0.25}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_what_a_call_left_there_is_not_read(dtype, dropped):
    """No size is a multiple of anything, so that every panel and every row has its end filled up."""
    layer, x = LSTM(299, 301, dtype=dtype, **dropped), torch.randn(4, 37, 299, dtype=dtype)

    def results(x):
        torch.manual_seed(1)  # the masks'
        y = layer(x)[0]
        return [y.detach(), *torch.autograd.grad(y.sum(), list(layer.parameters()))]

    before = results(x)
    assert results(torch.full_like(x, torch.nan))[0].isnan().all()
    after = results(x)
    assert all(map(torch.equal, before, after))
