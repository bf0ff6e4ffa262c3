"""nvcc compiles every kernel file, and no kernel spills registers. Needs no GPU.

For the newest architecture: a compilation takes minutes. The committed report has all of them.
"""

from __future__ import annotations

import pytest
from kernel_resources import ARCHITECTURES, find_nvcc, flags, measure, nvcc_version, read_csv

NEWEST = ARCHITECTURES[-1:]


@pytest.fixture(scope="module")
def nvcc():
    found = find_nvcc()
    if found is None:
        pytest.skip("compiling the CUDA kernels needs nvcc: install the CUDA toolkit, or set CUDA_HOME")
    return found


@pytest.fixture(scope="module")
def measured(nvcc):
    return measure(nvcc, NEWEST)


def test_kernels_compile_for_every_architecture(measured):
    kernels = {(r.file, r.kernel) for r in measured}
    assert len(kernels) >= 16  # forward and backward, 4 dtypes, vector and scalar
    _, committed = read_csv()
    assert {(*k, arch) for k in kernels for arch in ARCHITECTURES} == {(r.file, r.kernel, r.arch) for r in committed}


def test_nothing_spills(measured):
    _, committed = read_csv()
    assert [r for r in (*measured, *committed) if r.spill_stores or r.spill_loads or r.stack] == []


def test_the_committed_report_is_current(nvcc, measured):
    facts, rows = read_csv()
    if (facts["nvcc"], facts["flags"]) != (nvcc_version(nvcc), " ".join(flags())):
        pytest.skip(f"the report was made by nvcc {facts['nvcc']} {facts['flags']}; that is not what compiles here")
    assert [row for row in rows if row.arch in NEWEST] == measured, (
        "run `python tests/cuda/kernel_resources.py` and commit bench/results/cuda_resources.csv"
    )
