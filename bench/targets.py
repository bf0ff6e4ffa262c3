"""Performance targets: ratios of what was measured, and the bound that each should keep.

bench.bars prints them, and says what they are ratios of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.grids import LONG, ONE, SEMINAR, WIDE
from bench.records import (
    CELL_LOOP,
    FORWARD,
    FORWARD_BACKWARD,
    FULL,
    GEMMS,
    INFERENCE,
    LENGTHS,
    MASKS,
    MODULE,
    NN_LSTM,
    PACKED,
    PADDED,
    STACK,
    Peak,
    Run,
    Size,
    Timing,
    read,
)

Kind = tuple[str, float, float]
"""Of dropout: its name, p and p_g."""
NONE: Kind = ("none", 0.0, 0.0)
GAL = ("Gal batch", 0.5, 0.0)
SEMENIUTA = ("Semeniuta step", 0.0, 0.3)
SEQUENCE = ("Semeniuta sequence", 0.0, 0.3)
KINDS = {"no dropout": NONE, "Gal p=0.5": GAL, "Semeniuta p_g=0.3": SEMENIUTA}

SPEEDUPS = {SEMINAR: (1.15, 1.9, 1.05), LONG: (1.05, 1.7, 1.0), WIDE: (1.1, 1.6, 1.05)}
"""In forward+backward over nn.LSTM without dropout, for each of KINDS."""
ONE_INFERENCE = 1.5
LENGTHS_SPEEDUP = 2.5  # against a packed nn.LSTM
LENGTHS_COST = 1.1  # of what the padded batch takes
FLOOR = 1.1  # of the GEMMs alone, at SEMINAR and LONG
MASKS_SHARE = 0.02  # of forward+backward
PEAK = 1.0  # of nn.LSTM's

BOTH = ("both", 0.5, 0.3)


class CudaCase(NamedTuple):
    """Where nn.LSTM and ours are compared, each with its own form of sequences.

    The speedup is required of forward and of forward+backward.
    """

    size: Size
    dtype: str
    speedup: float
    lstm: str = FULL
    ours: str = FULL
    loop: str = FULL


CUDA = [
    CudaCase(SEMINAR, "float32", 2),
    CudaCase(SEMINAR, "bfloat16", 2),
    CudaCase(Size(512, 64, 256, 256), "bfloat16", 2),
    CudaCase(Size(512, 64, 512, 512), "bfloat16", 1.5),
    CudaCase(Size(1024, 16, 768, 768), "float16", 1),
    CudaCase(Size(512, 32, 1024, 1024), "bfloat16", 1.3),
    CudaCase(Size(256, 64, 256, 256), "bfloat16", 2, STACK, STACK, STACK),
    CudaCase(Size(512, 64, 256, 256), "bfloat16", 4, PACKED, LENGTHS, PADDED),
]
LOOP_SPEEDUP = 15


@dataclass(frozen=True)
class Target:
    case: str
    what: str
    bound: float
    at_least: bool
    """Whether the bound is a minimum, not a maximum."""
    measured: float
    percent: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def required(self) -> str:
        return ("at least " if self.at_least else "at most ") + (
            f"{self.bound:.0%}" if self.percent else f"{self.bound:.2f}"
        )

    @property
    def shown(self) -> str:
        return f"{self.measured:.2%}" if self.percent else f"{self.measured:.3f}"


def peaks_beside(timings: Path) -> list[Peak]:
    """From memory.csv in the folder of that file; none if it is not there."""
    file = timings.with_name("memory.csv")
    return read(file, Peak)[1] if file.exists() else []


def targets_of(facts: Mapping[str, str], timings: Sequence[Timing], peaks: Sequence[Peak]) -> list[Target]:
    """The targets for the device that was measured. Raises ValueError naming what was not measured."""
    return cpu_targets(timings, peaks) if facts["device"] == "cpu" else cuda_targets(timings)


def cuda_targets(timings: Sequence[Timing]) -> list[Target]:
    """Raises ValueError naming what was not measured."""
    found = []
    for case in CUDA:
        for phase in (FORWARD, FORWARD_BACKWARD):
            ms = partial(cuda_ms, timings, case, phase)
            ours = ms(MODULE, BOTH, case.ours)
            form = "" if case.ours == FULL else f", {case.ours}"
            where = f"{case.size}, {case.dtype}{form}, {phase}"
            lstm = f"{'packed ' * (case.lstm == PACKED)}nn.LSTM / ours, both dropouts"
            found.append(Target(where, lstm, case.speedup, True, ms(NN_LSTM, NONE, case.lstm) / ours))
            loop = ms(CELL_LOOP, NONE, case.loop) / ours
            found.append(Target(where, "nn.LSTMCell loop / ours, both dropouts", LOOP_SPEEDUP, True, loop))
    return found


def cuda_ms(
    timings: Sequence[Timing], case: CudaCase, phase: str, contender: str, dropout: Kind, sequences: str
) -> float:
    of_phase = [timing for timing in timings if timing.phase == phase]
    [timing] = find(of_phase, phase, case.size, contender, dropout, sequences, case.dtype)
    return timing.median_ms


def cpu_targets(timings: Sequence[Timing], peaks: Sequence[Peak]) -> list[Target]:
    """Raises ValueError naming what was not measured."""
    threads = max((timing.threads for timing in timings), default=0)
    timings = [timing for timing in timings if timing.threads == threads]

    def ms(size: Size, phase: str, contender: str, dropout: Kind = NONE, sequences: str = FULL) -> float:
        of_phase = [timing for timing in timings if timing.phase == phase]
        return min(t.median_ms for t in find(of_phase, phase, size, contender, dropout, sequences))

    def ours(size: Size, kind: Kind, sequences: str = FULL) -> float:
        return ms(size, FORWARD_BACKWARD, MODULE, kind, sequences)

    found = []
    for size, speedups in SPEEDUPS.items():
        lstm = ms(size, FORWARD_BACKWARD, NN_LSTM)
        for (name, kind), speedup in zip(KINDS.items(), speedups, strict=True):
            found.append(Target(str(size), f"nn.LSTM / ours, {name}", speedup, True, lstm / ours(size, kind)))
    one = ms(ONE, INFERENCE, NN_LSTM) / ms(ONE, INFERENCE, MODULE)
    found.append(Target(f"{ONE}, inference", "nn.LSTM / ours", ONE_INFERENCE, True, one))

    ragged = f"{LONG}, lengths from 1 to T"
    packed = ms(LONG, FORWARD_BACKWARD, NN_LSTM, NONE, PACKED)
    for form in (LENGTHS, PACKED):
        speedup = packed / ours(LONG, NONE, form)
        found.append(Target(ragged, f"packed nn.LSTM / ours {form}", LENGTHS_SPEEDUP, True, speedup))
    cost = ours(LONG, NONE, LENGTHS) / ours(LONG, NONE, PADDED)
    found.append(Target(ragged, f"ours {LENGTHS} / ours {PADDED}", LENGTHS_COST, False, cost))

    for size in (SEMINAR, LONG):
        distance = ours(size, NONE) / ms(size, FORWARD_BACKWARD, GEMMS)
        found.append(Target(str(size), "ours, no dropout / GEMMs alone", FLOOR, False, distance))
    for size in SPEEDUPS:
        for name, kind in list(KINDS.items())[1:]:
            share = ms(size, MASKS, MODULE, kind) / ours(size, kind)
            found.append(Target(str(size), f"drawing masks / all, {name}", MASKS_SHARE, False, share, percent=True))
    for size in SPEEDUPS if peaks else ():
        of_lstm, *_ = find(peaks, "peak", size, NN_LSTM)
        for name, kind in KINDS.items():
            of_ours, *_ = find(peaks, "peak", size, MODULE, kind)
            ratio = of_ours.median_bytes / of_lstm.median_bytes
            found.append(Target(str(size), f"peak memory, ours / nn.LSTM, {name}", PEAK, False, ratio))
    return found


AnyRun = TypeVar("AnyRun", bound=Run)


def find(
    runs: Sequence[AnyRun],
    of: str,
    size: Size,
    contender: str,
    dropout: Kind = NONE,
    sequences: str = FULL,
    dtype: str = "float32",
) -> list[AnyRun]:
    """All of them. Raises ValueError naming `of` and the rest if there is none."""
    found = [
        run
        for run in runs
        if (run.size, run.dtype) == (size, dtype)
        and (run.contender, run.sequences) == (contender, sequences)
        and (run.dropout, run.p, run.p_g) == dropout
        and run.backend != "python"
    ]
    if not found:
        raise ValueError(
            f"no {of} of {contender}, {sequences}, dropout {' '.join(map(str, dropout))}, {size}"
            + (f", {dtype}" if dtype != "float32" else "")
        )
    return found
