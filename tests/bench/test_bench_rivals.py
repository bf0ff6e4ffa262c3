"""Haste, FlashRNN and the captured loops, in the shape of doubles."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import rivals, stopwatch
from bench.problems import Problem
from bench.records import FORWARD, FORWARD_BACKWARD, Size
from tests.bench.samples import CPU, SMALL


def test_rivals_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "MOST_COMPILED_STEPS", 2)
    for name in ("haste_pytorch", "flashrnn"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    problem = Problem(SMALL, torch.float32, CPU)
    assert rivals.running(problem) == []
    assert problem.left_out == [
        "nn.LSTMCell loop in a CUDA graph: needs CUDA",
        "nn.LSTMCell loop compiled: unrolls the loop: more than 2 steps would take too long to compile",
        "Haste: import of haste_pytorch halted; None in sys.modules",
        "FlashRNN: import of flashrnn halted; None in sys.modules",
    ]


class FakeHaste(torch.nn.Module):
    """haste_pytorch.LSTM by its documentation: kernels (input, 4 hidden), gates i, g, f, o, one bias."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        shapes = {"kernel": (input_size, 4 * hidden_size), "recurrent_kernel": (hidden_size, 4 * hidden_size)}
        for name, shape in {**shapes, "bias": (4 * hidden_size,)}.items():
            setattr(self, name, torch.nn.Parameter(torch.empty(shape)))

    def from_native_weights(self, W_ih: Tensor, W_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> None:
        for name, weight in (("kernel", W_ih.t()), ("recurrent_kernel", W_hh.t()), ("bias", b_ih + b_hh)):
            i, f, g, o = weight.chunk(4, dim=-1)
            setattr(self, name, torch.nn.Parameter(torch.cat([i, g, f, o], dim=-1)))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        (h,), (c,) = state
        y = []
        for x_t in x.unbind():
            i, g, f, o = (x_t @ self.kernel + h @ self.recurrent_kernel + self.bias).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            y.append(h)
        return torch.stack(y), (h[None], c[None])


def fake_flashrnn(
    Wx: Tensor, R: Tensor, b: Tensor, states: Tensor, function: str, backend: str, dtype: str
) -> tuple[Tensor, Tensor]:
    """flashrnn.flashrnn by its documentation: Wx[B,T,G,N,D], R[G,N,D,D], b[G,N,D], states[S,B,1,N,D]."""
    assert (function, backend, dtype) == ("lstm", "cuda_fused", "float32")
    h, c = states[:, :, 0]
    of_steps = []
    for x_t in Wx.unbind(1):
        i, f, g, o = (x_t + torch.einsum("gndp,bnp->bgnd", R, h) + b).unbind(1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        of_steps.append(torch.stack([h, c]))
    return torch.stack(of_steps, dim=2), of_steps[-1].unsqueeze(2)


def test_rivals_that_are_there_are_right_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "haste_pytorch", types.SimpleNamespace(LSTM=FakeHaste))
    monkeypatch.setitem(sys.modules, "flashrnn", types.SimpleNamespace(flashrnn=fake_flashrnn))
    monkeypatch.setattr(torch, "compile", lambda module, mode: module)
    # What make_graphed_callables gives is called as the module is.
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda module, arguments: module)
    monkeypatch.setattr(rivals, "has_graphs", lambda device: True)
    problem = Problem(Size(T=4, B=3, I=5, H=6), torch.float32, CPU)
    found = rivals.running(problem)
    assert [c.name for c in found] == list(rivals.RIVALS)
    timings = stopwatch.measure(problem, found, repeats=1)
    assert {t.phase for t in timings} == {FORWARD, FORWARD_BACKWARD}


def test_a_rival_that_is_wrong_or_has_no_kernel_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_bias(Wx: Tensor, R: Tensor, b: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return fake_flashrnn(Wx, R, 0 * b, **options)

    monkeypatch.setitem(sys.modules, "haste_pytorch", types.SimpleNamespace(LSTM=FakeHaste))
    monkeypatch.setitem(sys.modules, "flashrnn", types.SimpleNamespace(flashrnn=without_bias))
    monkeypatch.setattr(rivals, "RIVALS", {"FlashRNN": rivals.flashrnn, "Haste": rivals.haste})
    problem = Problem(Size(T=4, B=3, I=5, H=6), torch.float32, CPU)
    assert [c.name for c in rivals.running(problem)] == ["Haste"]
    [line] = problem.left_out
    assert line.startswith("FlashRNN: FlashRNN, dropout none") and "y is off" in line
    with pytest.raises(RuntimeError, match="has no kernels for torch.bfloat16"):
        rivals.haste(Problem(SMALL, torch.bfloat16, CPU))
