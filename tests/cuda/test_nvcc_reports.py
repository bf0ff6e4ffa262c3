"""The committed reports of registers and of time loops tell the truth. Needs nvcc, and no GPU.

To compile all kernels takes minutes: one file of them is, once for both reports, for one architecture.
"""

from __future__ import annotations

import kernel_resources
import pytest
import time_loops
from kernel_resources import ARCHITECTURES, find_nvcc, flags, nvcc_version

ONE_FILE = "recurrence_bfloat16.cu"
NEWEST = ARCHITECTURES[-1:]


@pytest.fixture(scope="module")
def nvcc():
    if found := find_nvcc():
        return found
    pytest.skip("compiling the CUDA kernels needs nvcc: install the CUDA toolkit, or set CUDA_HOME")


def committed(nvcc, report):
    """Its rows of that file."""
    facts, rows = report.read_csv()
    if (facts["nvcc"], facts["flags"]) != (nvcc_version(nvcc), " ".join(flags())):
        pytest.skip(f"the report was made by nvcc {facts['nvcc']} {facts['flags']}; that is not what compiles here")
    return [row for row in rows if row.arch in NEWEST and row.file == ONE_FILE]


def how(report):
    return f"run `python {report.__file__}` and commit {report.CSV}"


def test_registers_and_spills_are_what_nvcc_says(nvcc):
    rows = committed(nvcc, kernel_resources)
    measured = kernel_resources.measure(nvcc, NEWEST, ONE_FILE)
    assert measured and rows == measured, how(kernel_resources)


def test_time_loops_are_what_nvcc_makes(nvcc):
    nvdisasm = time_loops.find_nvdisasm()
    if nvdisasm is None:
        pytest.skip("needs nvdisasm: the CUDA toolkit, or `pip install nvidia-cuda-nvdisasm` beside nvcc")
    rows = committed(nvcc, time_loops)
    measured = time_loops.measure(nvcc, nvdisasm, NEWEST, ONE_FILE)
    assert measured and rows == measured, how(time_loops)
