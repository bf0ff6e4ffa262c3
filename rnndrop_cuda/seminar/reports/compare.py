"""A comparison's results to read: a table on the terminal, the learning curves, and one HTML file with both.

The sentences of the report are computed from the figures, with the error that so many test reviews leave. "test" in
names is what the layers were scored on: the test reviews, or those held out for validation.
"""

from __future__ import annotations

import base64
import html
import io
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure  # no pyplot: no display, no global state

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.reports.html import as_bytes, document, html_table
from rnndrop_cuda.seminar.reports.results import Results, reviews_scored
from rnndrop_cuda.seminar.reports.terminal import print_report
from rnndrop_cuda.seminar.training.batches import PART_NAMES, TRAIN, scored_on

BASE = "nn.LSTM"
IN_TURN = "steps in turn"
"""The key of what time_in_turn returned; earlier versions' results have none."""
PANELS_ACROSS = 4
COLUMNS = (
    "layer",
    "train\nacc.\nlast",
    "test\nacc.\nlast",
    "best\n(epoch)",
    "train\nloss",
    "test\nloss",
    "s/epoch",
    f"times\n{BASE}",
)


@dataclass(frozen=True)
class Row:
    """One layer's line of the table. Accuracies in [0, 1], losses per example, seconds: median over the epochs.

    train_accuracy and train_loss are of the trained model on the reviews it was trained on, dropout off.
    """

    layer: str
    train_accuracy: float
    test_accuracy: float
    best_test_accuracy: float
    best_epoch: int
    train_loss: float
    test_loss: float
    seconds: float
    ratio: float | None
    """To BASE: of a training step, or of an epoch in results from before the layers were timed in turn."""

    @property
    def gap(self) -> float:
        """How much better the trained model does on the reviews it was trained on: overfitting."""
        return self.train_accuracy - self.test_accuracy

    def cells(self) -> list[str]:
        return [
            self.layer,
            f"{self.train_accuracy:.1%}",
            f"{self.test_accuracy:.1%}",
            f"{self.best_test_accuracy:.1%} ({self.best_epoch})",
            f"{self.train_loss:.3f}",
            f"{self.test_loss:.3f}",
            f"{self.seconds:.2f}",
            "-" if self.ratio is None else f"{self.ratio:.2f}",
        ]


def columns(results: Results) -> list[str]:
    """COLUMNS, named after what the layers were scored on."""
    _, part = reviews_scored(results["settings"], results["data"])
    return [column.replace("test", part) for column in COLUMNS]


def rows(results: Results) -> list[Row]:
    """The table, one row a layer, in the order in which they were trained."""
    seconds = {
        name: statistics.median(epoch["seconds"] for epoch in layer["epochs"])
        for name, layer in results["layers"].items()
    }
    in_turn = results.get(IN_TURN)
    cost = {name: step["median"] for name, step in in_turn.items()} if in_turn else seconds
    part = scored_on(results["settings"])
    table = []
    for name, layer in results["layers"].items():
        epochs = layer["epochs"]
        test = [epoch[f"{part}_accuracy"] for epoch in epochs]
        table.append(
            Row(
                layer=name,
                train_accuracy=layer["train_accuracy"],
                test_accuracy=test[-1],
                best_test_accuracy=max(test),
                best_epoch=1 + test.index(max(test)),
                train_loss=layer["train_loss"],
                test_loss=epochs[-1][f"{part}_loss"],
                seconds=seconds[name],
                ratio=cost[name] / cost[BASE] if BASE in cost else None,
            )
        )
    return table


def findings(results: Results) -> list[str]:
    """What the figures say, in plain sentences."""
    table = rows(results)
    tests, part = reviews_scored(results["settings"], results["data"])
    best = max(table, key=lambda row: row.best_test_accuracy)
    error = math.sqrt(best.best_test_accuracy * (1 - best.best_test_accuracy) / tests)
    sentences = [
        f"The best {part} accuracy is {best.best_test_accuracy:.1%}, by {best.layer} in epoch {best.best_epoch}. "
        f"With {tests} {part} reviews its standard error is {100 * error:.1f} points, and this is one seed: "
        f"differences below {200 * math.sqrt(2) * error:.1f} points may be chance."
    ]
    base = next((row for row in table if row.layer == BASE), None)
    others = [row for row in table if row is not base]
    if base is not None:
        sentences.append(
            f"{BASE}, once trained, reaches {base.train_accuracy:.1%} on the training reviews with dropout off and "
            f"{base.test_accuracy:.1%} on the {part} reviews, a gap of {100 * base.gap:.1f} points; its best {part} "
            f"accuracy, {base.best_test_accuracy:.1%}, was in epoch {base.best_epoch} of "
            f"{results['settings']['epochs']}."
        )
    if base is not None and others:
        gaps = ", ".join(f"{row.layer} {100 * row.gap:.1f}" for row in others)
        sentences.append(f"The same gap in points for the other layers: {gaps}.")
        sentences.append(_cost(results.get(IN_TURN), base, others))
    return sentences


def _cost(in_turn: dict[str, dict[str, float]] | None, base: Row, others: list[Row]) -> str:
    fastest, slowest = (extreme(others, key=lambda row: row.ratio or 0.0) for extreme in (min, max))
    ratios = (
        f"of the others {fastest.layer} is the fastest at {fastest.ratio:.2f} times that, {slowest.layer} the slowest "
        f"at {slowest.ratio:.2f} times. These times include embedding and optimizer, the same for every layer."
    )
    if in_turn is None:
        return (
            f"An epoch of training and evaluation takes {base.seconds:.2f} s with {BASE}; {ratios} The layers were "
            "trained one after the other, so that other work on the machine may have slowed some of them and not "
            "others: `rnndrop bench` times layers in turn."
        )
    quartiles = ", ".join(
        f"{row.layer} {1000 * in_turn[row.layer]['lower']:.1f} to {1000 * in_turn[row.layer]['upper']:.1f}"
        for row in (base, *others)
    )
    return (
        f"A training step on {in_turn[BASE]['reviews']} reviews takes {1000 * in_turn[BASE]['median']:.1f} ms with "
        f"{BASE}, the median of {in_turn[BASE]['rounds']} rounds in which the layers took a step each, in turn; "
        f"{ratios} The quartiles in ms: {quartiles}. The seconds per epoch are of layers trained one after the other, "
        "and other work on the machine may have slowed some of them and not others."
    )


def print_table(results: Results) -> None:
    print_report(_title(results), columns(results), [row.cells() for row in rows(results)], findings(results))


def write(results: Results, out: Path) -> list[Path]:
    """Writes out/curves.png and out/report.html, and returns their paths."""
    files = {
        out / "curves.png": curves(results, "png"),
        out / "report.html": as_bytes(page(results)),
    }
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


def curves(results: Results, kind: str) -> bytes:
    """A picture, of a kind that matplotlib saves: accuracy by epoch, a panel for each layer, the others in grey.

    Solid is what was scored on, dotted the training part as met in training, dropout on.
    """
    scored, layers = scored_on(results["settings"]), results["layers"]
    curve = {
        (name, part): [100 * epoch[f"{part}_accuracy"] for epoch in layer["epochs"]]
        for name, layer in layers.items()
        for part in (scored, TRAIN)
    }
    names = {**PART_NAMES, TRAIN: "training"}
    across = min(len(layers), PANELS_ACROSS)
    down = -(-len(layers) // across)
    figure = Figure(figsize=(0.8 + 2.8 * across, 0.6 + 2.6 * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(layers) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, layers, strict=False):
        for other in layers:
            values = curve[other, scored]
            axes.plot(range(1, len(values) + 1), values, color="#BBBBBB", linewidth=1)
        last = {part: curve[name, part][-1] for part in (TRAIN, scored)}
        for part, style, colour in ((TRAIN, ":", "#D55E00"), (scored, "-", "#0072B2")):
            values = curve[name, part]
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, style, color=colour, linewidth=2, marker="o", markersize=3)
            above = last[part] == max(last.values())
            axes.annotate(
                names[part], (epochs[-1], values[-1]), (0, 6 if above else -6), textcoords="offset points",
                color=colour, ha="right", va="bottom" if above else "top", fontsize="small",
            )  # fmt: skip
        axes.set_title(f"{name}: best {max(curve[name, scored]):.1f} %", fontsize="medium")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.margins(0.1, 0.15)
        axes.grid(alpha=0.3)
    figure.supxlabel("epoch")
    figure.supylabel("accuracy in %")
    image = io.BytesIO()
    figure.savefig(image, format=kind, dpi=120)
    return image.getvalue()


def page(results: Results) -> str:
    """The report as one HTML file that loads nothing; every text in it is escaped."""
    says = "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in findings(results))
    image = base64.b64encode(curves(results, "svg")).decode()
    title, table = html.escape(_title(results)), rows(results)
    best = max(range(len(table)), key=lambda k: table[k].best_test_accuracy)
    lines = [row.cells() for row in table]
    ratio_of = "of a training step, the layers in turn" if IN_TURN in results else "of these seconds"
    return document(
        title,
        f"""{says}
<div class="scroll">{html_table(lines, columns(results), best=best)}</div>
<p>In bold the layer of the best accuracy. GalLSTM and SemeniutaLSTM are fused: each is one operator of this package,
and nn.LSTM one of PyTorch's; RNNLayer, FastRNNLayer and MyLSTM are the seminar's, written in Python.</p>
<p>acc.: accuracy, of the last and of the best epoch; loss: per review, last epoch; s/epoch: seconds of training and
evaluation, median over the epochs; times nn.LSTM: {ratio_of}. The table's training figures are those of the trained
model with dropout off; the curves' dotted lines are averages over each epoch as met in training, with dropout on.</p>
<div class="scroll"><img src="data:image/svg+xml;base64,{image}"
alt="Accuracy by epoch, a panel for each layer"></div>
""",
        {"Settings": results["settings"], "Data": results["data"], "Machine and versions": results["facts"]},
    )


def _title(results: Results) -> str:
    data, settings = results["data"], results["settings"]
    epochs = f"{settings['epochs']} epoch{'s' * (settings['epochs'] > 1)}"
    return f"Dropout inside the LSTM: {data['train reviews']} reviews of {settings['data']}, {epochs}"
