"""Random problems for the layer, and the comparison of all outputs and all gradients with the reference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import reference

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
        leaves = {k: v.detach().clone().requires_grad_() for k, v in self.inputs.items() if v is not None}
        arguments = [leaves.get(name) for name in INPUTS]
        if "W_hr" in leaves:
            options["W_hr"] = leaves["W_hr"]
        outputs = layer(*arguments, **self.options, **options)
        gradients = torch.autograd.grad(outputs, list(leaves.values()), [self.upstream[name] for name in OUTPUTS])
        return dict(zip(OUTPUTS, outputs, strict=True)) | {
            "d" + name: gradient for name, gradient in zip(leaves, gradients, strict=True)
        }


def random_mask(shape: tuple[int, ...], p: float = 0.5, dtype: torch.dtype = torch.float64) -> Tensor:
    """A dropout mask; p=1 gives zeros."""
    keep = 1 - p
    return torch.bernoulli(torch.full(shape, keep, dtype=dtype)) / (keep or 1)


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


def assert_equals_reference(problem: Problem, layer: Any, tolerance: float, **options: Any) -> None:
    """Every output and every gradient of ``layer`` against the reference in float64.

    Where terms cancel, as they may in dh_0 of a single unit, no order of summation is exact: twice the error of plain
    torch in the same dtype passes too.
    """
    expected = problem.to(torch.float64).solve(reference.lstm_layer)
    actual = problem.solve(layer, **options)
    assert actual.keys() == expected.keys()
    errors = {name: relative_error(value, expected[name]) for name, value in actual.items()}
    for name, value in actual.items():
        assert value.shape == expected[name].shape, name
    if all(error <= tolerance for error in errors.values()):
        return
    plain = problem.solve(reference.lstm_layer)
    for name, error in errors.items():
        allowed = max(tolerance, 2 * relative_error(plain[name], expected[name]))
        assert error <= allowed, f"{name}: relative error {error:.3g}, tolerance {allowed:.3g}"
