"""The real CUDA op on a real GPU, against the reference in float64 on the same GPU. Skips where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from layer_problem import (
    DIFFERENTIABLE,
    OUTPUTS,
    Problem,
    assert_close,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    error,
    make_problem,
    run_op,
    run_reference,
)

from rnndrop_cuda import functional

if why_not := functional.usable_backends()["cuda"]:
    pytest.skip(f"the real CUDA op needs a GPU: {why_not}", allow_module_level=True)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}
ALL_FEATURES = {"mask_x": "BI", "mask_h": "BH", "mask_g": "TBH", "lengths": True}
SIZES = [(1, 1, 1, 1), (5, 3, 7, 8), (4, 129, 31, 45), (6, 16, 24, 264), (3, 130, 300, 128)]


def cuda_problem(*sizes: int, **options) -> Problem:
    return make_problem(*sizes, device="cuda", **options)


@pytest.fixture(autouse=True)
def exact_float32():
    """TF32 off for the reference and, as cuDNN's switch says, for the op; put back afterwards."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value


def check(problem: Problem) -> None:
    assert_close(run_op(torch.ops.rnndrop, problem), run_reference(problem), TOLERANCE[problem.x.dtype])


def assert_same_bits(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_g", ["", "H", "BH", "TBH"], ids="g{}".format)
@pytest.mark.parametrize("mask_h", ["", "H", "BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "I", "BI"], ids="x{}".format)
def test_every_combination(mask_x, mask_h, mask_g, lengths, reverse):
    options = {"mask_x": mask_x, "mask_h": mask_h, "mask_g": mask_g, "lengths": lengths, "reverse": reverse}
    check(cuda_problem(4, 3, 5, 8, **options))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes, dtype):
    check(cuda_problem(*sizes, dtype=dtype, **ALL_FEATURES))
    check(cuda_problem(*sizes, dtype=dtype, reverse=True, b_hh=False))


def test_empty_batch():
    check(cuda_problem(3, 0, 5, 8, **ALL_FEATURES))


@pytest.mark.parametrize("H", [45, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_err_at_most_twice_as_much_as_plain_torch(dtype, H):
    problems = [
        cuda_problem(6, 16, 24, H, dtype=dtype, seed=seed, reverse=seed % 2 == 1, **ALL_FEATURES) for seed in range(4)
    ]
    assert_errs_at_most_twice_as_much_as_plain_torch(torch.ops.rnndrop, problems)


def test_tf32_follows_the_switch_of_nn_lstm():
    """That is cuDNN's; cuda.matmul's has no say."""
    problem = cuda_problem(4, 64, 128, 256)
    results = {}
    for cudnn_switch in (False, True):
        for matmul_switch in (False, True):
            torch.backends.cudnn.allow_tf32 = cudnn_switch
            torch.backends.cuda.matmul.allow_tf32 = matmul_switch
            results[cudnn_switch, matmul_switch] = run_op(torch.ops.rnndrop, problem)
    expected = run_reference(problem)
    assert_same_bits(results[False, True], results[False, False])
    assert_same_bits(results[True, True], results[True, False])
    assert_close(results[False, True], expected, TOLERANCE[torch.float32])
    assert_close(results[True, False], expected, 1e-2)
    assert error(results[True, False]["y"], expected["y"]) > 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_on_every_run(dtype):
    problem = cuda_problem(8, 33, 20, 128, dtype=dtype, **ALL_FEATURES)
    expected = run_op(torch.ops.rnndrop, problem)
    for _ in range(10):
        assert_same_bits(run_op(torch.ops.rnndrop, problem), expected)


def test_runs_on_the_callers_stream():
    """The inputs come late on the caller's stream; whoever works on another one reads the zeros before them."""
    problem = cuda_problem(8, 64, 64, 256, **ALL_FEATURES)
    expected = run_op(torch.ops.rnndrop, problem)
    late = problem.map(torch.zeros_like)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for name in vars(problem):
            if isinstance(value := getattr(late, name), torch.Tensor):
                value.copy_(getattr(problem, name))
        results = run_op(torch.ops.rnndrop, late)
    stream.synchronize()
    assert_same_bits(results, expected)


def test_can_be_captured_in_a_cuda_graph():
    """Which also shows that nothing waits for the GPU: a capture does not allow it."""
    problem = cuda_problem(5, 16, 24, 64, **ALL_FEATURES)
    expected = run_op(torch.ops.rnndrop, problem)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run_op(torch.ops.rnndrop, problem)
    for value in results.values():
        value.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(results, expected)


def test_lengths_out_of_range_are_clamped():
    problem = cuda_problem(3, 4, 5, 8, mask_h="BH", lengths=True)
    inside = replace(problem, lengths=torch.tensor([0, 3, 0, 3], device="cuda"))
    outside = replace(problem, lengths=torch.tensor([-1, 4, -(2**62), 2**62], device="cuda"))
    assert_same_bits(run_op(torch.ops.rnndrop, outside), run_op(torch.ops.rnndrop, inside))


def test_offsets_beyond_32_bits():
    """4 B H > 2^31: the last rows of a large batch are those of a small one."""
    B, I, H = 2**19 + 3, 8, 1024
    if torch.cuda.get_device_properties(0).total_memory < 60 * 2**30:
        pytest.skip("needs a GPU with 60 GiB of memory")
    small = cuda_problem(1, 4, I, H, dtype=torch.float16, mask_h="BH", mask_g="TBH", lengths=True)
    of_rows = dict.fromkeys(("x", "mask_g", "dy"), 1) | dict.fromkeys(("h_0", "c_0", "mask_h", "dh_n", "dc_n"), 0)

    def padded(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        shape = list(tensor.shape)
        shape[dim] = B - 4
        return torch.cat([tensor.new_zeros(shape), tensor], dim)

    large = replace(small, **{name: padded(getattr(small, name), dim) for name, dim in of_rows.items()})
    large = replace(large, lengths=padded(small.lengths, 0))
    expected, actual = run_op(torch.ops.rnndrop, small), run_op(torch.ops.rnndrop, large)
    for name in ("y", "h_n", "c_n", "dx", "dh_0", "dc_0"):
        last = actual[name].narrow(1 if name in ("y", "dx") else 0, B - 4, 4)
        torch.testing.assert_close(last, expected[name], rtol=1e-2, atol=1e-2, msg=lambda m, name=name: f"{name}: {m}")


def test_on_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    problem = make_problem(4, 3, 5, 8, device="cuda:1", **ALL_FEATURES)
    assert torch.cuda.current_device() == 0
    check(problem)
    assert torch.cuda.current_device() == 0


def test_x_on_the_cpu_is_refused():
    problem = cuda_problem(2, 3, 4, 8)
    with pytest.raises(RuntimeError, match="x: expected a CUDA tensor"):
        run_op(torch.ops.rnndrop, replace(problem, x=problem.x.cpu()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_through_the_public_function_and_autograd(dtype):
    problem = cuda_problem(4, 3, 5, 8, dtype=dtype, **ALL_FEATURES)
    leaves = {name: getattr(problem, name).clone().requires_grad_() for name in DIFFERENTIABLE}
    constants = {name: getattr(problem, name) for name in ("mask_x", "mask_h", "mask_g", "lengths", "reverse")}
    outputs = functional.lstm_layer(**leaves, **constants, backend="cuda")
    gradients = torch.autograd.grad(outputs, list(leaves.values()), [problem.dy, problem.dh_n, problem.dc_n])
    results = dict(zip(OUTPUTS, outputs, strict=True))
    results |= {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    assert_close(results, run_reference(problem), TOLERANCE[dtype])


def test_equals_nn_lstm():
    problem = cuda_problem(6, 5, 7, 16)
    lstm = torch.nn.LSTM(7, 16, device="cuda")
    with torch.no_grad():
        for parameter, value in zip(lstm.parameters(), DIFFERENTIABLE[3:], strict=True):  # W_ih, W_hh, b_ih, b_hh
            parameter.copy_(getattr(problem, value))
        y, (h_n, c_n) = lstm(problem.x, (problem.h_0[None], problem.c_0[None]))
    results = run_op(torch.ops.rnndrop, problem)
    expected = {"y": y, "h_n": h_n[0], "c_n": c_n[0]}
    assert_close({name: results[name] for name in expected}, {k: v.double() for k, v in expected.items()}, 1e-5)
