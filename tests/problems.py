"""Random problems for the layer, and the comparison of all outputs and all gradients with the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rnndrop_cuda import reference
from rnndrop_cuda.functional import lstm_layer

INPUTS = ("x", "h_0", "c_0", "W_ih", "W_hh", "b_ih", "b_hh")
OUTPUTS = ("y", "h_n", "c_n")
# Tensor arguments that have no gradient, in the op's order.
CONSTANTS = ("mask_x", "mask_h", "mask_g", "mask_c", "zone_c", "zone_h", "lengths")


@dataclass
class Problem:
    """One call of the layer: its differentiable inputs, its masks and options, and upstream gradients."""

    inputs: dict[str, Tensor | None]
    options: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Problem:
        def convert(values: dict[str, Any]) -> dict[str, Any]:
            return {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in values.items()}

        return replace(
            self, inputs=convert(self.inputs), options=convert(self.options), upstream=convert(self.upstream)
        )

    def solve(self, layer: Any, **options: Any) -> dict[str, Tensor]:
        """Outputs and gradients of ``layer``, by name: y, h_n, c_n, dx, dh_0, ..."""
        leaves = {k: v.detach().requires_grad_() for k, v in self.inputs.items() if v is not None}
        arguments = [leaves.get(name) for name in INPUTS]
        if "W_hr" in leaves:
            options["W_hr"] = leaves["W_hr"]
        outputs = layer(*arguments, **self.options, **options)
        gradients = torch.autograd.grad(outputs, list(leaves.values()), [self.upstream[name] for name in OUTPUTS])
        return dict(zip(OUTPUTS, outputs, strict=True)) | {
            "d" + name: gradient for name, gradient in zip(leaves, gradients, strict=True)
        }


def random_mask(shape: tuple[int, ...], p: float = 0.5) -> Tensor:
    """A dropout mask; p=1 gives zeros."""
    keep = 1 - p
    return torch.bernoulli(torch.full(shape, keep, dtype=torch.float64)) / (keep or 1)


def random_noise(name: str, shape: tuple[int, ...], p: float = 0.5) -> Tensor:
    """The mask or the zoneout of that name; zoneout half of the time by entry, half of the time as eval's p."""
    if name.startswith("zone"):
        return torch.where(torch.rand(shape, dtype=torch.float64) < 0.5, 1 - random_mask(shape, p).sign(), p)
    return random_mask(shape, p)


MASK_KINDS: dict[str, dict[str, str]] = {
    "none": {},
    "gal-batch": {"mask_x": "I", "mask_h": "P"},
    "gal-sample": {"mask_x": "BI", "mask_h": "BP"},
    "mask_x-only": {"mask_x": "I"},
    "mask_h-only": {"mask_h": "BP"},
    "semeniuta-step": {"mask_g": "TBH"},
    "semeniuta-sequence": {"mask_g": "BH"},
    "semeniuta-shared": {"mask_g": "H"},
    "both": {"mask_x": "I", "mask_h": "BP", "mask_g": "TBH"},
    "untied-batch": {"mask_x": "41I", "mask_h": "41P"},
    "untied-sample": {"mask_x": "4BI", "mask_h": "4BP"},
    "rnndrop": {"mask_c": "BH"},
    "rnndrop-shared": {"mask_c": "H"},
    "zoneout": {"zone_c": "TBH", "zone_h": "TBP"},
    "zoneout-sequence": {"zone_c": "BH", "zone_h": "BP"},
    "zoneout-h-only": {"zone_h": "P"},
    "all": {
        "mask_x": "4BI", "mask_h": "4BP", "mask_g": "TBH", "mask_c": "BH", "zone_c": "TBH", "zone_h": "TBP",
    },
}  # fmt: skip


def random_problem(
    T: int = 5,
    B: int = 3,
    I: int = 4,
    H: int = 6,
    *,
    proj: int = 0,
    masks: str = "none",
    p: float = 0.5,
    bias: bool = True,
    lengths: bool = False,
    reverse: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """A problem with random tensors in every place; lengths from 0 to T, both ends among them where B allows.

    With proj there is a W_hr among the inputs that makes h that wide.
    """
    P = proj or H
    sizes = {"T": T, "B": B, "I": I, "H": H, "P": P, "1": 1, "4": 4}
    scale = 1 / max(I + H, 1) ** 0.5

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64) * scale

    inputs: dict[str, Tensor | None] = {
        "x": normal(T, B, I),
        "h_0": normal(B, P),
        "c_0": normal(B, H),
        "W_ih": normal(4 * H, I, scale=scale),
        "W_hh": normal(4 * H, P, scale=scale),
        "b_ih": normal(4 * H, scale=scale) if bias else None,
        "b_hh": normal(4 * H, scale=scale) if bias else None,
    }
    if proj:
        inputs["W_hr"] = normal(P, H, scale=scale)
    options: dict[str, Any] = {
        name: random_noise(name, tuple(sizes[s] for s in shape), p) for name, shape in MASK_KINDS[masks].items()
    }
    if lengths:
        options["lengths"] = torch.tensor([T, 0, *torch.randint(0, T + 1, (B,)).tolist()][:B], dtype=torch.int64)
    if reverse:
        options["reverse"] = True
    upstream = {"y": normal(T, B, P), "h_n": normal(B, P), "c_n": normal(B, H)}
    return Problem(inputs, options, upstream).to(dtype)


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected, in float64; NaN is infinite."""
    value, expected = value.detach().double(), expected.detach().double()
    error = (value - expected).norm() / expected.norm().clamp_min(1e-30) if expected.numel() else torch.zeros(())
    return float("inf") if error.isnan() else float(error)


# How far a result may be off because numbers have finitely many bits. What is computed is off by about u = eps / 2 of
# its size, independently of what else is (Higham and Mary, 2019). A sum S of n terms t is rounded at each partial sum,
# and these are, squared and over all orders of summation, k/n sum t^2 + (k/n)^2 S^2 in the mean: together
# u sqrt(n (sum t^2 / 2 + S^2 / 3)). Where an operation takes one number from another the larger one counts. What
# becomes of that in T steps the layer tells itself: the reference runs in float64 while each operation errs at random
# by that much, and DEVIATIONS times what its results are off, in the mean square over SAMPLES runs, is the bound. No
# compiler and no kernel has a part in it.
DEVIATIONS = 8
SAMPLES = 4

aten = torch.ops.aten


def of_sum(total: Tensor, squares: Tensor, n: float) -> Tensor:
    return (n * (squares / 2 + total.square() / 3)).sqrt()


# How large what an operation rounds is, by its result and its arguments.
ROUNDED: dict[Any, Callable[..., Tensor]] = {
    aten.mm: lambda out, a, b: of_sum(out, a.square() @ b.square(), a.shape[1]),
    aten.addmm: lambda out, c, a, b: of_sum(out, c.square() + a.square() @ b.square(), a.shape[1] + 1),
    aten.sum: lambda out, a, *dims: of_sum(out, a.square().sum(*dims), a.numel() / max(out.numel(), 1)),
    aten.sigmoid_backward: lambda out, d, y: (d * y).abs(),
    aten.tanh_backward: lambda out, d, y: d.abs(),
    **dict.fromkeys([aten.add, aten.rsub, aten.mul, aten.sigmoid, aten.tanh], lambda out, *_, **__: out.abs()),
}
# Operations that move numbers and compute none; another one has to be put into one of the two.
EXACT = {
    aten.cat, aten.clone, aten.detach, aten.expand, aten.gt, aten.new_zeros, aten.scalar_tensor, aten.select,
    aten.select_backward, aten.slice, aten.split, aten.stack, aten.t, aten.unbind, aten.unsqueeze, aten.view,
    aten.where, aten.zeros_like,
}  # fmt: skip


class Rounded(TorchDispatchMode):
    """Every float64 operation, backward ones too, errs at random as one of a dtype with this eps does."""

    def __init__(self, eps: float, seed: int) -> None:
        super().__init__()
        self.unit = eps / 2
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation in EXACT:
            return out
        noise = torch.randn(out.shape, generator=self.generator, dtype=out.dtype).to(out.device)
        return out + self.unit * ROUNDED[operation](out, *args, **(kwargs or {})) * noise


def rounding_bounds(
    problem: Problem, exact: dict[str, Tensor], eps: float | None = None, errors: dict[str, float] | None = None
) -> dict[str, float]:
    """The most that each result may be off, as relative_error, in the problem's dtype or one with that eps.

    errors: what results are off. A sum of squares only grows: samples are left out where those before explain them all.
    """
    in_float64, eps = problem.to(torch.float64), eps or torch.finfo(problem.upstream["y"].dtype).eps
    squares, bounds = dict.fromkeys(exact, 0.0), dict.fromkeys(exact, 0.0)
    for seed in range(SAMPLES):
        with Rounded(eps, seed):
            results = in_float64.solve(reference.lstm_layer)
        for name, value in results.items():
            squares[name] += relative_error(value, exact[name]) ** 2
        bounds = {name: DEVIATIONS * (square / SAMPLES) ** 0.5 for name, square in squares.items()}
        if errors is not None and all(error <= bounds[name] for name, error in errors.items()):
            break
    return bounds


def cpu_layer(*args: Any, **kwargs: Any) -> Any:
    return lstm_layer(*args, backend="cpu", **kwargs)


def assert_equals_reference(problem: Problem, layer: Any, *, eps: float | None = None) -> None:
    """Every output and every gradient of ``layer`` against the reference in float64, up to what rounding explains.

    eps: of the dtype that the layer multiplies in, the problem's own by default.
    """
    expected = problem.to(torch.float64).solve(reference.lstm_layer)
    actual = problem.solve(layer)
    assert actual.keys() == expected.keys()
    assert_rounding_explains(problem, actual, expected, eps=eps)


def assert_rounding_explains(
    problem: Problem, actual: dict[str, Tensor], expected: dict[str, Tensor], *, eps: float | None = None
) -> None:
    """The results of a layer, all or some, against all of the reference's in float64."""
    for name, value in actual.items():
        assert value.shape == expected[name].shape, name
    errors = {name: relative_error(value, expected[name]) for name, value in actual.items()}
    # Every result is rounded once at least: bounds that are surely larger need not be computed.
    if max(errors.values()) <= DEVIATIONS * torch.finfo(problem.upstream["y"].dtype).eps / 2:
        return
    bounds = rounding_bounds(problem, expected, eps, errors)
    for name, error in errors.items():
        assert error <= bounds[name], f"{name}: relative error {error:.3g}, rounding explains {bounds[name]:.3g}"


def assert_at_most_twice_plain_torchs_error(problem: Problem, layer: Any) -> None:
    """The same rounded inputs through the layer and through plain torch in this dtype, both against float64."""
    exact = problem.to(torch.float64).solve(reference.lstm_layer)
    plain, fused = problem.solve(reference.lstm_layer), problem.solve(layer)
    for name in exact:
        ours, theirs = (relative_error(result[name], exact[name]) for result in (fused, plain))
        assert ours <= 2 * theirs + 1e-7, f"{name}: {ours:.3g} against {theirs:.3g}"
