"""Where memory runs out there is an error, whichever allocation it is: no abort, no thread that waits for another."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.modules import NOT_USABLE

TESTS = Path(__file__).resolve().parents[1]
REPO = TESTS.parent
pytestmark = [
    pytest.mark.skipif(bool(NOT_USABLE["cpu"]), reason=NOT_USABLE["cpu"]),
    pytest.mark.skipif(sys.platform != "linux", reason="the allocator is put in front of the others as on Linux"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]


@pytest.fixture(scope="module")
def allocator(tmp_path_factory):
    library = tmp_path_factory.mktemp("memory") / "libfailing_memory.so"
    source = TESTS / "failing_memory.cpp"
    subprocess.run(["c++", "-std=c++17", "-O1", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library


@pytest.mark.parametrize("threads, dtype", [(1, "float32"), (2, "float32"), (2, "bfloat16"), (1, "float16")])
def test_every_allocation_may_fail(allocator, threads, dtype):
    """Forward and backward, on the engine and stepwise; the ops that make masks."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "out_of_memory.py"), str(threads), dtype],
        # Threads that wait sleep: they may have to share a core.
        env=os.environ | {"LD_PRELOAD": str(allocator), "PYTHONPATH": str(REPO), "OMP_WAIT_POLICY": "passive"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    n, what = done.stdout.split()
    assert what == "failures" and int(n) > 5000
