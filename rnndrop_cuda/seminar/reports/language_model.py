"""What the study of language models says: a table, a plot, and plain sentences, every one computed from the figures.

A difference counts where it is larger than twice its standard error over the seeds.
"""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.language_model.study import NONE, OUTSIDE, QUESTION, USUAL, WORDS, Chosen, TextRun
from rnndrop_cuda.seminar.reports.terminal import print_report

COLUMNS = ("dropout", "p", "validation", "test", "train", "s/epoch", "seeds")
BELOW_NONE, BELOW_USUAL = 0.10, 0.03
"""How far below these the best dropout inside the recurrence is expected to be."""


@dataclass(frozen=True)
class Results:
    """kinds: NONE and USUAL first."""

    facts: dict[str, Any]
    kinds: dict[str, Chosen]

    def perplexities(self, kind: str, part: str) -> list[float]:
        """One a seed; part: "train", "validation" or "test"."""
        return [getattr(run, part) for run in self.kinds[kind].runs]

    @property
    def best_inside(self) -> str | None:
        """Of the kinds inside the recurrence with the most seeds, that of the lowest mean validation perplexity."""
        inside = {kind: len(chosen.runs) for kind, chosen in self.kinds.items() if kind not in OUTSIDE}
        most = [kind for kind, seeds in inside.items() if seeds == max(inside.values())]
        return min(most, key=lambda kind: statistics.fmean(self.perplexities(kind, "validation")), default=None)

    def seconds(self, kind: str) -> float:
        """Of training for an epoch, the median."""
        return statistics.median(row["training_seconds"] for run in self.kinds[kind].runs for row in run.epochs)

    def cells(self, kind: str) -> list[str]:
        chosen = self.kinds[kind]
        parts = [_shown(self.perplexities(kind, part)) for part in ("validation", "test", "train")]
        p = f"{chosen.p:g}" if chosen.p else ""
        return [kind, p, *parts, f"{self.seconds(kind):.1f}", str(len(chosen.runs))]


def findings(results: Results) -> list[str]:
    """In plain sentences."""
    none, usual = (statistics.fmean(results.perplexities(kind, "test")) for kind in (NONE, USUAL))
    first = results.kinds[NONE].runs[0]
    sentences = [
        f"{first.data['train tokens']:,} tokens to train on, {first.data['ids']:,} ids; every figure is of the epoch "
        "with the lowest validation perplexity, and the probability was chosen on the validation text with seed 0.",
        f"Without dropout nn.LSTM's test perplexity is {none:.1f}; with the usual dropout on inputs and outputs, "
        f"{results.kinds[USUAL].p:g}, it is {usual:.1f}, {_percent(none, usual)}.",
    ]
    best = results.best_inside
    if best is None:
        return sentences
    chosen, of_best = results.kinds[best], statistics.fmean(results.perplexities(best, "test"))
    seeds = {kind: len(of.runs) for kind, of in results.kinds.items() if kind not in OUTSIDE}
    if min(seeds.values()) < len(chosen.runs):
        sentences.append("The kinds with fewer seeds were behind on the validation text with the first of them.")
    sentences += [
        f"The lowest validation perplexity inside the recurrence has {best}, {chosen.p:g}: test perplexity "
        f"{of_best:.1f}, {_percent(none, of_best)} against none and {_percent(usual, of_best)} against the usual one.",
        f"With it an epoch takes {results.seconds(best):.1f} s, where nn.LSTM without dropout takes "
        f"{results.seconds(NONE):.1f} s.",
    ]
    if len(chosen.runs) < 2:
        return [*sentences, "Whether that is more than chance, one seed cannot tell."]
    ours = results.perplexities(best, "test")
    for against, bar in ((NONE, BELOW_NONE), (USUAL, BELOW_USUAL)):
        theirs = results.perplexities(against, "test")
        difference, told, sure = _difference(ours, theirs)
        met = "reached" if -difference >= bar * statistics.fmean(theirs) and sure else "not reached"
        sentences.append(f"Expected: at least {bar:.0%} below {against}. Found: {told}: {met}.")
    if WORDS in results.kinds:
        theirs = results.perplexities(WORDS, "test")
        _, told, _ = _difference(ours, theirs)
        percent = _percent(statistics.fmean(theirs), of_best)
        sentences.append(f"Of that, the dropout inside the recurrence has {percent}, all else the same: {told}.")
    return sentences


def _difference(ours: list[float], theirs: list[float]) -> tuple[float, str, bool]:
    """Of the means; the same in words; and whether it is larger than twice its standard error."""
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    error = math.hypot(_error(ours), _error(theirs))
    sure = abs(difference) > 2 * error
    words = f"{difference:+.1f} (standard error {error:.1f}, so {'beyond' if sure else 'within'} two of them)"
    return difference, words, sure


def print_results(results: Results) -> None:
    rows = [results.cells(kind) for kind in results.kinds]
    print_report(f"Study: language-model. {QUESTION}", COLUMNS, rows, findings(results))


def read(file: Path) -> Results:
    """From a study.json that `write` made."""
    found = json.loads(file.read_text(encoding="utf-8"))
    kinds = {
        kind: Chosen(of["tried"], of["p"], [TextRun(**run) for run in of["runs"]])
        for kind, of in found["kinds"].items()
    }
    return Results(found["facts"], kinds)


def write(results: Results, out: Path) -> list[Path]:
    """Writes out/study.json and out/study.png, and returns their paths."""
    contents = {
        "study": "language-model",
        "question": QUESTION,
        "facts": results.facts,
        "findings": findings(results),
        "kinds": {kind: _as_json(chosen) for kind, chosen in results.kinds.items()},
    }
    files = {
        out / "study.json": (json.dumps(contents, indent=1) + "\n").encode(),
        out / "study.png": plot(results),
    }
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


def plot(results: Results) -> bytes:
    """A PNG: each kind's perplexity on the test text, mean and deviation over the seeds, and on the training text."""
    figure = Figure(figsize=(9, 0.45 * len(results.kinds) + 1.5), layout="constrained")
    axes = figure.subplots()
    for i, kind in enumerate(results.kinds):
        for part, filled in (("train", "none"), ("test", "C0")):
            values = results.perplexities(kind, part)
            error = None if len(values) == 1 else [statistics.stdev(values)]
            axes.errorbar(
                [statistics.fmean(values)], [i], xerr=error, marker="o", color="C0", markerfacecolor=filled, capsize=2
            )
    axes.set_yticks(
        range(len(results.kinds)), [f"{kind} {c.p:g}" if c.p else kind for kind, c in results.kinds.items()]
    )
    axes.invert_yaxis()
    axes.set(xlabel="perplexity: test (filled) and training text (hollow), dropout off")
    axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _as_json(chosen: Chosen) -> Mapping[str, Any]:
    return {"tried": chosen.tried, "p": chosen.p, "runs": [run._asdict() for run in chosen.runs]}


def _shown(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def _percent(before: float, now: float) -> str:
    return f"{100 * (now / before - 1):+.1f} %"
