"""How many calls of torch, and how many launches, a forward and a backward of the layer take: what a short one pays.

`PYTHONPATH=. python tests/cuda/host_calls.py` writes bench/results/host_calls.csv; the test beside it holds the code to
that. On CUDA the emulated backend is counted: its own kernels, cuBLAS' products, and each call of ATen that computes,
which on a GPU is a launch. The profiler counts, and not a TorchDispatchMode: under one, the layer does not run as it is
written.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rnndrop_cuda import LSTM

CSV = Path(__file__).resolve().parents[2] / "bench" / "results" / "host_calls.csv"
T, B, I, H = 3, 2, 4, 8
GAL = {"input_dropout": 0.25, "hidden_dropout": 0.25}
BOTH = GAL | {"candidate_dropout": 0.25}
CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "Gal": GAL,
    "Gal a sample": GAL | {"mask_scope": "sample"},
    "Gal and Semeniuta": BOTH,
    "Gal and Semeniuta, 2 layers, both directions": BOTH | {"num_layers": 2, "bidirectional": True},
}
COMPUTES_NOTHING = {
    "alias", "as_strided", "as_strided_", "detach", "empty", "empty_like", "empty_strided", "expand", "flatten",
    "narrow", "new_empty", "resize_", "result_type", "select", "slice", "squeeze", "t", "to", "transpose", "unsqueeze",
    "unsqueeze_", "view",
}  # fmt: skip


@dataclass(frozen=True)
class Count:
    """Of one call of the layer, or of its backward from a gradient of y."""

    backend: str
    dropout: str
    phase: str
    calls: int
    """Of torch: every one that its dispatcher sees, whoever makes it."""
    launches: int
    """On CUDA; 0 on the CPU."""


@contextlib.contextmanager
def on_emulated_cuda(op: Any) -> Iterator[None]:
    """The ops on CPU tensors are those of the CUDA backend, emulated, on the engine for a whole recurrence.

    Both directions of a layer run on one thread, one after the other: two streams are for CUDA's tensors alone.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    op.take_over(True)
    op.set_engine("block")
    try:
        yield
    finally:
        op.set_engine("stepwise")
        op.take_over(False)
        torch.set_num_threads(threads)


def _events(work: Callable[[], object]) -> list[Any]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    return [event for event in profiled.events() if event.name.startswith(("aten::", "rnndrop::"))]


def _computes(event: Any) -> bool:
    """Whether ATen starts a kernel here, and not in a call below."""
    kind, _, name = event.name.partition("::")
    return kind == "aten" and name not in COMPUTES_NOTHING and not any(map(_computes_anywhere, event.cpu_children))


def _computes_anywhere(event: Any) -> bool:
    return _computes(event) or any(map(_computes_anywhere, event.cpu_children))


def count(op: Any | None, backend: str, dropout: str) -> list[Count]:
    """The counts of a forward and of its backward; `op`: the emulated ops, where they run."""
    layer = LSTM(I, H, **CASES[dropout])
    x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H * (2 if layer.bidirectional else 1))
    leaves = [x, *layer.parameters()]
    output: list[Tensor] = []

    def forward() -> None:
        output[:] = [layer(x)[0]]

    def backward() -> None:
        torch.autograd.grad(output[0], leaves, dy)

    counts = []
    forward()  # what is done once only: plans, threads
    backward()
    for phase, work in (("forward", forward), ("backward", backward)):
        before = (op.launches(), op.gemms()) if op else (0, 0)
        events = _events(work)
        own = sum((op.launches(), op.gemms())) - sum(before) if op else 0
        launches = own + sum(map(_computes, events)) if op else 0
        counts.append(Count(backend, dropout, phase, len(events), launches))
    return counts


def count_all(op: Any) -> list[Count]:
    """On the CPU, then on emulated CUDA."""
    counts = [row for dropout in CASES for row in count(None, "cpu", dropout)]
    with on_emulated_cuda(op):
        return counts + [row for dropout in CASES for row in count(op, "cuda", dropout)]


def read_csv() -> list[Count]:
    """The committed counts."""
    rows = csv.DictReader(line for line in CSV.read_text().splitlines() if not line.startswith("#"))
    return [
        Count(**{f.name: int(row[f.name]) if f.type == "int" else row[f.name] for f in fields(Count)}) for row in rows
    ]


def write_csv(path: Path, facts: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> None:
    """As bench.records has them: a line a fact, then the table. Shows the file."""
    with path.open("w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text())


def main() -> None:
    """Write the counts."""
    import conftest  # beside this file

    facts = {"command": "PYTHONPATH=. python tests/cuda/host_calls.py", "torch": torch.__version__}
    write_csv(CSV, facts, [asdict(row) for row in count_all(conftest.load_op())])


if __name__ == "__main__":
    main()
