"""Plots the grid "scaling": `python -m bench.curves [bench/results/scaling.csv]`, into PNGs beside the file.

Time against T, B, I and H around one size, and against p: a figure for each phase and number of threads. Every line
has a marker of its own, so that none is told by its colour alone. Each PNG holds the hash of the file it was drawn
from.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.grids import CENTRE
from bench.markdown import provenance
from bench.records import CELL_LOOP, FORWARD_BACKWARD, FULL, GEMMS, INFERENCE, MODULE, NN_LSTM, RESULTS, Timing, read
from bench.targets import GAL, NONE, SEMENIUTA, SEQUENCE, Kind

PHASES = {INFERENCE: "inference", FORWARD_BACKWARD: "training"}
"""Those that are drawn, and what a file's name calls them."""
AXES = {
    "T": "steps T",
    "B": "batch B",
    "I": "input features I",
    "H": "hidden features H",
    "p": "p of Gal's dropout, p_g of Semeniuta's",
}
SOURCE = "Source"


class Line(NamedTuple):
    contender: str
    dropout: Kind
    color: str
    marker: str
    dashes: str | tuple[int, tuple[int, ...]]


# Okabe and Ito's colours, which colour-blind readers can tell apart.
LINES = {
    "nn.LSTM": Line(NN_LSTM, NONE, "#000000", "o", "-"),
    "nn.LSTMCell loop": Line(CELL_LOOP, NONE, "#E69F00", "v", (0, (6, 2, 1, 2, 1, 2))),
    "ours, no dropout": Line(MODULE, NONE, "#0072B2", "s", "-"),
    "ours, Gal p=0.5": Line(MODULE, GAL, "#009E73", "D", "--"),
    "ours, Semeniuta p_g=0.3": Line(MODULE, SEMENIUTA, "#D55E00", "^", "-."),
    "ours, Semeniuta p_g=0.3, for the sequence": Line(MODULE, SEQUENCE, "#CC79A7", "<", (0, (3, 1))),
    "GEMMs alone (dense)": Line(GEMMS, NONE, "#888888", "x", ":"),
}
Points = list[tuple[float, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 2 if there is nothing to draw."""
    parser = argparse.ArgumentParser(
        prog="bench.curves", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=RESULTS / "scaling.csv", help="(default: the committed one)"
    )
    file = parser.parse_args(argv).file
    try:
        facts, timings = read(file)
        timings = [t for t in timings if t.dtype == "float32" and t.sequences == FULL]
        figures = {
            file.with_name(f"{file.stem}-{name}-{threads}-thread{'s' * (threads > 1)}.png"): (phase, threads)
            for phase, name in PHASES.items()
            for threads in sorted({timing.threads for timing in timings})
        }
        for png, (phase, threads) in figures.items():
            of_figure = [timing for timing in timings if (timing.phase, timing.threads) == (phase, threads)]
            title = f"{phase}, float32, {threads} thread{'s' * (threads > 1)}, around {CENTRE}"
            draw(png, title, {axis: lines(of_figure, axis) for axis in AXES}, facts, fingerprint(file))
            print(f"written: {png}")
    except (OSError, ValueError) as error:
        print(f"bench.curves: {error}", file=sys.stderr)
        return 2
    return 0


def fingerprint(file: Path) -> str:
    return f"{file.name} sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def lines(timings: Sequence[Timing], axis: str) -> dict[str, Points]:
    """(value, median in ms) of everything that differs from CENTRE along this axis only, by the names of LINES.

    Along p, a dropout's line goes through all its probabilities, 0 included; the other lines are level.
    """
    others = [name for name in CENTRE._fields if name != axis]
    timings = [t for t in timings if all(getattr(t, name) == getattr(CENTRE, name) for name in others)]
    found: dict[str, Points] = {}
    for name, line in LINES.items():
        of_contender = [t for t in timings if t.contender == line.contender and t.backend != "python"]
        if axis != "p":
            own = [(getattr(t, axis), t) for t in of_contender if (t.dropout, t.p, t.p_g) == line.dropout]
        elif line.dropout == NONE:
            own = [(x, t) for t in of_contender if t.dropout == "none" for x in (0.0, 1.0)]
        else:
            own = [(t.p or t.p_g, t) for t in of_contender if t.dropout in ("none", line.dropout[0])]
            own = own if any(x for x, _ in own) else []
        fastest: dict[float, float] = {}  # of the GEMMs' libraries
        for x, t in own:
            fastest[x] = min(t.median_ms, fastest.get(x, t.median_ms))
        if fastest:
            found[name] = sorted(fastest.items())
    return found


def draw(png: Path, title: str, panels: dict[str, dict[str, Points]], facts: dict[str, str], source: str) -> None:
    import matplotlib  # here: it comes with the demo extra only

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    panels = {axis: lines for axis, lines in panels.items() if axis != "p" or any("p=" in name for name in lines)}
    if not any(panels.values()):
        raise ValueError(f"{source.split()[0]}: expected timings of {title}, there are none")
    figure, grid = plt.subplots(2, 3, figsize=(12, 7.5), layout="constrained")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for plot, (axis, of_panel) in zip(grid.flat, panels.items(), strict=False):
        for name, points in of_panel.items():
            plot.plot(*zip(*points, strict=True), label=name, **style(LINES[name]))
        plot.set_xlabel(AXES[axis])
        plot.set_ylabel("milliseconds")
        if axis == "p":
            plot.set_ylim(bottom=0)
        else:
            plot.set_yscale("log")
            plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            plot.yaxis.set_major_formatter(plain)
            plot.yaxis.set_minor_formatter(NullFormatter())
            plot.set_xscale("log", base=2)
            plot.xaxis.set_major_locator(FixedLocator(sorted({x for points in of_panel.values() for x, _ in points})))
            plot.xaxis.set_major_formatter(plain)
        plot.grid(True, which="both", alpha=0.25)
    for plot in list(grid.flat)[len(panels) :]:
        plot.axis("off")
    legend = grid.flat[-1].legend(*grid.flat[0].get_legend_handles_labels(), loc="center", fontsize=12, handlelength=4)
    legend.set_title("median, lower is better")
    figure.suptitle(f"One LSTM layer: {title}")
    figure.supxlabel(provenance(facts), fontsize=7)
    figure.savefig(png, dpi=110, metadata={SOURCE: source})
    plt.close(figure)


def style(line: Line) -> dict[str, Any]:
    return {"color": line.color, "marker": line.marker, "linestyle": line.dashes, "linewidth": 1.8, "markersize": 6}


if __name__ == "__main__":
    sys.exit(main())
