"""Times contenders in turn, A B C A B C, in one process: what slows the machine down slows all of them."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from bench.contenders import Contender
from bench.problems import Problem
from bench.records import CELL_LOOP, INFERENCE, PHASES, Timing, name_of

WARM_UP_ROUNDS = 2
SHORTEST_MEASUREMENT_MS = 5.0
LOOPS_EVERY = 3
"""A loop in Python is measured in every third round only, so that a run ends in minutes."""


def measure(problem: Problem, contenders: Sequence[Contender], repeats: int) -> list[Timing]:
    """Times every contender in every phase that it has."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # here: it comes with the demo extra only

    stopwatch = cuda_stopwatch(problem.device) if problem.device.type == "cuda" else cpu_milliseconds
    timings = []
    for phase in PHASES:
        timed = [contender for contender in contenders if phase in contender.calls]
        calls = [contender.calls[phase] for contender in timed]
        problem.modules.train(phase != INFERENCE)
        numbers = [1] * len(calls)
        samples: list[list[float]] = [[] for _ in calls]
        rounds = tqdm(range(-WARM_UP_ROUNDS, repeats), desc=f"{problem.size}: {phase}", leave=False, disable=None)
        with no_garbage_collection():
            for round in rounds:
                problem.new_upstream()
                for k, call in enumerate(calls):
                    if is_loop(timed[k]) and round > 0 and round % LOOPS_EVERY:
                        continue
                    with timed[k].running():
                        milliseconds = stopwatch(call, numbers[k])
                    if round >= 0:
                        samples[k].append(milliseconds)
                    elif problem.device.type == "cpu":
                        numbers[k] = max(1, math.ceil(SHORTEST_MEASUREMENT_MS / milliseconds))
        timings += [
            summarize(problem, contender, phase, number, sample)
            for contender, number, sample in zip(timed, numbers, samples, strict=True)
        ]
    return timings


def is_loop(contender: Contender) -> bool:
    """Whether Python runs its steps: it is several times slower than all others, so that few measurements suffice."""
    return contender.name == CELL_LOOP or contender.backend == "python"


def summarize(problem: Problem, contender: Contender, phase: str, calls: int, sample: list[float]) -> Timing:
    return Timing(
        *problem.size,
        dtype=name_of(problem.dtype),
        threads=torch.get_num_threads(),
        sequences=contender.sequences,
        contender=contender.name,
        backend=contender.backend,
        dropout=contender.dropout.name,
        p=contender.dropout.p,
        p_g=contender.dropout.p_g,
        repeats=len(sample),
        phase=phase,
        calls=calls,
        **quartiles(sample),
    )


def quartiles(sample: list[float]) -> dict[str, float]:
    """A Timing's milliseconds, by the names of its fields."""
    q1, median, q3 = statistics.quantiles(sample, n=4, method="inclusive") if len(sample) > 1 else sample * 3
    ms = {"median_ms": median, "q1_ms": q1, "q3_ms": q3, "min_ms": min(sample), "max_ms": max(sample)}
    return {name: round(value, 5) for name, value in ms.items()}


def cpu_milliseconds(call: Callable[[], object], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) * 1e3 / number


def cuda_stopwatch(device: torch.device) -> Callable[[Callable[[], object], int], float]:
    """Times one call between two events, on a cold L2 cache.

    In training a layer finds other layers' data in the cache; without the flush, what fits into it would be
    measured at the cache's speed.
    """
    flush = torch.empty(2 * torch.cuda.get_device_properties(device).L2_cache_size, dtype=torch.int8, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def milliseconds(call: Callable[[], object], number: int) -> float:
        assert number == 1, "a second call would find a warm cache"
        torch.cuda.synchronize(device)
        flush.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    return milliseconds


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
