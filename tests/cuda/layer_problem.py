"""A layer's inputs drawn at random, and its results and gradients from an op and from the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import reference

DIFFERENTIABLE = ("x", "h_0", "c_0", "W_ih", "W_hh", "b_ih", "b_hh")
OUTPUTS = ("y", "h_n", "c_n")


@dataclass(frozen=True)
class Problem:
    """Arguments of `lstm_layer`, by its names, and the upstream gradients (None: that output is not used)."""

    x: Tensor
    h_0: Tensor
    c_0: Tensor
    W_ih: Tensor
    W_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    mask_x: Tensor | None
    mask_h: Tensor | None
    mask_g: Tensor | None
    lengths: Tensor | None
    reverse: bool
    dy: Tensor | None
    dh_n: Tensor | None
    dc_n: Tensor | None

    def map(self, change: Callable[[Tensor], Tensor]) -> Problem:
        """The problem with every floating-point tensor changed."""
        new = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor) and value.is_floating_point()
        }
        return replace(self, **new)


def make_problem(
    T: int,
    B: int,
    I: int,
    H: int,
    *,
    mask_x: str = "",
    mask_h: str = "",
    mask_g: str = "",
    lengths: bool = False,
    reverse: bool = False,
    b_ih: bool = True,
    b_hh: bool = True,
    p: float = 0.4,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Problem:
    """Masks are asked for by their shape, "" for none: `mask_g="TBH"` is one of shape [T, B, H]."""
    draw = torch.Generator().manual_seed(seed)
    size = {"T": T, "B": B, "I": I, "H": H}

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=draw)).to(device, dtype)

    def mask(dims: str) -> Tensor | None:
        if not dims:
            return None
        kept = torch.rand([size[d] for d in dims], generator=draw) >= p
        return (kept / (1 - p) if p < 1 else kept.float()).to(device, dtype)

    return Problem(
        x=normal(T, B, I),
        h_0=normal(B, H),
        c_0=normal(B, H),
        W_ih=normal(4 * H, I, scale=I**-0.5),
        W_hh=normal(4 * H, H, scale=H**-0.5),
        b_ih=normal(4 * H) if b_ih else None,
        b_hh=normal(4 * H) if b_hh else None,
        mask_x=mask(mask_x),
        mask_h=mask(mask_h),
        mask_g=mask(mask_g),
        lengths=torch.randint(0, T + 1, (B,), generator=draw).to(device) if lengths else None,
        reverse=reverse,
        dy=normal(T, B, H),
        dh_n=normal(B, H),
        dc_n=normal(B, H),
    )


def run_reference(problem: Problem, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Outputs and gradients by name, through autograd, computed in `dtype`."""
    cast = problem.map(lambda t: t.detach().to(dtype))
    leaves = {
        name: value.clone().requires_grad_() for name in DIFFERENTIABLE if (value := getattr(cast, name)) is not None
    }
    constants = {name: getattr(cast, name) for name in ("mask_x", "mask_h", "mask_g", "lengths", "reverse")}
    outputs = dict(zip(OUTPUTS, reference.lstm_layer(**leaves, **constants), strict=True))
    used = [name for name in OUTPUTS if getattr(cast, f"d{name}") is not None]
    gradients = torch.autograd.grad(
        [outputs[name] for name in used], list(leaves.values()), [getattr(cast, f"d{name}") for name in used]
    )
    results = {name: value.detach() for name, value in outputs.items()}
    return results | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def run_op(op: Any, problem: Problem) -> dict[str, Tensor]:
    """The same from an op's forward and backward: `op` is `torch.ops.rnndrop` or one with the same two schemas."""
    p = problem
    masks = (p.mask_x, p.mask_h, p.mask_g, p.lengths, p.reverse)
    y, h_n, c_n, *saved = op.lstm_layer(p.x, p.h_0, p.c_0, p.W_ih, p.W_hh, p.b_ih, p.b_hh, *masks)
    dx, dh_0, dc_0, dW_ih, dW_hh, db = op.lstm_layer_backward(
        p.dy, p.dh_n, p.dc_n, p.x, p.h_0, p.W_ih, p.W_hh, *masks, y, *saved, True, True
    )
    results = {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, "dh_0": dh_0, "dc_0": dc_0, "dW_ih": dW_ih, "dW_hh": dW_hh}
    results |= {"db_ih": db} if p.b_ih is not None else {}
    return results | ({"db_hh": db} if p.b_hh is not None else {})


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest expected value. NaN where either has one."""
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return ((actual.double() - expected).abs().max() / scale).item()


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every result has the expected shape and is within `tolerance`, relative to the result's largest value."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        assert error(actual[name], value) <= tolerance, f"{name}: {error(actual[name], value):.2e} > {tolerance:.0e}"


def assert_errs_at_most_twice_as_much_as_plain_torch(op: Any, problems: Iterable[Problem]) -> None:
    """Against float64, by result, in the mean over the problems: chance has too much say in a single largest error."""
    ours: Counter[str] = Counter()
    torchs: Counter[str] = Counter()
    for problem in problems:
        expected = run_reference(problem)
        for errors, results in ((ours, run_op(op, problem)), (torchs, run_reference(problem, problem.x.dtype))):
            for name, value in expected.items():
                assert results[name].dtype == problem.x.dtype, name
                errors[name] += error(results[name], value)
    assert {name: ours[name] / torchs[name] for name in ours if not ours[name] <= 2 * torchs[name]} == {}
