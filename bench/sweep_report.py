"""What bench.sweep found, as tables and as a picture: how ours compares with nn.LSTM over many shapes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.markdown import figure, markdown, provenance
from bench.records import FORWARD_BACKWARD, INFERENCE, NN_LSTM, SweepTiming

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = {"none": ("#0072B2", "s"), "Gal": ("#009E73", "D"), "Semeniuta": ("#D55E00", "^")}

STEADY = {"min": 0.9, "p10": 1.0, "median": 1.1}
# What is asked of the statistics, by phase, dtype and dropout.
BARS = {
    (FORWARD_BACKWARD, "float32", "none"): STEADY,
    (FORWARD_BACKWARD, "float32", "Gal"): {"p10": 1.2, "median": 1.6},
    (FORWARD_BACKWARD, "float32", "Semeniuta"): STEADY,
    (INFERENCE, "float32", "none"): {"min": 0.9, "p10": 1.0},
    (FORWARD_BACKWARD, "bfloat16", "none"): {"p10": 1.0},
    (FORWARD_BACKWARD, "bfloat16", "Gal"): {"p10": 1.0, "median": 1.4},
    (FORWARD_BACKWARD, "bfloat16", "Semeniuta"): {"p10": 1.0},
    (INFERENCE, "bfloat16", "none"): {"p10": 1.0},
}
FLOAT16_BAR = 1.05
"""Times float32's time."""


class Setting(NamedTuple):
    phase: str
    dtype: str
    threads: int

    def __str__(self) -> str:
        phase = "training" if self.phase == FORWARD_BACKWARD else self.phase
        return f"{phase}, {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}"


class Ratio(NamedTuple):
    """nn.LSTM's time over ours: below 1, ours is slower."""

    setting: Setting
    ours: SweepTiming
    nn_lstm_ms: float

    @property
    def value(self) -> float:
        return self.nn_lstm_ms / self.ours.median_ms


class Statistics(NamedTuple):
    shapes: int
    min: float
    p10: float
    median: float
    slower: int


def ratios(timings: Iterable[SweepTiming]) -> list[Ratio]:
    """Of every timing of ours. Raises ValueError where its nn.LSTM is missing."""
    timings = list(timings)
    baselines = {(t.shape, setting_of(t)): t.median_ms for t in timings if t.contender == NN_LSTM}
    found = []
    for t in timings:
        if t.contender != NN_LSTM:
            key = (t.shape, setting_of(t))
            if key not in baselines:
                raise ValueError(f"{t.shape}, {setting_of(t)}: expected a timing of nn.LSTM, there is none")
            found.append(Ratio(setting_of(t), t, baselines[key]))
    return found


def setting_of(timing: SweepTiming) -> Setting:
    return Setting(timing.phase, timing.dtype, timing.threads)


def statistics(values: Sequence[float]) -> Statistics:
    p10, median = np.percentile(values, [10, 50])
    return Statistics(len(values), min(values), float(p10), float(median), sum(value < 1 for value in values))


def by_setting(found: Iterable[Ratio]) -> dict[tuple[Setting, str], list[Ratio]]:
    groups: dict[tuple[Setting, str], list[Ratio]] = defaultdict(list)
    for ratio in found:
        groups[ratio.setting, ratio.ours.dropout].append(ratio)
    return dict(groups)


def statistics_table(found: Iterable[Ratio]) -> str:
    rows = []
    for (setting, dropout), of_group in by_setting(found).items():
        s = statistics([ratio.value for ratio in of_group])
        values = [str(s.shapes), two(s.min), two(s.p10), two(s.median), str(s.slower)]
        rows.append([f"{setting}, {named(dropout)}", *values, missed(setting, dropout, s)])
    return markdown(["nn.LSTM's time / ours", "shapes", "min", "p10", "median", "slower", "bars missed"], rows)


def missed(setting: Setting, dropout: str, statistics: Statistics) -> str:
    """The bars above what was measured, "none" if all are met, "" if there are none."""
    bars = BARS.get((setting.phase, setting.dtype, dropout))
    if bars is None:
        return ""
    return ", ".join(f"{name} {two(bar)}" for name, bar in bars.items() if getattr(statistics, name) < bar) or "none"


def float16_table(timings: Iterable[SweepTiming]) -> str:
    """Of bench.float16's timings. Raises ValueError where float32's is missing."""
    found: dict[Setting, list[float]] = defaultdict(list)
    of_float32 = {}
    for t in timings:
        setting = setting_of(t)._replace(dtype="float16")
        if t.dtype == "float32":
            of_float32[t.shape, setting] = t.median_ms
        elif (t.shape, setting) in of_float32:
            found[setting].append(t.median_ms / of_float32[t.shape, setting])
        else:
            raise ValueError(f"{t.shape}, {setting}: expected a timing in float32 before it, there is none")
    rows = []
    for setting, values in found.items():
        median, p90 = np.percentile(values, [50, 90])
        above = sum(value > FLOAT16_BAR for value in values)
        rows.append([str(setting), str(len(values)), two(median), two(p90), two(max(values)), str(above)])
    return markdown(["float16's time / float32's", "shapes", "median", "p90", "max", f"above {FLOAT16_BAR}"], rows)


def slow_table(found: Iterable[Ratio]) -> str:
    """Every shape at which ours is slower, the slowest first, and where its time goes."""
    rows = []
    for ratio in sorted((ratio for ratio in found if ratio.value < 1), key=lambda ratio: ratio.value):
        t = ratio.ours
        rest = t.median_ms - t.forward_op_ms - t.backward_op_ms
        shares = [f"{max(0.0, ms) / t.median_ms:.0%}" for ms in (t.forward_op_ms, t.backward_op_ms, rest)]
        where = [f"{ratio.setting}, {named(t.dropout)}", f"{t.gflop(t.phase):.2g}", two(ratio.value)]
        rows.append([str(t.shape), *where, figure(ratio.nn_lstm_ms), figure(t.median_ms), *shares])
    header = ["shape", "setting", "GFLOP", "ratio", "nn.LSTM, ms", "ours, ms", "forward op", "backward op", "the rest"]
    return markdown(header, rows)


def named(dropout: str) -> str:
    return "no dropout" if dropout == "none" else dropout


def two(value: float) -> str:
    return f"{value:.2f}"


def draw(png: Path, found: Sequence[Ratio], facts: Mapping[str, str]) -> Figure:
    """The ratio against the work, a panel for each setting, a marker for each dropout."""
    import matplotlib  # here: it comes with the demo extra only

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    settings = list(dict.fromkeys(ratio.setting for ratio in found))
    columns = min(2, len(settings))
    rows = math.ceil(len(settings) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(6.5 * columns, 3.8 * rows), layout="constrained", squeeze=False)
    for plot, setting in zip(grid.flat, settings, strict=False):
        for dropout, (color, marker) in MARKERS.items():
            points = [
                (r.ours.gflop(r.ours.phase), r.value)
                for r in found
                if (r.setting, r.ours.dropout) == (setting, dropout)
            ]
            if points:
                look = {"color": color, "marker": marker, "alpha": 0.75, "s": 20}
                plot.scatter(*zip(*points, strict=True), label=named(dropout), **look)
        plot.axhline(1, color="#000000", linewidth=1)
        plot.set(title=str(setting), xscale="log", yscale="log", xlabel="GFLOP", ylabel="nn.LSTM's time / ours")
        plot.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50]))
        plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        plot.yaxis.set_minor_formatter(NullFormatter())
        plot.grid(True, alpha=0.25)
        plot.legend(fontsize=8)
    for plot in list(grid.flat)[len(settings) :]:
        plot.axis("off")
    figure.suptitle(f"{facts['shapes']}: above 1, ours is faster")
    figure.supxlabel(provenance(facts), fontsize=6)
    figure.savefig(png, dpi=100)
    plt.close(figure)
    return figure
