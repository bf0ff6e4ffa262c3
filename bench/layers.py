"""The layers that are timed, each as a function of a problem and its masks: nn.LSTM, a Python loop, and ours.

Where the sequences have lengths of their own, every layer starts from the padded batch and ends with one: packing and
unpacking are part of the time of those that need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bench.problems import NO_MASKS, Masks, Output, Problem, by_name
from bench.records import LENGTHS, PACKED
from rnndrop_cuda import LSTM, functional

Layer = Callable[[Problem, Masks], Output]


def as_module(module: nn.LSTM | LSTM, form: str) -> Layer:
    """A module as its users call it, given the lengths in the way that `form` names."""

    def layer(problem: Problem, masks: Masks) -> Output:
        options: dict[str, Any] = {"lengths": problem.lengths} if form == LENGTHS else {}
        if masks is not NO_MASKS:
            options["masks"] = masks if isinstance(masks, list) else [masks]
        if form == PACKED:
            packed = pack_padded_sequence(problem.x, problem.lengths_on_cpu, enforce_sorted=False)
            y, (h_n, c_n) = module(packed, problem.hx, **options)
            y, _ = pad_packed_sequence(y, total_length=problem.size.T)
        else:
            y, (h_n, c_n) = module(problem.x, problem.hx, **options)
        return y, h_n.squeeze(0), c_n.squeeze(0)

    return layer


def nn_lstm(problem: Problem, _: Masks) -> Output:
    y, (h_n, c_n) = problem.lstm(problem.x, problem.hx)
    return y, h_n.squeeze(0), c_n.squeeze(0)


def lstm_cell_loop(problem: Problem) -> Layer:
    """What one would write by hand: nn.LSTMCell step by step, with Gal's masks on x and h; no masks in a stack."""
    loops = CellLoops(problem)
    if problem.stack:
        return lambda problem, masks: loops.stack(problem.x, problem.h_0, problem.c_0)
    return lambda problem, masks: loops(
        problem.x if masks.x is None else problem.x * masks.x, problem.h_0, problem.c_0, masks.h
    )


class CellLoops(nn.Module):
    """An nn.LSTMCell for each layer and direction, on the very parameters of the problem's nn.LSTM."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.cells = nn.ModuleList()
        for W_ih, W_hh, b_ih, b_hh in problem.lstm.all_weights:
            cell = nn.LSTMCell(W_ih.shape[1], W_hh.shape[1], dtype=problem.dtype, device=problem.device)
            cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh = W_ih, W_hh, b_ih, b_hh
            self.cells.append(cell)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, mask_h: Tensor | None = None, cell: int = 0) -> Output:
        y = []
        for x_t in x.unbind():
            h, c = self.cells[cell](x_t, (h if mask_h is None else h * mask_h, c))
            y.append(h)
        return torch.stack(y), h, c

    def stack(self, x: Tensor, h_0: Tensor, c_0: Tensor) -> Output:
        last = []
        for k in range(0, len(self.cells), 2):
            y, *last_forward = self(x, h_0[k], c_0[k], cell=k)
            y_reverse, *last_reverse = self(x.flip(0), h_0[k + 1], c_0[k + 1], cell=k + 1)
            x = torch.cat([y, y_reverse.flip(0)], dim=-1)
            last += [last_forward, last_reverse]
        h_n, c_n = (torch.stack(states) for states in zip(*last, strict=True))
        return x, h_n, c_n


def rnndrop(backend: str) -> Layer:
    """Our layer on that backend by name, so that it cannot fall back to another."""

    def layer(problem: Problem, masks: Masks) -> Output:
        return functional.lstm_layer(
            problem.x, problem.h_0, problem.c_0, *problem.lstm.parameters(),
            **by_name(masks), backend=backend,
        )  # fmt: skip

    return layer
