"""The README's tables, made from the committed results: `python -m bench.tables [--check] [README.md]`.

Between `<!-- table:NAME -->` and `<!-- /table:NAME -->` everything is replaced. NAME is

    STEM PHASE         from bench/results/STEM.csv, written by bench.lstm; PHASE is "inference", "forward" or
                       "forward+backward"
    STEM PHASE SIZE    of one size only, as "T=32 B=128 I=300 H=128": a column for each dtype and number of threads
    STEM lengths       from the same file: the sequences with lengths, a column for each phase
    STEM bars          from the same file, and on the CPU from memory.csv where that is: bench.bars
    STEM peaks         from bench/results/STEM.csv, written by bench.memory
    STEM               from bench/results/STEM.json, a results.json written by `rnndrop compare`
    STEM study         from bench/results/STEM.json, a study.json written by `rnndrop study`
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.bars import Bar, bars_of
from bench.records import (
    FORWARD,
    FORWARD_BACKWARD,
    FULL,
    GEMMS,
    INFERENCE,
    LENGTHS,
    MASKS,
    NN_LSTM,
    PACKED,
    PADDED,
    Peak,
    Run,
    Timing,
    read,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
RAGGED = (PACKED, LENGTHS, PADDED)
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
    stem, _, what = name.partition(" ")
    file = results / f"{stem}.csv"
    if not what:
        return comparison_table(results / f"{stem}.json")
    if what == "study":
        return study_table(results / f"{stem}.json")
    if what == "bars":
        facts, timings = read(file)
        return f"{bars_table(bars_of(facts, timings, peaks_beside(file)))}\n\n{provenance(facts)}"
    if what == "peaks":
        facts, peaks = read(file, Peak)
        return (
            f"{peaks_table(peaks)}\n\nMB above the level before, median of {peaks[0].repeats} processes; in brackets, "
            f"how many times nn.LSTM's. {threads(peaks)}; {provenance(facts)}"
        )
    phase, _, size = what.partition(" ")
    if phase not in (INFERENCE, FORWARD, FORWARD_BACKWARD, "lengths"):
        raise ValueError(
            f"table:{name}: expected 'inference', 'forward', 'forward+backward', 'lengths', 'bars', 'peaks' or 'study' "
            f"after the file, got {phase!r}"
        )
    facts, timings = read(file)
    if phase == "lengths":
        timings = [timing for timing in timings if timing.sequences in RAGGED and timing.phase != MASKS]
        against = "a packed nn.LSTM"
        text = f"Milliseconds at {', '.join(sizes(timings))} with lengths from 1 to T"
    else:
        timings = [timing for timing in timings if timing.sequences == FULL and timing.phase == phase]
        against = "nn.LSTM"
        text = f"Milliseconds for {phase}"
    if size:
        timings = [timing for timing in timings if size_of(timing) == size]
        text += f" at {size}"
    if not timings:
        raise ValueError(f"table:{name}: {stem}.csv has no timings of {what}")
    column = (lambda t: t.phase) if phase == "lengths" else None
    repeats = sorted({timing.repeats for timing in timings}, reverse=True)
    loops = f" (Python's loops: {', '.join(map(str, repeats[1:]))})" if len(repeats) > 1 else ""
    return (
        f"{grid_table(timings, column)}\n\n{text}, median of {repeats[0]} in turn{loops}; in brackets, how many times "
        f"as fast as {against} without dropout. {threads(timings)}; {provenance(facts)}"
    )


def peaks_beside(timings: Path) -> list[Peak]:
    """Of memory.csv in the folder of that file; none where it is not there."""
    file = timings.with_name("memory.csv")
    return read(file, Peak)[1] if file.exists() else []


def threads(runs: Sequence[Run]) -> str:
    return f"CPU threads: {', '.join(map(str, sorted({run.threads for run in runs})))}"


def provenance(facts: dict[str, str]) -> str:
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


def size_of(run: Run) -> str:
    return f"T={run.T} B={run.B} I={run.I} H={run.H}"


def sizes(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(map(size_of, runs)))


def case_table(timings: Sequence[Timing]) -> str:
    """All timings of one case: median, quartiles, how many times as fast as nn.LSTM, how far from the floor.

    Where there are several of nn.LSTM the first is compared with.
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
    """What tells these apart besides the contender: the size, and dtype and threads where there are several."""
    several = {field: len({getattr(run, field) for run in runs}) > 1 for field in ("dtype", "threads")}
    with_size = len(sizes(runs)) > 1 or not any(several.values())

    def column(run: Run) -> str:
        parts = [size_of(run)] if with_size else []
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


def bars_table(bars: Sequence[Bar]) -> str:
    rows = [[bar.case, bar.what, bar.required, bar.shown, "met" if bar.met else "MISSED"] for bar in bars]
    return markdown(["case", "ratio", "required", "measured", ""], rows)


def figure(ms: float) -> str:
    """Three digits that count."""
    return f"{ms:.3g}" if ms < 100 else f"{ms:.0f}"


def comparison_table(path: Path) -> str:
    """The table that `rnndrop compare` printed."""
    from rnndrop_cuda.seminar.reports import compare as report  # here: its libraries come with the demo extra only

    results = json.loads(path.read_text(encoding="utf-8"))
    header = [column.replace("\n", " ").strip() for column in report.COLUMNS]
    table = markdown(header, [row.cells() for row in report.rows(results)])
    return f"{table}\n\n{provenance(results['facts'])}"


def study_table(file: Path) -> str:
    """The study's table, and what it says of all its variants together."""
    from rnndrop_cuda.seminar.reports import study as study_report  # as above

    study = study_report.read(file)
    header = [" ".join(column.split()) for column in study_report.COLUMNS]
    in_short = [sentence for sentence in study_report.findings(study) if sentence.startswith(("In short", "Expected"))]
    return (
        f"{markdown(header, [study.cells(variant) for variant in study.runs])}\n\n"
        + "\n".join(in_short)
        + f"\n\nAccuracies in percent, mean ± deviation over the seeds. {provenance(study.facts)}"
    )


if __name__ == "__main__":
    sys.exit(main())
