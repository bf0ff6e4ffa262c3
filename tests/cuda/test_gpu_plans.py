"""What a real GPU runs only if it is asked to: plans that it has timed, and multicasts. Skips where there is none."""

from __future__ import annotations

import functools
import os

import pytest
import torch
from layer_checks import (
    ALL_FEATURES,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    assert_same_bits,
    make_problem,
    runs_that_differ,
)

from rnndrop_cuda import cuda_engine, engines, functional
from tests.problems import assert_equals_reference

if why_not := functional.usable_backends()["cuda"]:
    pytest.skip(f"the real CUDA layer needs a GPU: {why_not}", allow_module_level=True)

pytestmark = pytest.mark.gpu

cuda_layer = functools.partial(functional.lstm_layer, backend="cuda")


@pytest.mark.parametrize("options", [{}, {**ALL_FEATURES, "reverse": True}], ids=["plain", "features"])
@pytest.mark.parametrize(("B", "H"), [(33, 72), (16, 264), (16, 776)], ids=str)
def test_plans_are_timed_where_cudnn_would_be(B, H, options):
    """The first call times, the second runs what was fastest; and so does a graph."""
    problem = make_problem(70, B, 24, H, dtype=torch.bfloat16, device="cuda", **options)
    before = len(engines.timed_plans())
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        assert_errs_at_most_twice_as_much_as_plain_torch(cuda_layer, [problem])
        assert len(engines.timed_plans()) == before + 2, "a forward and a backward"
        expected = problem.solve(cuda_layer)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = {name: value.detach() for name, value in problem.solve(cuda_layer).items()}
        graph.replay()
        torch.cuda.synchronize()
    assert_same_bits(results, expected)
    assert len(engines.timed_plans()) == before + 2


MASKS = {"mask_x": "BI", "mask_h": "BH", "mask_g": "TBH"}
SIZES = [(16, 768), (32, 1024), (33, 264), (64, 512), (128, 128)]
"""B, H: clusters of two and of four; blocks with units beyond the last, groups with samples beyond it."""


@pytest.fixture
def multicast():
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU with clusters: sm_90 or later")
    with cuda_engine("multicast"):
        yield


@pytest.mark.usefixtures("multicast")
@pytest.mark.parametrize("dtype", ["tf32", torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize(("B", "H"), SIZES, ids=str)
def test_multicast(B, H, reverse, dtype):
    tf32 = dtype == "tf32"
    problem = make_problem(9, B, 24, H, dtype=torch.float32 if tf32 else dtype, device="cuda", reverse=reverse, **MASKS)
    if not tf32:
        return assert_errs_at_most_twice_as_much_as_plain_torch(cuda_layer, [problem])
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        assert_equals_reference(problem, cuda_layer, eps=2**-10)


@pytest.mark.usefixtures("multicast")
@pytest.mark.parametrize(("B", "H"), SIZES[:3], ids=str)
def test_multicast_gives_the_same_bits_many_times(B, H):
    problem = make_problem(5, B, 8, H, dtype=torch.bfloat16, device="cuda", **MASKS)
    assert runs_that_differ(cuda_layer, problem, repeats=int(os.environ.get("GPU_REPEATS", "500"))) == 0


@pytest.mark.usefixtures("multicast")
def test_multicast_runs_while_another_kernel_keeps_the_gpu_busy():
    """Its blocks wait for each other, and a cluster wants several multiprocessors of a GPC at once."""
    problem = make_problem(70, 16, 24, 768, dtype=torch.bfloat16, device="cuda", **MASKS)
    expected = problem.solve(cuda_layer)
    matrix = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    product = torch.empty_like(matrix)
    other = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        for _ in range(50):
            torch.mm(matrix, matrix, out=product)
    results = problem.solve(cuda_layer)
    torch.cuda.synchronize()
    assert_same_bits(results, expected)
