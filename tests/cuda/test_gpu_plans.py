"""With torch.backends.cudnn.benchmark a real GPU times its plans. Skips where there is none."""

from __future__ import annotations

import functools

import pytest
import torch
from layer_checks import (
    ALL_FEATURES,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    assert_same_bits,
    make_problem,
)

from rnndrop_cuda import engines, functional

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
