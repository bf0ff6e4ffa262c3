"""How long the host takes over a short call on CUDA until all is launched, without what the driver takes for it.

`PYTHONPATH=. python tests/cuda/host_time.py` writes bench/results/host_time.csv. The backend is the real one behind the
emulation's headers; what it launches is dropped, and so are cuBLAS' products. So this is Python, torch's dispatcher and
autograd, and our own code: what a change of ours can make less. Memory comes from the CPU's allocator, and what ATen
launches itself, a sum and fills, is computed, on tensors of a few bytes. Two directions run one after the other,
without a second stream and its events.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any

import torch
from host_calls import CASES, CSV, B, H, I, T, on_emulated_cuda, write_csv

from bench.machine import machine_facts
from bench.stopwatch import cpu_milliseconds
from rnndrop_cuda import LSTM

OUT = CSV.with_name("host_time.csv")
CALLS, SAMPLES = 100, 31


def microseconds(work: Callable[[], object]) -> float:
    """Of one call, undisturbed: the least of the samples."""
    work()
    return min(cpu_milliseconds(work, CALLS) for _ in range(SAMPLES)) * 1e3


def measure(dropout: str) -> dict[str, Any]:
    """A row of the table, of the layer on the emulated backend."""
    layer = LSTM(I, H, **CASES[dropout])
    x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H * (2 if layer.bidirectional else 1))
    leaves = [x, *layer.parameters()]

    def forward() -> torch.Tensor:
        return layer(x)[0]

    def both() -> None:
        torch.autograd.grad(forward(), leaves, dy)

    with torch.no_grad():
        inference = microseconds(forward)
    times = {"inference": inference, "forward": microseconds(forward), "forward+backward": microseconds(both)}
    return {"dropout": dropout} | {phase: f"{time:.0f}" for phase, time in times.items()}


def main() -> None:
    """Write the times."""
    import conftest  # beside this file

    torch.set_num_threads(1)
    facts = machine_facts(torch.device("cpu"), "PYTHONPATH=. " + shlex.join(["python", *sys.argv]))
    op = conftest.load_op()
    with on_emulated_cuda(op):
        op.drop_launches(True)
        rows = [measure(dropout) for dropout in CASES]
        op.drop_launches(False)
    write_csv(OUT, facts, rows)


if __name__ == "__main__":
    main()
