"""What a study's runs say: mean and deviation over the seeds, in a table, a plot, one HTML file, and in plain words.

Every sentence is computed from the figures. A difference counts where it is larger than twice its standard error.
"test" in names is what was scored on: the test reviews, or those held out for validation.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.reports.html import COLOURS, as_bytes, document, html_table
from rnndrop_cuda.seminar.reports.results import reviews_scored
from rnndrop_cuda.seminar.reports.terminal import print_report
from rnndrop_cuda.seminar.training.experiment import StudyRun

COLUMNS = ("variant", "test acc.\nlast", "\nbest", "train acc.\nlast", "gap", "s/epoch", "seeds")
MARKERS = "osD^v<>Pp*X"
MEANINGFUL = 0.6
"""The accuracy that some variant must reach for the differences to be worth a word: that of a coin is 0.5."""


class Estimate(NamedTuple):
    """Over seeds; deviation is that of one seed, NaN of a single one."""

    mean: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / math.sqrt(self.n)

    def __str__(self) -> str:
        deviation = "" if math.isnan(self.deviation) else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{deviation}"


@dataclass(frozen=True)
class Results:
    """runs: of each variant, one a seed. against: as a Study's."""

    study: str
    question: str
    facts: dict[str, Any]
    bars: tuple[str, ...]
    runs: dict[str, list[StudyRun]]
    against: dict[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        return next(iter(self.runs))

    def base_of(self, variant: str) -> str:
        """The variant that it is compared with."""
        return self.against.get(variant, self.baseline)

    @property
    def title(self) -> str:
        return f"Study: {self.study}"

    @property
    def scored(self) -> tuple[int, str]:
        """How many reviews each run was scored on, and what they are called: test or validation."""
        run = self.runs[self.baseline][0]
        return reviews_scored(run.experiment, run.data)

    @property
    def columns(self) -> list[str]:
        """COLUMNS, named after what was scored on."""
        return [column.replace("test", self.scored[1]) for column in COLUMNS]

    def estimate(self, variant: str, what: str) -> Estimate:
        """what: an attribute of StudyRun."""
        return Estimate.of([getattr(run, what) for run in self.runs[variant]])

    def cells(self, variant: str) -> list[str]:
        def shown(what: str) -> str:
            return str(self.estimate(variant, what))

        accuracies = [shown(what) for what in ("test_accuracy", "best_test_accuracy", "train_accuracy", "gap")]
        seconds = statistics.fmean(run.seconds for run in self.runs[variant])
        return [variant, *accuracies, f"{seconds:.1f}", str(len(self.runs[variant]))]


def findings(results: Results) -> list[str]:
    """What the figures say, in plain sentences."""
    base, (_, part) = results.baseline, results.scored
    last = results.estimate(base, "test_accuracy")
    gap = results.estimate(base, "gap")
    reached = max(results.estimate(variant, "best_test_accuracy").mean for variant in results.runs)
    if reached < MEANINGFUL:
        return [
            f"No variant gets beyond {100 * reached:.1f} % on the {part} reviews, where a coin gets 50 %: these runs "
            "are too small to mean anything. They show that the study works."
        ]
    sentences = [
        f"{_quoted(base)} ends at {last} % on the {part} reviews (mean and standard deviation over {_seeds(last.n)}), "
        f"{100 * gap.mean:.1f} points below its accuracy on the training reviews."
    ]
    others = [variant for variant in results.runs if variant != base]
    for variant in others:
        beside = "" if results.base_of(variant) == base else f" against {_quoted(results.base_of(variant))}"
        sentences.append(
            f"{_quoted(variant)}{beside}: "
            f"{_compared(results, variant, 'best_test_accuracy', f'best {part} accuracy')}, "
            f"{_compared(results, variant, 'test_accuracy', f'final {part} accuracy')}, "
            f"{_compared(results, variant, 'gap', 'gap to the training reviews')}."
        )
    if last.n > 1:
        for compared_with in dict.fromkeys(results.base_of(variant) for variant in others):
            compared = [variant for variant in others if results.base_of(variant) == compared_with]
            verdict = _verdict(results, compared_with, compared)
            sentences.append(f"In short, by the best {part} accuracy: {verdict}.")
    return sentences + [promise(results, variant) for variant in results.bars if variant in results.runs]


def _verdict(results: Results, base: str, others: Sequence[str]) -> str:
    """Which of the others are better than their base, and which are worse."""
    better = [v for v in others if _clear(results, v, "best_test_accuracy") > 0]
    worse = [v for v in others if _clear(results, v, "best_test_accuracy") < 0]
    verdict = f"none is clearly better than {_quoted(base)}; "
    if better:
        verdict = f"better than {_quoted(base)}: {', '.join(map(_quoted, better))}; "
    return verdict + (f"worse: {', '.join(map(_quoted, worse))}" if worse else "none is clearly worse")


def _quoted(variant: str) -> str:
    """In a sentence: a name with a comma would fall apart."""
    return f'"{variant}"' if "," in variant else variant


def promise(results: Results, variant: str) -> str:
    """Whether dropout halves the gap and raises the best accuracy by a standard error, as the seminar expects of it."""
    base, (_, part) = results.baseline, results.scored
    gap, base_gap = results.estimate(variant, "gap").mean, results.estimate(base, "gap").mean
    best, base_best = results.estimate(variant, "best_test_accuracy"), results.estimate(base, "best_test_accuracy")
    halved = "below half, as expected" if gap < base_gap / 2 else "not below half"
    text = (
        f"Expected of {_quoted(variant)}: less than half the gap of {_quoted(base)}, and a better {part} accuracy. "
        f"Final gap {100 * gap:.1f} points against {100 * base_gap:.1f}: {halved}. "
    )
    if base_best.n < 2:
        return text + "Whether the accuracy is better, one seed cannot tell."
    needed = base_best.mean + base_best.error
    raised = "reached, as expected" if best.mean >= needed else "not reached"
    return text + (
        f"Best {part} accuracy {100 * best.mean:.2f} % against {100 * needed:.2f} %, {base}'s plus one standard error: "
        f"{raised} ({_seeds(base_best.n)})."
    )


def _difference(results: Results, variant: str, what: str) -> tuple[float, float]:
    """From what it is compared with, and its standard error, NaN of a single seed."""
    ours, theirs = results.estimate(variant, what), results.estimate(results.base_of(variant), what)
    return ours.mean - theirs.mean, math.hypot(ours.error, theirs.error)


def _clear(results: Results, variant: str, what: str) -> int:
    """1 or -1 where a difference is beyond the noise, else 0."""
    difference, error = _difference(results, variant, what)
    return int(math.copysign(1, difference)) if abs(difference) > 2 * error else 0


def _compared(results: Results, variant: str, what: str, name: str) -> str:
    difference, error = _difference(results, variant, what)
    points = f"{100 * difference:+.1f} points"
    if math.isnan(error):
        return f"{name} {points} (one seed, so it may be chance)"
    clear = "" if _clear(results, variant, what) else ", within the noise"
    return f"{name} {points} (standard error {100 * error:.1f}{clear})"


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n > 1)}"


def print_results(results: Results) -> None:
    title = f"{results.title}. {results.question}"
    print_report(title, results.columns, map(results.cells, results.runs), findings(results))


def read(file: Path) -> Results:
    """From a study.json that `write` made."""
    found = json.loads(file.read_text(encoding="utf-8"))
    runs = {variant: [StudyRun(**run) for run in of_seeds] for variant, of_seeds in found["runs"].items()}
    return Results(
        found["study"], found["question"], found["facts"], tuple(found["bars"]), runs, found.get("against", {})
    )


def write(results: Results, out: Path) -> list[Path]:
    """Writes out/study.json, study.png and study.html, and returns their paths."""
    png = plot(results)
    contents = {
        "study": results.study,
        "question": results.question,
        "facts": results.facts,
        "bars": results.bars,
        "against": results.against,
        "findings": findings(results),
        "runs": {variant: [run._asdict() for run in runs] for variant, runs in results.runs.items()},
    }
    files = {
        out / "study.json": (json.dumps(contents, indent=1) + "\n").encode(),
        out / "study.png": png,
        out / "study.html": as_bytes(page(results, png)),
    }
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


def plot(results: Results) -> bytes:
    """A PNG: test accuracy by epoch, mean and deviation over the seeds; and final train and test side by side.

    Where the variants differ in the number of words that they read, accuracy against that is drawn as well.
    """
    _, part = results.scored
    lengths = {variant: _fixed_length(runs[0].experiment) for variant, runs in results.runs.items()}
    against_length = len({*lengths.values()} - {None}) > 1
    figure = Figure(figsize=(16 if against_length else 12, 5), layout="constrained")
    by_epoch, at_end, *by_length = figure.subplots(1, 2 + against_length, width_ratios=(3, 2, 2)[: 2 + against_length])
    for axes in by_length:
        _plot_by_length(axes, results, lengths)
    for i, (variant, runs) in enumerate(results.runs.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        epochs = range(1, 1 + len(runs[0].epochs))
        estimates = [Estimate.of([run.test_accuracies[k - 1] for run in runs]) for k in epochs]
        shift = 0.25 * (i / max(len(results.runs) - 1, 1) - 0.5)
        by_epoch.errorbar(
            [epoch + shift for epoch in epochs],
            [estimate.mean for estimate in estimates],
            yerr=None if len(runs) == 1 else [estimate.deviation for estimate in estimates],
            label=variant, linestyle=("-", "--", "-.", ":")[i % 4], capsize=2, **style,
        )  # fmt: skip
        for what, filled in (("train_accuracy", "none"), ("test_accuracy", style["color"])):
            estimate = results.estimate(variant, what)
            at_end.errorbar(
                [estimate.mean], [i], xerr=None if estimate.n == 1 else [estimate.deviation],
                markerfacecolor=filled, capsize=2, **style,
            )  # fmt: skip
    by_epoch.set(xlabel="epoch", ylabel=f"{part} accuracy", title=f"{part} accuracy, mean and deviation over the seeds")
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_epoch.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=3, fontsize="small")  # below: it covers no line
    at_end.set(xlabel="final accuracy", title=f"{part} (filled) and training, dropout off (hollow)")
    at_end.set_yticks(range(len(results.runs)), list(results.runs))
    at_end.invert_yaxis()
    for axes in (by_epoch, at_end, *by_length):
        axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _fixed_length(experiment: Mapping[str, Any]) -> int | None:
    """Words read of each review; None where each is read to its own end."""
    return None if experiment.get("variable_length") else experiment.get("maxlen")


def _plot_by_length(axes: Axes, results: Results, lengths: Mapping[str, int | None]) -> None:
    """Test accuracy against the words read; a variant without a fixed length as a horizontal line."""
    _, part = results.scored
    fixed = {variant: length for variant, length in lengths.items() if length is not None}
    whats = {"best_test_accuracy": "best epoch", "test_accuracy": "last epoch"}
    for (what, name), colour, line, marker in zip(whats.items(), COLOURS, ("--", "-"), MARKERS, strict=False):
        means = {variant: results.estimate(variant, what) for variant in lengths}
        axes.errorbar(
            [*fixed.values()], [means[variant].mean for variant in fixed],
            yerr=None if math.isnan(means[results.baseline].deviation) else [means[v].deviation for v in fixed],
            label=name, color=colour, linestyle=line, marker=marker, capsize=2,
        )  # fmt: skip
        for variant in lengths.keys() - fixed.keys():
            axes.axhline(means[variant].mean, label=f"{variant}: {name}", color=colour, linestyle=(0, (1, 3)))
    axes.set(xlabel="words of a review (maxlen)", ylabel=f"{part} accuracy", title=f"{part} accuracy against length")
    axes.set_xticks([*fixed.values()])
    axes.legend()


def page(results: Results, png: bytes) -> str:
    """The report as one HTML file that loads nothing; every text in it is escaped."""
    says = "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in findings(results))
    settings = {**results.runs[results.baseline][0].experiment}
    del settings["seed"]
    data = results.runs[results.baseline][0].data
    tests, part = results.scored
    p = results.estimate(results.baseline, "test_accuracy").mean
    moved = 100 * math.sqrt(p * (1 - p) / tests)
    return document(
        html.escape(results.title),
        f"""<p><strong>{html.escape(results.question)}</strong></p>
{says}
<div class="scroll">{html_table([results.cells(variant) for variant in results.runs], results.columns)}</div>
<p>Accuracies in percent, mean ± standard deviation over the seeds. best: of the best epoch, chosen on the {part}
reviews. train: of the trained model on its training reviews, dropout off; gap: that minus the last {part} accuracy, in
points. All seeds share the same {tests} {part} reviews: with others every accuracy would vary by some {moved:.1f}
points more.</p>
<div class="scroll"><img src="data:image/png;base64,{base64.b64encode(png).decode()}"
alt="Accuracy on {part} reviews by epoch, and final accuracy on training and {part} reviews, for each variant"></div>
""",
        {f"Settings of {results.baseline}": settings, "Data": data, "Machine and versions": results.facts},
    )
