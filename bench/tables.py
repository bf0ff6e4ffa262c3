"""The README's tables, made from the committed results: `python -m bench.tables [--check] [README.md]`.

Between `<!-- table:NAME -->` and `<!-- /table:NAME -->` everything is replaced. NAME is

    STEM PHASE    from bench/results/STEM.csv, written by bench.lstm; PHASE is "forward" or "forward+backward"
    STEM          from bench/results/STEM.json, a results.json written by `rnndrop compare`
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.records import FORWARD, FORWARD_BACKWARD, GEMMS, NN_LSTM, Timing, read

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
MARKED = re.compile(r"(?P<open><!-- table:(?P<name>[^\n]*?) -->\n).*?(?P<close><!-- /table:(?P=name) -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where --check finds the file out of date; 2 where a table cannot be made."""
    parser = argparse.ArgumentParser(
        prog="bench.tables", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "README.md", help="(default: the README)")
    parser.add_argument("--check", action="store_true", help="change nothing; say whether the tables are up to date")
    args = parser.parse_args(argv)
    try:
        text = args.file.read_text(encoding="utf-8")
        filled = fill(text, RESULTS)
    except (OSError, ValueError) as error:
        print(f"bench.tables: {error}", file=sys.stderr)
        return 2
    if filled == text:
        return 0
    if args.check:
        print(f"{args.file} is out of date: run `python -m bench.tables`", file=sys.stderr)
        return 1
    args.file.write_text(filled, encoding="utf-8")
    return 0


def fill(text: str, results: Path) -> str:
    """The text with every marked table made anew. Raises ValueError for a marker that cannot be served."""
    filled = MARKED.sub(lambda match: f"{match['open']}{table(match['name'], results)}\n{match['close']}", text)
    for marker in re.findall(r"<!-- /?table:.*", MARKED.sub("", text)):
        raise ValueError(f"{marker!r} has no partner")
    return filled


def table(name: str, results: Path) -> str:
    """The table of that name and one line of facts."""
    stem, _, phase = name.partition(" ")
    if not phase:
        return comparison_table(results / f"{stem}.json")
    if phase not in (FORWARD, FORWARD_BACKWARD):
        raise ValueError(f"table:{name}: expected {FORWARD!r} or {FORWARD_BACKWARD!r} after the file, got {phase!r}")
    facts, timings = read(results / f"{stem}.csv")
    timings = [timing for timing in timings if timing.phase == phase]
    if not timings:
        raise ValueError(f"table:{name}: {stem}.csv has no timings of {phase}")
    threads = sorted({timing.threads for timing in timings})
    return (
        f"{grid_table(timings)}\n\nMilliseconds for {phase}, median of {timings[0].repeats} in turn; in brackets, how "
        f"many times as fast as nn.LSTM without dropout. CPU threads: {', '.join(map(str, threads))}; "
        f"{provenance(facts)}"
    )


def provenance(facts: dict[str, str]) -> str:
    device = "" if facts["device"] == "cpu" else f"{facts['device']}; "
    commit, dirty, _ = facts["commit"].partition("-dirty")
    return f"{device}{facts['machine']}; torch {facts['torch']}; commit {commit[:12]}{dirty}; `{facts['command']}`."


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well as plain text; the first column flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([cells[0].ljust(len(first)), *others]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def label(timing: Timing) -> str:
    """The contender in words, with its dropout."""
    rates = [f"{name}={rate:g}" for name, rate in (("p", timing.p), ("p_g", timing.p_g)) if rate]
    name = f"{timing.contender} ({timing.backend})" if timing.backend else timing.contender
    return name if timing.dropout == "none" else f"{name}, {' '.join([timing.dropout, *rates])}"


def case_table(timings: Sequence[Timing]) -> str:
    """All timings of one size: median, quartiles, how many times as fast as nn.LSTM, how far from the floor."""
    names = list(dict.fromkeys(map(label, timings)))
    phases = list(dict.fromkeys(timing.phase for timing in timings))
    header = ["milliseconds", *(text for p in phases for text in (p, "quartiles", "x nn.LSTM", "/ GEMMs"))]
    rows = [[name] for name in names]
    for phase in phases:
        medians = {label(timing): timing.median_ms for timing in timings if timing.phase == phase}
        floor = min(timing.median_ms for timing in timings if timing.phase == phase and timing.contender == GEMMS)
        quartiles = {label(t): f"{figure(t.q1_ms)}-{figure(t.q3_ms)}" for t in timings if t.phase == phase}
        for name, row in zip(names, rows, strict=True):
            ms = medians[name]
            row += [figure(ms), quartiles[name], f"{medians[NN_LSTM] / ms:.2f}", f"{ms / floor:.2f}"]
    return markdown(header, rows)


def grid_table(timings: Sequence[Timing]) -> str:
    """One phase at every size: a row for each contender, a column for each size, dtype and number of threads."""
    sizes = {f"T={t.T} B={t.B} I={t.I} H={t.H}" for t in timings}
    several = {field: len({getattr(t, field) for t in timings}) > 1 for field in ("dtype", "threads")}

    def column(t: Timing) -> str:
        parts = [f"T={t.T} B={t.B} I={t.I} H={t.H}"] if len(sizes) > 1 or not any(several.values()) else []
        parts += [t.dtype] if several["dtype"] else []
        parts += [f"{t.threads} thread{'s' * (t.threads > 1)}"] if several["threads"] else []
        return ", ".join(parts)

    medians = {(label(t), column(t)): t.median_ms for t in timings}
    columns = list(dict.fromkeys(map(column, timings)))

    def cell(name: str, column: str) -> str:
        ms = medians.get((name, column))
        return "" if ms is None else f"{figure(ms)} ({medians[NN_LSTM, column] / ms:.2f})"

    names = dict.fromkeys(map(label, timings))
    return markdown(["", *columns], [[name, *(cell(name, column) for column in columns)] for name in names])


def figure(ms: float) -> str:
    """Three digits that count."""
    return f"{ms:.3g}" if ms < 100 else f"{ms:.0f}"


def comparison_table(path: Path) -> str:
    """The table that `rnndrop compare` printed."""
    from rnndrop_cuda.seminar import report  # here: its libraries come with the demo extra only

    results = json.loads(path.read_text(encoding="utf-8"))
    header = [column.replace("\n", " ").strip() for column in report.COLUMNS]
    table = markdown(header, [row.cells() for row in report.rows(results)])
    return f"{table}\n\n{provenance(results['facts'])}"


if __name__ == "__main__":
    sys.exit(main())
