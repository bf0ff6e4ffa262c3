"""Problems and checks that the tests of the emulated and of the real CUDA layer share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import reference
from tests.problems import CONSTANTS, INPUTS, OUTPUTS, Problem, random_noise, random_problem, relative_error

Layer = Callable[..., tuple[Tensor, Tensor, Tensor]]
ALL_FEATURES = {"mask_x": "BI", "mask_h": "BH", "mask_g": "TBH", "lengths": True}
NOISY_STATE = ALL_FEATURES | {"mask_c": "BH", "zone_c": "TBH", "zone_h": "TBH"}
UNUSED_OUTPUTS = [("y",), ("h_n",), ("c_n",), ("y", "h_n"), ("y", "c_n"), ("h_n", "c_n")]


def make_problem(
    T: int,
    B: int,
    I: int,
    H: int,
    *,
    p: float = 0.4,
    without: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **options: Any,
) -> Problem:
    """A random problem with any mix of masks, each asked for by its shape: `mask_g="TBH"`, or "" for none.

    Drawn on the CPU, so that it is the same on every device. `without` names biases that are None.
    """
    size = {"T": T, "B": B, "I": I, "H": H, "1": 1, "4": 4}
    shapes = {name: options.pop(name) for name in CONSTANTS if isinstance(options.get(name), str)}
    masks = {name: random_noise(name, tuple(size[s] for s in shape), p) for name, shape in shapes.items() if shape}
    problem = random_problem(T, B, I, H, **options)
    inputs = {name: None if name in without else value for name, value in problem.inputs.items()}
    problem = replace(problem, inputs=inputs, options=problem.options | masks)
    return map_tensors(problem.to(dtype), lambda tensor: tensor.to(device))


def map_tensors(problem: Problem, change: Callable[[Tensor], Tensor]) -> Problem:
    """The problem with every tensor changed."""

    def changed(values: dict[str, Any]) -> dict[str, Any]:
        return {name: change(value) if torch.is_tensor(value) else value for name, value in values.items()}

    return Problem(changed(problem.inputs), changed(problem.options), changed(problem.upstream))


def with_gradient_as_batch_first(problem: Problem) -> Problem:
    """The problem with a dL/dy that lies in memory as [B,T,H]."""
    dy = problem.upstream["y"].transpose(0, 1)
    batch_first = dy.new_empty(dy.shape).copy_(dy).transpose(0, 1)
    return replace(problem, upstream=problem.upstream | {"y": batch_first})


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """No result differs in a single bit."""
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def assert_same_bits_while_the_gpu_is_busy(layer: Layer, problem: Problem) -> None:
    """What it gives while another stream wants all multiprocessors, too."""
    expected = problem.solve(layer)
    matrix = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    product = torch.empty_like(matrix)
    other = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        for _ in range(50):
            torch.mm(matrix, matrix, out=product)
    results = problem.solve(layer)
    torch.cuda.synchronize()
    assert_same_bits(results, expected)


def runs_that_differ(layer: Layer, problem: Problem, repeats: int) -> int:
    """How many forwards and backwards of the same call differ in a bit from the first, which has to be finite.

    Compared where they are, so that nothing waits for a GPU between two runs.
    """
    leaves = [problem.inputs[name].requires_grad_() for name in INPUTS]
    upstream = list(problem.upstream.values())

    def results() -> Tensor:
        output = layer(*leaves, **problem.options)
        parts = (*output, *torch.autograd.grad(output, leaves, upstream))
        return torch.cat([part.detach().flatten() for part in parts])

    expected = results()
    assert expected.isfinite().all()
    different = torch.zeros((), dtype=torch.int64, device=expected.device)
    for _ in range(repeats):
        different += (results() != expected).any()
    return int(different)


def leaving_unused(unused: tuple[str, ...], layer: Layer) -> Layer:
    """The layer with some outputs cut off from it, whose gradients then are None."""

    def cut(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        outputs = dict(zip(OUTPUTS, layer(*args, **kwargs), strict=True))
        nothing = next(0 * output.sum() for name, output in outputs.items() if name not in unused)
        return tuple(output.detach() + nothing if name in unused else output for name, output in outputs.items())

    return cut


def assert_correct_with_unused_outputs(layer: Layer, problem: Problem, unused: tuple[str, ...]) -> None:
    """`problem` is in float64."""
    expected = problem.solve(leaving_unused(unused, reference.lstm_layer))
    for name, value in problem.solve(leaving_unused(unused, layer)).items():
        assert relative_error(value, expected[name]) <= 1e-11, name


def assert_errs_at_most_twice_as_much_as_plain_torch(layer: Layer, problems: Iterable[Problem]) -> None:
    """Against float64, by result, in the mean over the problems: chance has too much say in a single one."""
    ours: Counter[str] = Counter()
    torchs: Counter[str] = Counter()
    for problem in problems:
        expected = problem.to(torch.float64).solve(reference.lstm_layer)
        for errors, results in ((ours, problem.solve(layer)), (torchs, problem.solve(reference.lstm_layer))):
            for name, value in expected.items():
                assert results[name].dtype == problem.upstream["y"].dtype, name
                errors[name] += relative_error(results[name], value)
    assert {name: ours[name] / torchs[name] for name in ours if not ours[name] <= 2 * torchs[name]} == {}


def assert_tf32_follows_the_switch_of_nn_lstm(layer: Layer, problem: Problem) -> None:
    """That is cuDNN's, or where cuDNN is switched off cuda.matmul's. `problem` is in float32."""

    def results(*, cudnn: bool, matmul: bool, enabled: bool = True) -> dict[str, Tensor]:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        with torch.backends.cudnn.flags(enabled=enabled, allow_tf32=cudnn):
            return problem.solve(layer)

    exact, rounded = results(cudnn=False, matmul=False), results(cudnn=True, matmul=True)
    expected = problem.to(torch.float64).solve(reference.lstm_layer)
    assert max(relative_error(exact[name], expected[name]) for name in expected) < 1e-5
    assert 1e-5 < relative_error(rounded["y"], exact["y"]) < 1e-2
    assert_same_bits(results(cudnn=False, matmul=True), exact)
    assert_same_bits(results(cudnn=True, matmul=False), rounded)
    assert_same_bits(results(cudnn=True, matmul=False, enabled=False), exact)
    assert_same_bits(results(cudnn=False, matmul=True, enabled=False), rounded)
