"""No kernel spills registers, by a committed report of what nvcc says, which is of these sources. Needs no GPU.

That it tells the truth is test_nvcc_reports.py's to see.
"""

from __future__ import annotations

from itertools import product

from kernel_resources import (
    ARCHITECTURES,
    REPO,
    compiled_sources,
    kernel_name,
    read_csv,
    sources_hash,
)

HOW = "run `python tests/cuda/kernel_resources.py` and commit bench/results/cuda_resources.csv"


def expected_kernels():
    """(file, kernel): masks by an entry's width; rows by dtype; steps by dtype, vector, noise; recurrences by engine.

    The last also by noise. On tensor cores another recurrence keeps 32 k-steps of W_hh in a warp's registers, and one
    of these, without noise, reads by multicast.
    """
    for bits in ("unsigned short", "unsigned int", "unsigned long"):
        yield "mask_kernel.cu", f"masks_kernel<{bits}>"
    ways, noises = ("forward", "backward"), ("false", "true")
    scalars = {"double": 8, "float": 4, "__nv_bfloat16": 2, "__half": 2}
    for scalar in scalars:
        yield "masked_rows.cu", f"masked_rows_kernel<{scalar}>"
    for (scalar, size), way, noise in product(scalars.items(), ways, noises):
        for width in (16 // size, 1):
            yield "step_kernels.cu", f"{way}_kernel<{scalar}, {width}, {noise}>"
    for math, way, engine, noise in product(
        ("Float64", "Float32", "Tf32", "Bfloat16", "Float16"), ways, ("block", "cluster", "grid"), noises
    ):
        in_registers = (0,) if math in ("Float64", "Float32") else (0, 32)
        for steps in in_registers:
            yield f"recurrence_{math.lower()}.cu", f"recurrence_{way}_kernel<{math}, {engine}, {noise}, {steps}>"
    for math, way in product(("Tf32", "Bfloat16", "Float16"), ways):
        yield f"recurrence_{math.lower()}.cu", f"recurrence_{way}_kernel<{math}, multicast, false, 32>"


def test_the_report_is_of_these_sources():
    facts, rows = read_csv()
    assert facts["sources"] == sources_hash(), HOW
    assert {row.file for row in rows} == {path.name for path in (REPO / "csrc" / "cuda").glob("*.cu")}


def test_the_report_depends_on_what_nvcc_compiles_and_on_nothing_else():
    compiled = {path.name for path in compiled_sources()}
    assert {"step_kernels.cu", "recurrence_kernels.cuh", "portable.cuh", "recurrence_plan.h", "params.h"} <= compiled
    assert {"lstm_cell.h", "activations.h", "host_device.h"} <= compiled
    assert not {"layer_inputs.h", "stepwise.h", "backend.h"} & compiled


def test_the_report_has_every_kernel_once_for_each_architecture():
    _, rows = read_csv()
    expected = [(*kernel, arch) for kernel in expected_kernels() for arch in ARCHITECTURES]
    assert sorted((row.file, row.kernel, row.arch) for row in rows) == sorted(expected)


def test_a_kernel_is_named_with_its_engine_and_without_namespaces_and_arguments():
    of_engine = (
        "void rnndrop::cuda::(anonymous namespace)::recurrence_forward_kernel<rnndrop::cuda::Bfloat16, "
        "(rnndrop::cuda::Engine)3, true, 32>(rnndrop::RecurrenceForward, rnndrop::cuda::Tiling, void*)"
    )
    assert kernel_name(of_engine) == "recurrence_forward_kernel<Bfloat16, cluster, true, 32>"
    of_step = "void rnndrop::cuda::(anonymous namespace)::forward_kernel<double, 2, false>(rnndrop::StepForward)"
    assert kernel_name(of_step) == "forward_kernel<double, 2, false>"
    assert kernel_name("plain(int, float*)") == "plain"


def test_nothing_spills():
    _, rows = read_csv()
    assert [r for r in rows if r.spill_stores or r.spill_loads or r.stack] == []
