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
    assert_same_bits_while_the_gpu_is_busy,
    make_problem,
    runs_that_differ,
)

import rnndrop_cuda
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


@pytest.fixture(params=[4, 1], ids=["shared", "each for itself"])
def multicast(request):
    """The engine, whose copies may be for several blocks or not; multicast(B, H, dtype) asserts that it runs."""
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU with clusters: sm_90 or later")

    def check(B, H, dtype):
        # The driver is asked. Only a backward in TF32 may have more to copy than there is room for.
        forward, backward = engines.explain_engine(9, B, 24, H, dtype).splitlines()
        assert "multicast: " in forward
        assert "multicast: " in backward or dtype == torch.float32
        assert request.param > 1 or "copy for each other" not in forward + backward

    rnndrop_cuda._C.set_cuda_trials(multicast=request.param)
    with cuda_engine("multicast"):
        yield check
    rnndrop_cuda._C.set_cuda_trials()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize(("B", "H"), SIZES, ids=str)
def test_multicast(multicast, B, H, reverse, dtype):
    """float32 is multiplied as TF32."""
    multicast(B, H, dtype)
    problem = make_problem(9, B, 24, H, dtype=dtype, device="cuda", reverse=reverse, **MASKS)
    if dtype == torch.float32:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            assert_equals_reference(problem, cuda_layer, eps=2**-10)
    else:
        assert_errs_at_most_twice_as_much_as_plain_torch(cuda_layer, [problem])


@pytest.mark.parametrize(("B", "H"), SIZES[:3], ids=str)
def test_multicast_gives_the_same_bits_many_times(multicast, B, H):
    multicast(B, H, torch.bfloat16)
    problem = make_problem(5, B, 8, H, dtype=torch.bfloat16, device="cuda", **MASKS)
    assert runs_that_differ(cuda_layer, problem, repeats=int(os.environ.get("GPU_REPEATS", "500"))) == 0


def test_multicast_runs_while_another_kernel_keeps_the_gpu_busy(multicast):
    """Its blocks wait for each other, and a cluster wants several multiprocessors of a GPC at once."""
    multicast(16, 768, torch.bfloat16)
    problem = make_problem(70, 16, 24, 768, dtype=torch.bfloat16, device="cuda", **MASKS)
    assert_same_bits_while_the_gpu_is_busy(cuda_layer, problem)
