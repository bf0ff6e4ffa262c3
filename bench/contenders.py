"""What can be timed: a name, and the calls to time in each phase.

Each contender is a layer of bench/layers.py on a problem of bench/problems.py; the floor, bench/gemms.py, is one too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

import rnndrop_cuda
from bench.layers import Layer
from bench.problems import NO_DROPOUT, NO_MASKS, Dropout, Output, Problem
from bench.records import FORWARD, FORWARD_BACKWARD, FULL, INFERENCE, MASKS, PADDED
from rnndrop_cuda import LSTM, LayerMasks

TIMED = "timed"
"""In place of an engine: the plan that the GPU itself is fastest with."""


class Contender(Protocol):
    """`calls` are timed, by phase, within `running()`. The other properties become columns of a timing."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def dropout(self) -> Dropout: ...
    @property
    def sequences(self) -> str: ...
    @property
    def calls(self) -> dict[str, Callable[[], object]]: ...
    def running(self) -> contextlib.AbstractContextManager[object]: ...


def plans_are_timed() -> contextlib.AbstractContextManager[object]:
    """By torch's own switch: the first call of a shape times them."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=True, deterministic=cudnn.deterministic, allow_tf32=cudnn.allow_tf32
    )


@dataclass(frozen=True)
class LayerContender:
    name: str
    backend: str
    dropout: Dropout
    layer: Layer
    problem: Problem
    sequences: str = FULL
    engine: str = ""
    """The CUDA engine to run on, or TIMED; "" leaves the choice to the op."""

    def running(self) -> contextlib.AbstractContextManager[object]:
        if self.engine == TIMED:
            return plans_are_timed()
        return rnndrop_cuda.cuda_engine(self.engine) if self.engine else contextlib.nullcontext()

    def __str__(self) -> str:
        name = self.name if self.sequences == FULL else f"{self.name} {self.sequences}"
        return ", ".join(part for part in (name, self.backend, f"dropout {self.dropout}") if part)

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        calls = {FORWARD: self.forward, FORWARD_BACKWARD: lambda: self.gradients(self.forward())}
        return calls if self.dropout != NO_DROPOUT else {INFERENCE: self.inference, **calls}

    @property
    def knows_lengths(self) -> bool:
        return self.problem.ragged and self.sequences != PADDED

    def forward(self) -> Output:
        problem = self.problem
        return self.layer(problem, self.dropout.draw(problem.size, problem.dtype, problem.device))

    def gradients(self, output: Output) -> tuple[Tensor, ...]:
        return self.problem.gradients(output)

    def gradients_to_check(self, output: Output) -> tuple[Tensor, ...]:
        """In the layout of the problem's leaves."""
        return self.gradients(output)

    def inference(self) -> Output:
        """Whoever times or checks it puts the modules into eval first: that is not part of a call."""
        with torch.no_grad():
            return self.forward()


@dataclass(frozen=True, kw_only=True)
class ModuleContender(LayerContender):
    """Our module as its users call it: it draws its own masks."""

    module: LSTM

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        calls = super().calls
        return calls if self.dropout == NO_DROPOUT else {MASKS: self.draw, **calls}

    def draw(self) -> list[LayerMasks]:
        return self.module.draw_masks(self.problem.size.T, self.problem.size.B)

    def forward(self) -> Output:
        return self.layer(self.problem, NO_MASKS)
