"""Fills the tables of README.md and docs/ from the committed results: `python -m bench.tables [--check] [FILE.md...]`.

Everything between `<!-- table:NAME -->` and `<!-- /table:NAME -->` is replaced. NAME is

    STEM PHASE         from bench/results/STEM.csv, written by bench.lstm; PHASE is "inference", "forward" or
                       "forward+backward"
    STEM PHASE SIZE    only one size, such as "T=32 B=128 I=300 H=128": a column for each dtype and number of threads
    STEM lengths       from the same file: the sequences with lengths, a column for each phase
    STEM bars          from the same file, and on the CPU from memory.csv if it is there: see bench.bars
    STEM peaks         from bench/results/STEM.csv, written by bench.memory
    STEM sweep         from bench/results/STEM.csv, written by bench.sweep
    STEM float16       from bench/results/STEM.csv, written by bench.float16
    STEM steps         from bench/results/STEM.csv, written by bench.steps
    STEM keras         from bench/results/STEM.csv, written by bench.keras_layers
    STEM               from bench/results/STEM.json, a results.json written by `rnndrop compare`
    STEM perplexities  from bench/results/STEM.json, a study.json written by `rnndrop study language-model`
    STEM text          from bench/results/STEM.json, text that `rnndrop language-model generate --json` wrote
    STEM beside        from bench/results/STEM.json, written by bench.language_model
    STEM study         from bench/results/STEM.json, a study.json written by `rnndrop study`

A marker right after a backtick is a quotation, as those above, and left alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.language_model_tables import beside_table, perplexities_table, text_table
from bench.markdown import grid_table, peaks_table, provenance, sizes, sizes_table, targets_table, threads
from bench.records import (
    FORWARD,
    FORWARD_BACKWARD,
    FULL,
    INFERENCE,
    KERAS,
    LENGTHS,
    MASKS,
    ONNX_RUNTIME,
    PACKED,
    PADDED,
    RESULTS,
    Peak,
    SweepTiming,
    read,
)
from bench.seminar_tables import comparison_table, study_table
from bench.sweep_report import float16_table, ratios, statistics_table
from bench.targets import peaks_beside, targets_of

ROOT = Path(__file__).parents[1]
RAGGED = (PACKED, LENGTHS, PADDED)
MARKER = re.compile(r"(?<!`)<!-- /?table:.*")
MARKED = re.compile(
    r"(?P<open>(?<!`)<!-- table:(?P<name>[^\n]*?) -->\n).*?(?P<close><!-- /table:(?P=name) -->)", re.DOTALL
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 if --check finds a table out of date; 2 if a table cannot be made, and then no file is changed."""
    parser = argparse.ArgumentParser(
        prog="bench.tables", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE.md", help="(default: README.md and all Markdown files below docs/)"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; say which tables are out of date")
    args = parser.parse_args(argv)
    stale: dict[Path, str] = {}
    for file in args.files or pages(ROOT):
        try:
            text = file.read_text(encoding="utf-8")
            filled = fill(text, RESULTS)
        except (OSError, ValueError) as error:
            print(f"bench.tables: {file}: {error}", file=sys.stderr)
            return 2
        if filled != text:
            stale[file] = filled
            names = ", ".join(changed(text, filled))
            if args.check:
                print(f"{file} is out of date ({names}): run `python -m bench.tables`", file=sys.stderr)
    if args.check:
        return int(bool(stale))
    for file, filled in stale.items():
        file.write_text(filled, encoding="utf-8")
    return 0


def pages(root: Path) -> list[Path]:
    """Every Markdown file whose tables are made here; what the site's builder leaves in docs/_build is not one."""
    docs = root / "docs"
    return [root / "README.md", *sorted(f for f in docs.rglob("*.md") if f.relative_to(docs).parts[0] != "_build")]


def fill(text: str, results: Path) -> str:
    """The text with every marked table made anew. Raises ValueError for a marker without a partner or a table."""
    filled = MARKED.sub(lambda match: f"{match['open']}{table(match['name'], results)}\n{match['close']}", text)
    for marker in MARKER.findall(MARKED.sub("", text)):
        raise ValueError(f"{marker!r} has no partner")
    return filled


def changed(text: str, filled: str) -> list[str]:
    """The names of the tables that differ."""
    pairs = zip(MARKED.finditer(text), MARKED.finditer(filled), strict=True)
    return [before["name"] for before, after in pairs if before[0] != after[0]]


def table(name: str, results: Path) -> str:
    """The table of that name and one line of facts."""
    stem, _, what = name.partition(" ")
    if what in OF_JSON:
        return OF_JSON[what](results / f"{stem}.json")
    if what in OF_CSV:
        return OF_CSV[what](results / f"{stem}.csv")
    phase, _, size = what.partition(" ")
    if phase not in OF_PHASES:
        names = ", ".join(map(repr, (*OF_PHASES, *OF_CSV, *filter(None, OF_JSON))))
        raise ValueError(f"table:{name}: expected one of {names} after the file, or nothing, got {phase!r}")
    return milliseconds(results / f"{stem}.csv", phase, size)


def bars(file: Path) -> str:
    facts, timings = read(file)
    return f"{targets_table(targets_of(facts, timings, peaks_beside(file)))}\n\n{provenance(facts)}"


def peaks(file: Path) -> str:
    facts, measured = read(file, Peak)
    return (
        f"{peaks_table(measured)}\n\nMB above the level before, median of {measured[0].repeats} processes; in "
        f"brackets, how many times nn.LSTM's. {threads(measured)}; {provenance(facts)}"
    )


def swept(file: Path, shown: Callable[[list[SweepTiming]], str]) -> str:
    facts, timings = read(file, SweepTiming)
    return f"{shown(timings)}\n\n{facts['shapes']}. {provenance(facts)}"


def steps(file: Path) -> str:
    facts, timings = read(file)
    return (
        f"{sizes_table(timings)}\n\nMilliseconds for inference, median of {timings[0].repeats} in turn; in brackets, "
        f"how many times as fast as nn.LSTM. ONNX Runtime: {facts[ONNX_RUNTIME]}. {provenance(facts)}"
    )


def keras_layers(file: Path) -> str:
    facts, timings = read(file)
    return (
        f"{sizes_table(timings)}\n\nMilliseconds for a training step, forward and backward, median of "
        f"{timings[0].repeats} in turn; in brackets, how many times as fast as nn.LSTM without dropout. "
        f"{threads(timings)}; Keras {facts[KERAS]}; {provenance(facts)}"
    )


def milliseconds(file: Path, phase: str, size: str) -> str:
    """Of one phase with full sequences, or of all phases with "lengths". Raises ValueError if none were timed."""
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
        timings = [timing for timing in timings if str(timing.size) == size]
        text += f" at {size}"
    if not timings:
        raise ValueError(f"{file} has no timings of {f'{phase} {size}'.strip()}")
    column = (lambda t: t.phase) if phase == "lengths" else None
    repeats = sorted({timing.repeats for timing in timings}, reverse=True)
    loops = f" (Python's loops: {', '.join(map(str, repeats[1:]))})" if len(repeats) > 1 else ""
    return (
        f"{grid_table(timings, column)}\n\n{text}, median of {repeats[0]} in turn{loops}; in brackets, how many times "
        f"as fast as {against} without dropout. {threads(timings)}; {provenance(facts)}"
    )


OF_JSON: dict[str, Callable[[Path], str]] = {
    "": comparison_table,
    "perplexities": perplexities_table,
    "text": text_table,
    "beside": beside_table,
    "study": study_table,
}
OF_CSV: dict[str, Callable[[Path], str]] = {
    "bars": bars,
    "peaks": peaks,
    "sweep": lambda file: swept(file, lambda timings: statistics_table(ratios(timings))),
    "float16": lambda file: swept(file, float16_table),
    "steps": steps,
    "keras": keras_layers,
}
OF_PHASES = (INFERENCE, FORWARD, FORWARD_BACKWARD, "lengths")


if __name__ == "__main__":
    sys.exit(main())
