"""Whole layers drawn at random, through the emulated CUDA backend, against the reference in float64.

What the other tests take in turn is mixed here: engine, GPU, sizes, dtype, noises, lengths, and where each tensor lies
in memory. Around every tensor is NaN, so that what is read past its ends is seen in the results.
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
from torch import Tensor

from rnndrop_cuda import reference
from tests.emulation import toolchain
from tests.problems import MASK_KINDS, Problem, random_problem, relative_error, rounding_bounds

CASES = int(os.environ.get("RNNDROP_FUZZ_CASES", "60"))
FIRST_SEED = int(os.environ.get("RNNDROP_FUZZ_SEED", "0"))
ENGINES = ("stepwise", "block", "cluster", "grid", "auto")
GPUS = ((9, 132, 232448), (9, 132, 20000), (8, 108, 166912), (8, 6, 101376), (9, 4, 12000))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("dense", "dense", "offset", "transposed", "wide rows", "every other")


def laid_out(draw: random.Random, tensor: Tensor) -> Tensor:
    """The same numbers somewhere in memory that is NaN elsewhere."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    layout = draw.choice(LAYOUTS)
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
    T, B, I = draw.choice((1, 2, 3, 5)), draw.choice((1, 2, 3, 4, 5, 7, 8, 9, 17)), draw.choice((1, 3, 8))
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
    unused = draw.choice(((), (), (), ("y",), ("h_n",), ("c_n",), ("h_n", "c_n")))
    return map_tensors(problem.to(dtype), lambda tensor: laid_out(draw, tensor)), unused


def assert_right(problem: Problem, unused: tuple[str, ...], layer: Layer, what: Any) -> None:
    # To the reference an unused output is one whose gradient is zero.
    zeros = {name: torch.zeros_like(problem.upstream[name]) for name in unused}
    without = replace(problem, upstream=problem.upstream | zeros)
    exact = without.to(torch.float64).solve(reference.lstm_layer)
    actual = problem.solve(leaving_unused(unused, layer))
    bounds: dict[str, float] = {}
    for name, value in actual.items():
        assert value.shape == exact[name].shape, (name, what)
        error = relative_error(value, exact[name])
        if error <= torch.finfo(value.dtype).eps:
            continue
        bounds = bounds or rounding_bounds(without, exact)
        assert error <= bounds[name], (name, error, bounds[name], what)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + CASES))
def test_drawn_layers(op, emulated, seed):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    engine, gpu, schedule = draw.choice(ENGINES), draw.choice(GPUS), draw.choice(toolchain.SCHEDULES)
    problem, unused = drawn_problem(draw)
    op.set_engine(engine)
    op.set_gpu(*gpu)
    op.set_schedule(schedule)
    try:
        what = (engine, gpu, schedule, {k: (*v.shape, v.stride()) for k, v in problem.upstream.items()})
        assert_right(problem, unused, emulated, what)
    finally:
        op.set_engine("stepwise")
        op.set_gpu(*GPUS[0])
        op.set_schedule(toolchain.SCHEDULES[0])
