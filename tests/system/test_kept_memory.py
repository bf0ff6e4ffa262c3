"""Large blocks of the engine's memory stay for its next call, and no more of them than csrc/cpu/buffer.cpp says."""

import os
import subprocess
import sys

import pytest
from modules import NOT_USABLE

pytestmark = [
    pytest.mark.skipif(bool(NOT_USABLE["cpu"]), reason=NOT_USABLE["cpu"]),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and counts page faults as Linux does"),
]
CALLS = """
import ctypes, resource, sys
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
