"""Timings, peaks and targets as Markdown tables, and the line below them that says where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.records import FULL, GEMMS, NN_LSTM, Peak, Run, Timing
from bench.targets import Target


def threads(runs: Sequence[Run]) -> str:
    return f"CPU threads: {', '.join(map(str, sorted({run.threads for run in runs})))}"


def provenance(facts: Mapping[str, str]) -> str:
    device = "" if facts["device"] == "cpu" else f"{facts['device']}; "
    commit, dirty, _ = facts["commit"].partition("-dirty")
    done, _, all_of_them = facts.get("measured", "").partition(" of ")
    cut_short = f"; cut short after {facts['measured']}" if all_of_them and done != all_of_them.split()[0] else ""
    return (
        f"{device}{facts['machine']}; torch {facts['torch']}; commit {commit[:12]}{dirty}; `{facts['command']}`"
        f"{cut_short}."
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well as plain text; the first column flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([cells[0].ljust(len(first)), *others]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def label(run: Run) -> str:
    """The contender in words, with its dropout."""
    rates = [f"{name}={rate:g}" for name, rate in (("p", run.p), ("p_g", run.p_g)) if rate]
    name = f"{run.contender} ({run.backend})" if run.backend else run.contender
    name = name if run.sequences == FULL else f"{name} {run.sequences}"
    return name if run.dropout == "none" else f"{name}, {' '.join([run.dropout, *rates])}"


def sizes(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(str(run.size) for run in runs))


def case_table(timings: Sequence[Timing]) -> str:
    """All timings of one case: median, quartiles, speed relative to nn.LSTM, time relative to the floor.

    If there are several of nn.LSTM, the first is the one to compare with.
    """
    names = list(dict.fromkeys(map(label, timings)))
    header, rows = ["milliseconds"], [[name] for name in names]
    for phase in dict.fromkeys(timing.phase for timing in timings):
        of_phase = [timing for timing in timings if timing.phase == phase]
        baseline = next((timing.median_ms for timing in of_phase if timing.contender == NN_LSTM), None)
        floor = min((timing.median_ms for timing in of_phase if timing.contender == GEMMS), default=None)
        header += [phase, "quartiles", *(["x nn.LSTM"] if baseline else []), *(["/ GEMMs"] if floor else [])]
        cells = {
            label(t): [
                figure(t.median_ms),
                f"{figure(t.q1_ms)}-{figure(t.q3_ms)}",
                *([f"{baseline / t.median_ms:.2f}"] if baseline else []),
                *([f"{t.median_ms / floor:.2f}"] if floor else []),
            ]
            for t in of_phase
        }
        for name, row in zip(names, rows, strict=True):
            row += cells.get(name, [""] * (len(header) - len(row)))
    return markdown(header, rows)


def column_of(runs: Sequence[Run]) -> Callable[[Run], str]:
    """What tells the runs apart besides the contender: the size, and dtype and threads if there are several."""
    several = {field: len({getattr(run, field) for run in runs}) > 1 for field in ("dtype", "threads")}
    with_size = len(sizes(runs)) > 1 or not any(several.values())

    def column(run: Run) -> str:
        parts = [str(run.size)] if with_size else []
        parts += [run.dtype] if several["dtype"] else []
        parts += [f"{run.threads} thread{'s' * (run.threads > 1)}"] if several["threads"] else []
        return ", ".join(parts)

    return column


def grid_table(timings: Sequence[Timing], column: Callable[[Timing], str] | None = None) -> str:
    """A row for each contender; by default one phase, with a column for each size, dtype and number of threads."""
    column = column or column_of(timings)
    cells: dict[str, dict[str, str]] = {label(timing): {} for timing in timings}
    baselines: dict[str, float] = {}
    for t in timings:
        if t.contender == NN_LSTM:
            baselines.setdefault(column(t), t.median_ms)
    for t in timings:
        cells[label(t)][column(t)] = f"{figure(t.median_ms)} ({baselines[column(t)] / t.median_ms:.2f})"
    return by_contender(cells)


def sizes_table(timings: Sequence[Timing]) -> str:
    """One phase: a row for each size and number of threads, a column for each contender."""
    column = column_of(timings)
    contenders = list(dict.fromkeys(map(label, timings)))
    cells: dict[str, dict[str, str]] = {}
    baselines = {column(t): t.median_ms for t in timings if t.contender == NN_LSTM}
    for t in timings:
        ratio = baselines[column(t)] / t.median_ms
        cells.setdefault(column(t), {})[label(t)] = f"{figure(t.median_ms)} ({ratio:.2f})"
    return markdown(["", *contenders], [[row, *(of.get(name, "") for name in contenders)] for row, of in cells.items()])


def peaks_table(peaks: Sequence[Peak]) -> str:
    """A row for each contender, a column for each size."""
    column = column_of(peaks)
    baselines = {column(peak): peak.median_bytes for peak in peaks if peak.contender == NN_LSTM}
    cells: dict[str, dict[str, str]] = {label(peak): {} for peak in peaks}
    for peak in peaks:
        ratio = peak.median_bytes / baselines[column(peak)]
        cells[label(peak)][column(peak)] = f"{figure(peak.median_bytes / 1e6)} ({ratio:.2f})"
    return by_contender(cells)


def by_contender(cells: dict[str, dict[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    return markdown(
        ["", *columns], [[name, *(row.get(column, "") for column in columns)] for name, row in cells.items()]
    )


def targets_table(targets: Sequence[Target]) -> str:
    rows = [
        [target.case, target.what, target.required, target.shown, "met" if target.met else "MISSED"]
        for target in targets
    ]
    return markdown(["case", "ratio", "target", "measured", ""], rows)


def figure(ms: float) -> str:
    """Three significant digits, or all of a whole number above 100."""
    return f"{ms:.3g}" if ms < 100 else f"{ms:.0f}"
