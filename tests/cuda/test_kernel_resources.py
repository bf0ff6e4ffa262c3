"""No kernel spills registers, by a committed report of what nvcc says, which is of these sources. Needs no GPU.

To compile them all takes minutes: one file of them is, for one architecture, to see that the report tells the truth.
"""

from __future__ import annotations

import pytest
from kernel_resources import ARCHITECTURES, REPO, find_nvcc, flags, measure, nvcc_version, read_csv, sources_hash

ONE_FILE = "recurrence_tf32.cu"
NEWEST = ARCHITECTURES[-1:]
HOW = "run `python tests/cuda/kernel_resources.py` and commit bench/results/cuda_resources.csv"


def test_the_report_is_of_these_sources():
    facts, rows = read_csv()
    assert facts["sources"] == sources_hash(), HOW
    assert {row.file for row in rows} == {path.name for path in (REPO / "csrc" / "cuda").glob("*.cu")}
    kernels = {(row.file, row.kernel) for row in rows}
    assert len(kernels) >= 16  # forward and backward, 4 dtypes, vector and scalar
    assert {(*kernel, arch) for kernel in kernels for arch in ARCHITECTURES} == {
        (r.file, r.kernel, r.arch) for r in rows
    }


def test_nothing_spills():
    _, rows = read_csv()
    assert [r for r in rows if r.spill_stores or r.spill_loads or r.stack] == []


def test_the_report_is_what_nvcc_says():
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("compiling the CUDA kernels needs nvcc: install the CUDA toolkit, or set CUDA_HOME")
    facts, rows = read_csv()
    if (facts["nvcc"], facts["flags"]) != (nvcc_version(nvcc), " ".join(flags())):
        pytest.skip(f"the report was made by nvcc {facts['nvcc']} {facts['flags']}; that is not what compiles here")
    measured = measure(nvcc, NEWEST, ONE_FILE)
    assert measured and [row for row in rows if row.arch in NEWEST and row.file == ONE_FILE] == measured, HOW
