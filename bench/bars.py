"""What the kernels are to reach, beside what was measured: `python -m bench.bars bench/results/cpu.csv`.

Ratios of medians of one run. Ours is the module, called as nn.LSTM is, drawing its own masks; the GEMMs alone are the
fastest of the libraries measured. Of several numbers of threads the largest counts. The peaks of memory are those of
memory.csv in the same folder, where there is one. A file measured on a GPU has bars of its own: ours with both
dropouts, by the engine that it chooses itself, against nn.LSTM and the nn.LSTMCell loop without any.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
    Timing,
    read,
)

NONE = ("none", 0.0, 0.0)
GAL = ("Gal batch", 0.5, 0.0)
SEMENIUTA = ("Semeniuta step", 0.0, 0.3)
SEQUENCE = ("Semeniuta sequence", 0.0, 0.3)
KINDS = {"no dropout": NONE, "Gal p=0.5": GAL, "Semeniuta p_g=0.3": SEMENIUTA}

SEMINAR = (32, 128, 300, 128)
LONG = (200, 64, 300, 256)
WIDE = (400, 16, 128, 512)
ONE = (64, 1, 128, 128)
SPEEDUPS = {SEMINAR: (1.15, 1.9, 1.05), LONG: (1.05, 1.7, 1.0), WIDE: (1.1, 1.6, 1.05)}
"""Of forward+backward against nn.LSTM without dropout, for each of KINDS."""
ONE_INFERENCE = 1.5
LENGTHS_SPEEDUP = 2.5  # against a packed nn.LSTM
LENGTHS_COST = 1.1  # of what the padded batch takes
FLOOR = 1.1  # of the GEMMs alone, at SEMINAR and LONG
MASKS_SHARE = 0.02  # of forward+backward
PEAK = 1.0  # of nn.LSTM's

BOTH = ("both", 0.5, 0.3)


class CudaCase(NamedTuple):
    """What nn.LSTM, in its form, is compared with ours in; the speedup is of forward and of forward+backward."""

    size: tuple[int, ...]
    dtype: str
    speedup: float
    lstm: str = FULL
    ours: str = FULL
    loop: str = FULL


CUDA = [
    CudaCase(SEMINAR, "float32", 2),
    CudaCase(SEMINAR, "bfloat16", 2),
    CudaCase((512, 64, 256, 256), "bfloat16", 2),
    CudaCase((512, 64, 512, 512), "bfloat16", 1.5),
    CudaCase((1024, 16, 768, 768), "float16", 1),
    CudaCase((512, 32, 1024, 1024), "bfloat16", 1.3),
    CudaCase((256, 64, 256, 256), "bfloat16", 2, STACK, STACK, STACK),
    CudaCase((512, 64, 256, 256), "bfloat16", 4, PACKED, LENGTHS, PADDED),
]
LOOP_SPEEDUP = 15


@dataclass(frozen=True)
class Bar:
    case: str
    what: str
    bound: float
    at_least: bool
    """Whether the bound is the least that is required, not the most that is allowed."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, whatever was met; 2 where something was not measured."""
    from bench import tables  # here: it imports this module

    parser = argparse.ArgumentParser(
        prog="bench.bars", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("file", type=Path, help="written by bench.lstm: the grid cpu or cuda")
    file = parser.parse_args(argv).file
    try:
        facts, timings = read(file)
        found = bars_of(facts, timings, tables.peaks_beside(file))
    except (OSError, ValueError) as error:
        print(f"bench.bars: {error}", file=sys.stderr)
        return 2
    print(tables.bars_table(found))
    print(f"\n{sum(bar.met for bar in found)} of {len(found)} met. {tables.provenance(facts)}")
    return 0


def bars_of(facts: Mapping[str, str], timings: Sequence[Timing], peaks: Sequence[Peak]) -> list[Bar]:
    """The bars of the device that was measured. Raises ValueError, naming it, for what was not measured."""
    return bars(timings, peaks) if facts["device"] == "cpu" else cuda_bars(timings)


def cuda_bars(timings: Sequence[Timing]) -> list[Bar]:
    """Raises ValueError, naming it, for what was not measured."""
    found = []
    for case in CUDA:
        for phase in (FORWARD, FORWARD_BACKWARD):
            of_phase = [timing for timing in timings if timing.phase == phase]

            def ms(
                contender: str, dropout: Dropout, sequences: str, case: CudaCase = case, phase: str = phase,
                runs: Sequence[Timing] = of_phase,
            ) -> float:  # fmt: skip
                [timing] = find(runs, phase, case.size, contender, dropout, sequences, case.dtype)
                return timing.median_ms

            ours = ms(MODULE, BOTH, case.ours)
            form = "" if case.ours == FULL else f", {case.ours}"
            where = f"{in_words(case.size)}, {case.dtype}{form}, {phase}"
            lstm = f"{'packed ' * (case.lstm == PACKED)}nn.LSTM / ours, both dropouts"
            found.append(Bar(where, lstm, case.speedup, True, ms(NN_LSTM, NONE, case.lstm) / ours))
            loop = ms(CELL_LOOP, NONE, case.loop) / ours
            found.append(Bar(where, "nn.LSTMCell loop / ours, both dropouts", LOOP_SPEEDUP, True, loop))
    return found


def bars(timings: Sequence[Timing], peaks: Sequence[Peak]) -> list[Bar]:
    """Of the CPU. Raises ValueError, naming it, for what was not measured."""
    threads = max((timing.threads for timing in timings), default=0)
    timings = [timing for timing in timings if timing.threads == threads]

    def ms(size: tuple[int, ...], phase: str, contender: str, dropout: Dropout = NONE, sequences: str = FULL) -> float:
        of_phase = [timing for timing in timings if timing.phase == phase]
        return min(t.median_ms for t in find(of_phase, phase, size, contender, dropout, sequences))

    def ours(size: tuple[int, ...], kind: Dropout, sequences: str = FULL) -> float:
        return ms(size, FORWARD_BACKWARD, MODULE, kind, sequences)

    found = []
    for size, speedups in SPEEDUPS.items():
        lstm = ms(size, FORWARD_BACKWARD, NN_LSTM)
        for (name, kind), speedup in zip(KINDS.items(), speedups, strict=True):
            found.append(Bar(in_words(size), f"nn.LSTM / ours, {name}", speedup, True, lstm / ours(size, kind)))
    one = ms(ONE, INFERENCE, NN_LSTM) / ms(ONE, INFERENCE, MODULE)
    found.append(Bar(f"{in_words(ONE)}, inference", "nn.LSTM / ours", ONE_INFERENCE, True, one))

    ragged = f"{in_words(LONG)}, lengths from 1 to T"
    packed = ms(LONG, FORWARD_BACKWARD, NN_LSTM, NONE, PACKED)
    for form in (LENGTHS, PACKED):
        speedup = packed / ours(LONG, NONE, form)
        found.append(Bar(ragged, f"packed nn.LSTM / ours {form}", LENGTHS_SPEEDUP, True, speedup))
    cost = ours(LONG, NONE, LENGTHS) / ours(LONG, NONE, PADDED)
    found.append(Bar(ragged, f"ours {LENGTHS} / ours {PADDED}", LENGTHS_COST, False, cost))

    for size in (SEMINAR, LONG):
        distance = ours(size, NONE) / ms(size, FORWARD_BACKWARD, GEMMS)
        found.append(Bar(in_words(size), "ours, no dropout / GEMMs alone", FLOOR, False, distance))
    for size in SPEEDUPS:
        for name, kind in list(KINDS.items())[1:]:
            share = ms(size, MASKS, MODULE, kind) / ours(size, kind)
            found.append(Bar(in_words(size), f"drawing masks / all, {name}", MASKS_SHARE, False, share, percent=True))
    for size in SPEEDUPS if peaks else ():
        of_lstm, *_ = find(peaks, "peak", size, NN_LSTM)
        for name, kind in KINDS.items():
            of_ours, *_ = find(peaks, "peak", size, MODULE, kind)
            ratio = of_ours.median_bytes / of_lstm.median_bytes
            found.append(Bar(in_words(size), f"peak memory, ours / nn.LSTM, {name}", PEAK, False, ratio))
    return found


Dropout = tuple[str, float, float]


def find(
    runs: Sequence[Run],
    of: str,
    size: tuple[int, ...],
    contender: str,
    dropout: Dropout = NONE,
    sequences: str = FULL,
    dtype: str = "float32",
) -> list[Run]:
    found = [
        run
        for run in runs
        if (run.T, run.B, run.I, run.H, run.dtype) == (*size, dtype)
        and (run.contender, run.sequences) == (contender, sequences)
        and (run.dropout, run.p, run.p_g) == dropout
        and run.backend != "python"
    ]
    if not found:
        raise ValueError(
            f"no {of} of {contender}, {sequences}, dropout {' '.join(map(str, dropout))}, {in_words(size)}"
            + (f", {dtype}" if dtype != "float32" else "")
        )
    return found


def in_words(size: tuple[int, ...]) -> str:
    return " ".join(f"{name}={n}" for name, n in zip("TBIH", size, strict=True))


if __name__ == "__main__":
    sys.exit(main())
