"""The floor: the matrix products of a dense LSTM alone, by each library that can be reached from Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from bench.problems import NO_DROPOUT, Problem
from bench.records import FORWARD, FORWARD_BACKWARD, FULL, GEMMS, INFERENCE, PACKED

Multiply = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def aten(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
    """out = a b, or out += a b."""
    return torch.addmm(out, a, b, out=out) if accumulate else torch.mm(a, b, out=out)


def onednn(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
    """The same by oneDNN, which Python reaches only through a fused linear layer that allocates its result."""
    if accumulate:
        return torch.ops.mkldnn._linear_pointwise(a, out, b.t(), None, "add")
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


class Gemms:
    """The matrix products of a dense LSTM and nothing else: no dense LSTM on the same library is faster.

    Random matrices of the products' shapes, allocated once, each in the layout that suits the library best.
    """

    name = GEMMS
    dropout = NO_DROPOUT
    # glibc returns larger blocks to the system, and a fresh one costs more than the product's own writes.
    LARGEST_RESULT = 16 << 20

    def __init__(self, problem: Problem, library: str, multiply: Multiply) -> None:
        T, B, I, H = problem.size
        self.backend, self.multiply, self.sequences = library, multiply, PACKED if problem.ragged else FULL
        # How many sequences have a step t; N: the steps of all of them together.
        self.batch_sizes = [int((problem.lengths_on_cpu > t).sum()) for t in range(T)]
        N = sum(self.batch_sizes)
        self.W_ih, self.W_hh = problem.random(4 * H, I), problem.random(4 * H, H)
        self.x, self.h, self.h_all = problem.random(N, I), problem.random(B, H), problem.random(N, H)
        self.da, self.da_t, self.da_step = (problem.random(*s) for s in ((N, 4 * H), (4 * H, N), (B, 4 * H)))
        self.gates, self.dx, self.dh = (torch.randn_like(like) for like in (self.da, self.x, self.h))
        self.steps = [(self.h[:b], self.da_step[:b], self.dh[:b]) for b in self.batch_sizes]
        self.dW_ih, self.dW_hh = torch.randn_like(self.W_ih), torch.randn_like(self.W_hh)
        self.rows = max(1, self.LARGEST_RESULT // (4 * max(4 * H, I)))

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        return {INFERENCE: self.forward, FORWARD: self.forward, FORWARD_BACKWARD: self.forward_backward}

    def running(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def forward(self) -> None:
        self.multiply_rows(self.gates, self.x, self.W_ih.t())
        for gates, (h, _, _) in zip(self.gates.split(self.batch_sizes), self.steps, strict=True):
            self.multiply(gates, h, self.W_hh.t(), True)

    def forward_backward(self) -> None:
        self.forward()
        for _, da, dh in self.steps:
            self.multiply(dh, da, self.W_hh, False)
        self.multiply_rows(self.dx, self.da, self.W_ih)
        self.multiply(self.dW_ih, self.da_t, self.x, False)
        self.multiply(self.dW_hh, self.da_t, self.h_all, False)

    def multiply_rows(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        for out_rows, a_rows in zip(out.split(self.rows), a.split(self.rows), strict=True):
            self.multiply(out_rows, a_rows, b, False)


def floors(problem: Problem) -> list[Gemms]:
    """The GEMMs by each library that Python can reach; the floor is the fastest of them. A stack has none."""
    if problem.stack:
        return []
    if problem.device.type == "cuda":
        return [Gemms(problem, "cuBLAS", aten)]
    gemms = [Gemms(problem, "ATen", aten)]
    if problem.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        gemms.append(Gemms(problem, "oneDNN", onednn))
    return gemms
