"""What a contender is given: one size in one dtype on one device, with dropout of one kind.

The same x, states, weights and upstream gradients for each of them. Masks are drawn on every call, as training does,
so drawing them is part of a contender's time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from bench.correctness import in_float64, masks_in
from bench.records import Size
from rnndrop_cuda import LSTM, LayerMasks, dropout_mask

Output = tuple[Tensor, Tensor, Tensor]
Masks = LayerMasks | list[LayerMasks]
"""Of a layer, or of each layer and direction of a stack."""
NO_MASKS = LayerMasks()


@dataclass(frozen=True)
class Dropout:
    """A kind of dropout: p on x and h (Gal & Ghahramani), p_g on the candidate (Semeniuta et al.)."""

    name: str
    p: float = 0.0
    p_g: float = 0.0
    per_sample: bool = False
    per_step: bool = True
    """Of the mask on the candidate: fresh at every step and sample, or one for the whole batch and sequence."""

    def __str__(self) -> str:
        rates = [f"{name}={rate:g}" for name, rate in (("p", self.p), ("p_g", self.p_g)) if rate]
        return " ".join([self.name, *rates])

    def draw(self, size: Size, dtype: torch.dtype, device: torch.device) -> LayerMasks:
        """Fresh masks. NO_MASKS itself without dropout."""
        if not self.p and not self.p_g:
            return NO_MASKS
        T, B, I, H = size
        rows = (B,) if self.per_sample else ()

        def mask(p: float, *shape: int) -> Tensor | None:
            return dropout_mask(shape, p, dtype=dtype, device=device) if p else None

        return LayerMasks(
            mask(self.p, *rows, I), mask(self.p, *rows, H), mask(self.p_g, *((T, B) if self.per_step else ()), H)
        )


NO_DROPOUT = Dropout("none")


def dropouts(ps: Iterable[float], ps_g: Iterable[float]) -> list[Dropout]:
    """No dropout, and each kind at each of its probabilities."""
    ps, ps_g = list(ps), list(ps_g)
    return [
        NO_DROPOUT,
        *(Dropout("Gal batch", p) for p in ps),
        *(Dropout("Gal sample", p, per_sample=True) for p in ps),
        *(Dropout("Semeniuta step", p_g=p_g) for p_g in ps_g),
        *(Dropout("Semeniuta sequence", p_g=p_g, per_step=False) for p_g in ps_g),
        *(Dropout("both", p, p_g) for p, p_g in product(ps, ps_g)),
    ]


def random_lengths(T: int, B: int) -> Tensor:
    """From 1 to T inclusive, with a mean of (T + 1) / 2: each length l is paired with one of T + 1 - l."""
    lengths = torch.randint(1, T + 1, (B,))
    lengths[0] = T
    half = B // 2
    lengths[half : 2 * half] = T + 1 - lengths[:half]
    return lengths


class Problem:
    """Random input, states and weights, and new upstream gradients on demand.

    With `ragged` the sequences have random lengths; without it, `lengths` gives T steps to each. With `stack` there
    are two layers in both directions, whose states are stacked along the first dimension.
    """

    def __init__(
        self, size: Size, dtype: torch.dtype, device: torch.device, *, ragged: bool = False, stack: bool = False
    ) -> None:
        self.size, self.dtype, self.device, self.ragged, self.stack = size, dtype, device, ragged, stack
        self.left_out: list[str] = []
        """A line for each contender that is not timed: who, and why."""
        T, B, I, H = size
        # The weights live in an nn.LSTM: only there does CUDA find them laid out as cuDNN wants them.
        self.lstm = nn.LSTM(I, H, 1 + stack, bidirectional=stack, dtype=dtype, device=device)
        self.modules = nn.ModuleList([self.lstm])
        self.x = self.random(T, B, I).requires_grad_()
        self.state = (4, B, H) if stack else (B, H)
        self.h_0, self.c_0 = self.random(*self.state), self.random(*self.state)
        self.hx = self.h_0.view(-1, B, H), self.c_0.view(-1, B, H)
        self.lengths_on_cpu = random_lengths(T, B) if ragged else torch.full((B,), T)
        self.lengths = self.lengths_on_cpu.to(device)
        self.new_upstream()

    def module(self, backend: str, dropout: Dropout) -> LSTM:
        """Our module on the very parameters of `lstm`, not on copies."""
        module = LSTM.from_torch(
            self.lstm, backend=backend, input_dropout=dropout.p, hidden_dropout=dropout.p,
            candidate_dropout=dropout.p_g, mask_scope="sample" if dropout.per_sample else "batch",
            candidate_mask="step" if dropout.per_step else "sequence",
        )  # fmt: skip
        for name, parameter in self.lstm.named_parameters():
            setattr(module, name, parameter)
        self.modules.append(module)
        return module

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.dtype, device=self.device)

    def new_upstream(self) -> None:
        """New gradients on y, h_n and c_n."""
        T, B, _, H = self.size
        self.upstream = (self.random(T, B, H * (1 + self.stack)), self.random(*self.state), self.random(*self.state))

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The tensors whose gradients are computed."""
        return {"x": self.x, **dict(self.lstm.named_parameters())}

    def gradients(self, output: Output) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, list(self.leaves.values()), self.upstream)

    def draw(self, dropout: Dropout) -> Masks:
        """Fresh masks for this problem's layer or stack."""
        if self.stack and dropout != NO_DROPOUT:
            return self.module("python", dropout).draw_masks(self.size.T, self.size.B)
        return dropout.draw(self.size, self.dtype, self.device)

    def expected(self, masks: Masks, lengths: Tensor | None) -> list[Tensor]:
        """Outputs and gradients by the reference in float64."""
        if not self.stack:
            assert isinstance(masks, LayerMasks)
            inputs = [self.x, self.h_0, self.c_0, *self.lstm.parameters()]
            return in_float64(inputs, self.upstream, {**by_name(masks), "lengths": lengths})
        module = LSTM.from_torch(self.lstm, backend="python").double()
        x, hx = self.x.detach().double().requires_grad_(), tuple(state.double() for state in self.hx)
        in_double = None if masks is NO_MASKS else [masks_in(torch.float64, of_layer) for of_layer in masks]
        y, (h_n, c_n) = module(x, hx, masks=in_double)
        upstream = [gradient.double() for gradient in self.upstream]
        gradients = torch.autograd.grad((y, h_n, c_n), [x, *module.parameters()], upstream)
        return [result.detach() for result in (y, h_n, c_n, *gradients)]


def by_name(masks: LayerMasks) -> dict[str, Any]:
    return {"mask_x": masks.x, "mask_h": masks.h, "mask_g": masks.g}
