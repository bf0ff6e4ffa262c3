"""Times the persistent kernels as the model plans them, as the GPU itself chooses, and with what plans may have beside.

    python -m bench.trials --out bench/results/trials.csv

All of them in turn in one process, A B C A B C: the times of the kernels alone, by torch.profiler, in a forward and its
backward. Before it is timed, each has to give what the kernels give as they are. Needs a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.arguments import positive
from bench.contenders import plans_are_timed
from bench.correctness import relative_error, tolerance
from bench.machine import check_out, machine_facts, usable
from bench.records import Size, name_of, write
from rnndrop_cuda import cuda_engine, dropout_mask, explain_engine, functional
from rnndrop_cuda.engines import timed_plans

SEVERAL_BLOCKS = ("auto", "cluster", "grid", "multicast")
CASES = [
    (Size(512, 64, 64, 64), torch.bfloat16, ("block",)),
    (Size(32, 128, 300, 128), torch.bfloat16, SEVERAL_BLOCKS),
    (Size(512, 64, 256, 256), torch.bfloat16, SEVERAL_BLOCKS),
    (Size(512, 64, 512, 512), torch.bfloat16, SEVERAL_BLOCKS),
    (Size(1024, 16, 768, 768), torch.float16, SEVERAL_BLOCKS),
    (Size(512, 32, 1024, 1024), torch.bfloat16, SEVERAL_BLOCKS),
]
TIMED = "as timed"  # torch.backends.cudnn.benchmark
TRIALS: dict[str, dict[str, Any]] = {
    "as it is": {},
    TIMED: {"multicast": 4},
    "W_hh in shared memory": {"registers": False},
    "in shared memory, prefetch 1": {"registers": False, "prefetch": 1},
    "in shared memory, prefetch 2": {"registers": False, "prefetch": 2},
    "in shared memory, prefetch 4": {"registers": False, "prefetch": 4},
    "in shared memory, 2 pieces": {"registers": False, "pieces": 2},
    "in shared memory, 4 pieces": {"registers": False, "pieces": 4},
    "in shared memory, 2 pieces, prefetch 2": {"registers": False, "pieces": 2, "prefetch": 2},
}
ABSENT: dict[str, set[str]] = {
    "block": {"prefetch", "pieces"},
    "cluster": {"pieces"},
    "grid": set(),
    "auto": {"registers", "prefetch", "pieces"},
    "multicast": {"registers", "prefetch", "pieces"},
}
"""What makes no difference to an engine."""
KERNELS = ("recurrence_forward_kernel", "recurrence_backward_kernel")
Call = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class TrialTime:
    """Of one trial on one engine at one size, with both papers' dropout: median microseconds of each kernel."""

    T: int
    B: int
    I: int
    H: int
    dtype: str
    engine: str
    trial: str
    repeats: int
    forward_us: float
    backward_us: float
    plan: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.trials argv...`; returns 0, 1 when a trial gives something else, 2 on wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="bench.trials", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="of each trial (default: 5)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the times here, below a header of facts")
    args = parser.parse_args(argv)
    try:
        check_out(args.out)
        device, _ = usable("cuda", None)
        facts = machine_facts(device, shlex.join(["python", "-m", "bench.trials", *argv]))
    except (OSError, RuntimeError) as error:
        print(f"bench.trials: {error}", file=sys.stderr)
        return 2
    times, wrong = [], []
    for size, dtype, engines in CASES:
        call = layer_call(size, dtype, device)
        for engine in engines:
            with cuda_engine(engine):
                times += measure(size, dtype, engine, call, args.repeats, wrong)
            if args.out:  # each time: what has been measured stays if the time is not enough for the rest
                write(args.out, facts | {"wrong": "; ".join(wrong) or "nothing"}, times)
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return int(bool(wrong))


def layer_call(size: Size, dtype: torch.dtype, device: torch.device) -> Call:
    """A forward and its backward with both papers' dropout: outputs and gradients."""
    T, B, I, H = size
    options = {"dtype": dtype, "device": device}
    shapes = [(T, B, I), (B, H), (B, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    inputs = [(torch.randn(shape, **options) * shape[-1] ** -0.5).requires_grad_() for shape in shapes]
    dy = torch.randn(T, B, H, **options)
    masks = {"mask_x": (I,), "mask_h": (H,), "mask_g": (T, B, H)}
    drawn = {name: dropout_mask(shape, 0.3, **options) for name, shape in masks.items()}

    def call() -> list[Tensor]:
        output = functional.lstm_layer(*inputs, **drawn)
        return [*(o.detach() for o in output), *torch.autograd.grad(output[0], inputs, dy)]

    return call


def trials_of(engine: str) -> list[str]:
    """Those that give it other kernels than it has as it is."""
    return [name for name, trial in TRIALS.items() if not ABSENT[engine] & trial.keys()]


def measure(
    size: Size, dtype: torch.dtype, engine: str, call: Call, repeats: int, wrong: list[str],
    kernel_times: Callable[[Call], dict[str, float]] | None = None,
) -> list[TrialTime]:  # fmt: skip
    """Every trial in turn. One that gives something else than the kernels as they are goes to `wrong`, untimed."""
    from rnndrop_cuda import _C

    of_call = kernel_times or profiled
    samples: dict[str, list[dict[str, float]]] = {}
    plans: dict[str, str] = {}
    expected: list[Tensor] = []
    try:
        for name in trials_of(engine):
            timed_before = timed_plans()
            with running(name):
                results = call()
            timed = [plan for plan in timed_plans() if plan not in timed_before]
            plans[name] = " | ".join(timed or explain_engine(*size, dtype).splitlines())
            expected = expected or results
            error = max(relative_error(result, e) for result, e in zip(results, expected, strict=True))
            if error <= tolerance(dtype, results[0].device):
                samples[name] = []
            else:
                wrong.append(f"{size} {dtype} {engine}, {name}: differs by {error:.1e}")
        for _ in range(repeats):
            for name, of_trial in samples.items():
                with running(name):
                    of_trial.append(of_call(call))
    finally:
        _C.set_cuda_trials()
    times = []
    for name, of_trial in samples.items():
        forward, backward = (statistics.median(sample[kernel] for sample in of_trial) for kernel in KERNELS)
        kind = name_of(dtype)
        times.append(TrialTime(*size, kind, engine, name, repeats, round(forward, 1), round(backward, 1), plans[name]))
        print(f"{size} {kind:8} {engine:8} {name:38} {forward:9.1f} {backward:9.1f} us", flush=True)
    return times


def running(trial: str) -> contextlib.AbstractContextManager[object]:
    """What runs within it runs as the trial says; what a plan may have stays so behind it."""
    from rnndrop_cuda import _C

    _C.set_cuda_trials(**TRIALS[trial])
    return plans_are_timed() if trial == TIMED else contextlib.nullcontext()


def profiled(call: Call) -> dict[str, float]:
    """Microseconds of each of KERNELS in one call; 0 where it did not run."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sums_of_kernels((event.name, event.device_time) for event in profile.events())


def sums_of_kernels(events: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Of KERNELS, whose names the profiler gives with their template arguments."""
    sums = dict.fromkeys(KERNELS, 0.0)
    for name, microseconds in events:
        for kernel in KERNELS:
            if kernel in name:
                sums[kernel] += microseconds
    return sums


if __name__ == "__main__":
    sys.exit(main())
