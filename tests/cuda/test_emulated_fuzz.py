"""Whole layers drawn at random, through the emulated CUDA backend, against the reference in float64.

What the other tests take in turn is mixed here: engine, GPU, sizes, dtype, TF32, noises, lengths, and where each tensor
lies in memory. Around every tensor is NaN, so that what is read past its ends is seen in the results. Recurrences alone
run where memory is weak, too, and their results are to be the same bits as where it is not.
For longer: RNNDROP_FUZZ_CASES=2000 RNNDROP_FUZZ_SEED=1 python -m pytest tests/cuda/test_emulated_fuzz.py
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from layer_checks import Layer, leaving_unused, map_tensors
from test_recurrence_kernels import bits_on_plain_memory, bits_printed, build_weak, run_recurrences
from torch import Tensor

from rnndrop_cuda import reference
from tests.emulation import toolchain
from tests.problems import INPUTS, MASK_KINDS, Problem, random_problem, relative_error, rounding_bounds

CASES = int(os.environ.get("RNNDROP_FUZZ_CASES", "60"))
FIRST_SEED = int(os.environ.get("RNNDROP_FUZZ_SEED", "0"))
ENGINES = ("stepwise", "block", "cluster", "grid", "multicast", "auto")
GPUS = ((9, 132, 232448), (9, 132, 20000), (8, 108, 166912), (8, 6, 101376), (9, 4, 12000))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("dense", "dense", "offset", "transposed", "wide rows", "every other", "expanded")


def laid_out(draw: random.Random, tensor: Tensor) -> Tensor:
    """The same numbers somewhere in memory that is NaN elsewhere; of an expanded one those of its first row for all."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    layout = draw.choice(LAYOUTS)
    if layout == "expanded":
        return tensor[:1].clone().expand(tensor.shape)
    order = list(range(tensor.dim()))
    if layout == "transposed" and tensor.dim() > 1:
        order[0], order[1] = 1, 0
    stored = tensor.permute(order)
    last = stored.shape[-1]
    step = 2 if layout == "every other" else 1
    row = step * last + (3 if layout == "wide rows" else 0)
    rows = tensor.numel() // last
    before = draw.choice((1, 3, 8)) if layout == "offset" else 64
    memory = torch.full((before + rows * row + 64,), float("nan"), dtype=tensor.dtype)
    place = memory[before : before + rows * row].view(rows, row)[:, : step * last : step]
    place = place.unflatten(0, stored.shape[:-1]) if stored.dim() > 1 else place[0]
    return place.copy_(stored).permute(order)


def drawn_problem(draw: random.Random) -> tuple[Problem, tuple[str, ...]]:
    """A problem, and the outputs of which nobody uses the gradient."""
    dtype = draw.choice(DTYPES)
    T, B, I = draw.choice((1, 2, 3, 5, 5, 17)), draw.choice((1, 2, 3, 4, 5, 7, 8, 9, 17)), draw.choice((1, 3, 8))
    H = draw.choice((1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40))
    problem = random_problem(
        T, B, I, H,
        proj=draw.choice((0, 0, 0, min(3, H))),
        masks=draw.choice(tuple(MASK_KINDS)),
        p=draw.choice((0.25, 0.5, 1.0)),
        bias=draw.random() < 0.8,
        lengths=draw.random() < 0.4,
        reverse=draw.random() < 0.5,
    )  # fmt: skip
    if problem.inputs["b_ih"] is not None and draw.random() < 0.3:
        problem.inputs[draw.choice(("b_ih", "b_hh"))] = None
    for state in ("h_0", "c_0"):
        if draw.random() < 0.25:
            problem.inputs[state] = None
    unused = draw.choice(((), (), (), ("y",), ("h_n",), ("c_n",), ("h_n", "c_n")))
    return map_tensors(problem.to(dtype), lambda tensor: laid_out(draw, tensor)), unused


def without_overflow(value: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The value, exact where that is larger than the dtype's numbers and the value infinite, as it should be."""
    limit = torch.finfo(value.dtype).max
    is_right = (value == exact.sign() * float("inf")) & (exact.abs() > (1 - 2**-5) * limit)
    return torch.where(is_right, exact, value.to(exact.dtype))


def test_what_a_dtype_cannot_hold_may_be_infinite():
    exact = torch.tensor([1e5, -1e5, 1e5, 1.0, 6.6e4], dtype=torch.float64)
    value = torch.tensor([1e5, -1e5, -1e5, 1e5, 6e4], dtype=torch.float16)
    assert without_overflow(value, exact).tolist() == [1e5, -1e5, -float("inf"), float("inf"), 6e4]


def assert_right(problem: Problem, unused: tuple[str, ...], layer: Layer, eps: float | None, what: Any) -> None:
    """eps: of the dtype that is multiplied in, None for the problem's own."""
    # To the reference an unused output is one whose gradient is zero.
    zeros = {name: torch.zeros_like(problem.upstream[name]) for name in unused}
    without = replace(problem, upstream=problem.upstream | zeros)
    exact = without.to(torch.float64).solve(reference.lstm_layer)
    actual = problem.solve(leaving_unused(unused, layer))
    bounds: dict[str, float] = {}
    for name, value in actual.items():
        assert value.shape == exact[name].shape, (name, what)
        tiny = torch.finfo(value.dtype).tiny
        if exact[name].numel() and exact[name].abs().max() < tiny:  # rounded to what numbers there are, or to 0
            assert value.abs().max() <= 2 * tiny, (name, what)
            continue
        error = relative_error(without_overflow(value, exact[name]), exact[name])
        if error <= torch.finfo(value.dtype).eps:
            continue
        bounds = bounds or rounding_bounds(without, exact, eps)
        assert error <= bounds[name], (name, error, bounds[name], what)


def run_drawn(op: Any, layer: Layer, seed: int) -> None:
    torch.manual_seed(seed)
    draw = random.Random(seed)
    engine, gpu, schedule = draw.choice(ENGINES), draw.choice(GPUS), draw.choice(toolchain.SCHEDULES)
    problem, unused = drawn_problem(draw)
    tf32 = problem.upstream["y"].dtype == torch.float32 and draw.random() < 0.5
    op.set_engine(engine)
    op.set_gpu(*gpu)
    op.set_schedule(schedule)
    try:
        what = (engine, gpu, schedule, tf32, {k: (*v.shape, v.stride()) for k, v in problem.upstream.items()})
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            assert_right(problem, unused, layer, 2**-10 if tf32 else None, what)
    finally:
        op.set_engine("stepwise")
        op.set_gpu(*GPUS[0])
        op.set_schedule(toolchain.SCHEDULES[0])


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + CASES))
def test_drawn_layers(op, emulated, seed):
    run_drawn(op, emulated, seed)


@pytest.mark.parametrize("name", ["x", "h_0", "W_ih", "W_hh", "mask_x", "mask_h", "mask_g", "zone_h"])
def test_a_layer_that_takes_a_tensor_for_a_dense_one_is_found(op, emulated, name):
    def layer(*args, **options):
        def as_if_dense(tensor):
            dense = tensor.new_empty(tensor.shape).stride()
            last = sum(step * (size - 1) for step, size in zip(dense, tensor.shape, strict=True))
            there = tensor.untyped_storage().nbytes() // tensor.element_size()
            return tensor.as_strided(tensor.shape, dense) if tensor.storage_offset() + last < there else tensor

        arguments = dict(zip(INPUTS, args, strict=True)) | options
        if arguments.get(name) is not None:
            arguments[name] = as_if_dense(arguments[name])
        return emulated(**arguments)

    def is_found(seed):
        try:
            run_drawn(op, layer, seed)
        except AssertionError:
            return True
        return False

    assert any(map(is_found, range(100)))


@pytest.mark.skipif(bool(toolchain.why_unusable()), reason=toolchain.why_unusable())
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + CASES // 4))
def test_drawn_recurrences_under_weak_memory(seed):
    done = run_recurrences(build_weak(), seed)
    assert done.returncode == 0, done.stdout
    assert bits_printed(done) == bits_on_plain_memory(seed)
