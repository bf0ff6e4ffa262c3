"""The real CUDA layer on a real GPU, against the reference in float64 on the same GPU. Skips where there is none."""

from __future__ import annotations

import functools

import pytest
import torch
from layer_checks import (
    ALL_FEATURES,
    NOISY_STATE,
    UNUSED_OUTPUTS,
    assert_correct_with_unused_outputs,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    assert_same_bits,
    assert_tf32_follows_the_switch_of_nn_lstm,
    make_problem,
    map_tensors,
)

from rnndrop_cuda import functional
from tests.problems import INPUTS, assert_equals_reference

if why_not := functional.usable_backends()["cuda"]:
    pytest.skip(f"the real CUDA layer needs a GPU: {why_not}", allow_module_level=True)

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}
HALVES = (torch.bfloat16, torch.float16)
SIZES = [(1, 1, 1, 1), (5, 3, 7, 8), (4, 129, 31, 45), (6, 16, 24, 264), (3, 130, 300, 128)]

cuda_layer = functools.partial(functional.lstm_layer, backend="cuda")
cuda_problem = functools.partial(make_problem, device="cuda")


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_g", ["", "H", "BH", "TBH"], ids="g{}".format)
@pytest.mark.parametrize("mask_h", ["", "H", "BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "I", "BI"], ids="x{}".format)
def test_every_combination(mask_x, mask_h, mask_g, lengths, reverse):
    masks = {"mask_x": mask_x, "mask_h": mask_h, "mask_g": mask_g}
    assert_equals_reference(cuda_problem(4, 3, 5, 8, lengths=lengths, reverse=reverse, **masks), cuda_layer, 1e-5)


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("zone_h", ["", "H", "BH", "TBH"], ids="zh{}".format)
@pytest.mark.parametrize("zone_c", ["", "H", "TBH"], ids="zc{}".format)
@pytest.mark.parametrize("mask_c", ["", "H", "BH"], ids="c{}".format)
def test_every_combination_of_noise_on_the_state(mask_c, zone_c, zone_h, lengths):
    masks = {"mask_h": "BH", "mask_g": "BH", "mask_c": mask_c, "zone_c": zone_c, "zone_h": zone_h}
    for reverse in (False, True):
        problem = cuda_problem(4, 3, 5, 8, lengths=lengths, reverse=reverse, **masks)
        assert_equals_reference(problem, cuda_layer, 1e-5)


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_h", ["", "BH", "41H", "4BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "41I", "4BI"], ids="x{}".format)
def test_untied_masks(mask_x, mask_h, lengths):
    for H in (8, 45):
        problem = cuda_problem(4, 3, 5, H, lengths=lengths, mask_x=mask_x, mask_h=mask_h)
        assert_equals_reference(problem, cuda_layer, 1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes, dtype):
    for options in (ALL_FEATURES, NOISY_STATE, {"reverse": True, "without": ("b_hh",)}):
        assert_equals_reference(cuda_problem(*sizes, dtype=dtype, **options), cuda_layer, TOLERANCE[dtype])


def test_empty_batch():
    assert_equals_reference(cuda_problem(3, 0, 5, 8, **ALL_FEATURES), cuda_layer, 1e-5)


@pytest.mark.parametrize("unused", UNUSED_OUTPUTS, ids="+".join)
def test_outputs_that_nobody_uses(unused):
    problem = cuda_problem(3, 2, 5, 8, mask_h="BH", dtype=torch.float64)
    assert_correct_with_unused_outputs(cuda_layer, problem, unused)


@pytest.mark.parametrize("H", [45, 128])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_err_at_most_twice_as_much_as_plain_torch(dtype, H):
    problems = [cuda_problem(6, 16, 24, H, dtype=dtype, reverse=reverse, **ALL_FEATURES) for reverse in (False, True)]
    assert_errs_at_most_twice_as_much_as_plain_torch(cuda_layer, problems)


def test_equals_nn_lstm():
    problem = cuda_problem(6, 5, 7, 16)
    lstm = torch.nn.LSTM(7, 16, device="cuda")
    x, h_0, c_0, *parameters = (problem.inputs[name] for name in INPUTS)
    with torch.no_grad():
        for parameter, value in zip(lstm.parameters(), parameters, strict=True):
            parameter.copy_(value)
        expected, (h_n, c_n) = lstm(x, (h_0[None], c_0[None]))
    results = problem.solve(cuda_layer)
    for name, value in (("y", expected), ("h_n", h_n[0]), ("c_n", c_n[0])):
        torch.testing.assert_close(results[name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_tf32_follows_the_switch_of_nn_lstm():
    assert_tf32_follows_the_switch_of_nn_lstm(cuda_layer, cuda_problem(4, 64, 128, 256))


@pytest.mark.parametrize("dtype", [*TOLERANCE, *HALVES], ids=str)
def test_same_bits_on_every_run(dtype):
    problem = cuda_problem(8, 33, 20, 128, dtype=dtype, **ALL_FEATURES)
    expected = problem.solve(cuda_layer)
    for _ in range(10):
        assert_same_bits(problem.solve(cuda_layer), expected)


def test_runs_on_the_callers_stream():
    """The inputs come late on the caller's stream; whoever works on another one reads the zeros before them."""
    problem = cuda_problem(8, 64, 64, 256, **ALL_FEATURES)
    expected = problem.solve(cuda_layer)
    late = map_tensors(problem, torch.zeros_like)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for part in ("inputs", "options", "upstream"):
            for name, value in getattr(problem, part).items():
                if torch.is_tensor(value):
                    getattr(late, part)[name].copy_(value)
        results = late.solve(cuda_layer)
    stream.synchronize()
    assert_same_bits(results, expected)


def test_can_be_captured_in_a_cuda_graph():
    """Which also shows that nothing waits for the GPU: a capture does not allow it."""
    problem = cuda_problem(5, 16, 24, 64, **ALL_FEATURES)
    expected = problem.solve(cuda_layer)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = {name: value.detach() for name, value in problem.solve(cuda_layer).items()}
    for value in results.values():
        value.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(results, expected)


def test_lengths_out_of_range_are_clamped():
    problem = cuda_problem(3, 4, 5, 8, mask_h="BH", lengths=True)
    problem.options["lengths"] = torch.tensor([0, 3, 0, 3], device="cuda")
    expected = problem.solve(cuda_layer)
    problem.options["lengths"] = torch.tensor([-1, 4, -(2**62), 2**62], device="cuda")
    assert_same_bits(problem.solve(cuda_layer), expected)


def test_offsets_beyond_32_bits():
    """4 B H > 2^31: the last rows of a large batch are those of a small one."""
    B, I, H = 2**19 + 3, 8, 1024
    if torch.cuda.get_device_properties(0).total_memory < 60 * 2**30:
        pytest.skip("needs a GPU with 60 GiB of memory")
    small = cuda_problem(1, 4, I, H, dtype=torch.float16, mask_h="BH", mask_g="TBH", lengths=True)
    weights = [small.inputs[name] for name in ("W_ih", "W_hh", "b_ih", "b_hh")]

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        """Zeros in front of the four samples; the batch is the dimension before the last of all but lengths."""
        if any(tensor is weight for weight in weights):
            return tensor
        dim = max(tensor.dim() - 2, 0)
        shape = list(tensor.shape)
        shape[dim] = B - 4
        return torch.cat([tensor.new_zeros(shape), tensor], dim)

    expected, actual = small.solve(cuda_layer), map_tensors(small, padded).solve(cuda_layer)
    for name in ("y", "h_n", "c_n", "dx", "dh_0", "dc_0"):
        last = actual[name].narrow(-2, B - 4, 4)
        torch.testing.assert_close(last, expected[name], rtol=1e-2, atol=1e-2, msg=lambda m, name=name: f"{name}: {m}")


def test_on_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    assert_equals_reference(make_problem(4, 3, 5, 8, device="cuda:1", **ALL_FEATURES), cuda_layer, 1e-5)
    assert torch.cuda.current_device() == 0


def test_the_op_refuses_x_on_the_cpu():
    problem = cuda_problem(2, 3, 4, 8)
    x, *others = (problem.inputs[name] for name in INPUTS)
    with pytest.raises(RuntimeError, match="x: expected a CUDA tensor"):
        torch.ops.rnndrop.lstm_layer(x.cpu(), *others, *[None] * 8, False, True)
