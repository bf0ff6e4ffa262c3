"""A picture of what a trained classifier does with one review, word by word: as a page, and as an image.

The page is one file that loads nothing and answers to pointer, touch and keys. The figures are analysis/trace.py's.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure  # no pyplot: no display, no global state

from rnndrop_cuda.seminar.analysis.trace import GATES, MIN_COUNT, QUANTITIES, Array, Reading, Trace, WordEffects

TEMPLATE = "picture.html.jinja"
# Blue is darker than orange, so that the colours can be told apart in grey, too; a sign marks the strong ones.
COLOURS = {"negative": "#10397f", "zero": "#ffffff", "positive": "#f08a1d", "much": "#00473f"}
LABELS = {
    "contribution": "contribution to the output",
    "h": "hidden state h",
    "c": "cell state c",
    "i": "input gate i",
    "f": "forget gate f",
    "g": "candidate g",
    "o": "output gate o",
}
MAX_INCHES = 18.0  # of the image: 1980 pixels, which a screen shows
MAX_NAMES = 60  # words whose names the image can show
FEW_UNITS = 16
TOP_WORDS = 6


@dataclass(frozen=True)
class Picture:
    """One review and everything that is shown about it."""

    reading: Reading
    trace: Trace
    effects: WordEffects | None
    """None: not shown."""
    vocabulary: list[str]
    facts: dict[str, str]
    """Where it comes from: names and values, shown as a table."""
    label: int | None = None
    """1 where the review is positive, 0 where it is negative; None: not known."""

    @property
    def verdict(self) -> str:
        """Such as "negative, P(positive) = 0.178"."""
        p = self.trace.probabilities[-1]
        return f"{'positive' if p > 0.5 else 'negative'}, P(positive) = {p:.3f}"


def page(picture: Picture) -> str:
    """The page, as HTML; every text in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(TEMPLATE).render(
        picture=picture,
        data=_page_data(picture),
        colours=COLOURS,
        labels=LABELS,
        few=FEW_UNITS,
        min_count=MIN_COUNT,
        zip=zip,
    )


def png(picture: Picture) -> bytes:
    """The image: the output along the words, each word's influence, and h of the units that moved the output most."""
    figure = draw(picture)
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # in scripts that the font lacks: a box is drawn
        figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def draw(picture: Picture) -> Figure:
    """The figure that `png` saves."""
    traced, words = picture.trace, [_shortened(word) for word in picture.reading.words]
    T, units = len(words), traced.units[:FEW_UNITS]
    diverging = LinearSegmentedColormap.from_list("signed", [COLOURS["negative"], COLOURS["zero"], COLOURS["positive"]])
    figure = Figure(figsize=(min(max(8.0, 0.3 * T + 1.5), MAX_INCHES), 8.5), layout="constrained")
    outputs, influences, heat = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 4))

    steps = np.arange(-1, T)  # -1: before the first word
    if band := traced.band:
        low, high = np.clip(band.mean - band.sd, 0, 1), np.clip(band.mean + band.sd, 0, 1)
        outputs.fill_between(steps, low, high, color="#888888", alpha=0.35, label="with dropout: mean ± deviation")
        outputs.plot(steps, band.mean, "--", color="#444444")
    outputs.plot(steps, traced.probabilities, "o-", color="black", markersize=3, label="without dropout")
    outputs.axhline(0.5, color="black", linewidth=0.5)
    outputs.set(ylim=(0, 1), ylabel="P(positive)", title=picture.verdict)
    outputs.legend(loc="best", fontsize="small")

    scale = np.abs(traced.influence).max() or 1.0
    colours = diverging(0.5 + 0.5 * traced.influence / scale)
    influences.bar(np.arange(T), traced.influence, color=colours, edgecolor="black", linewidth=0.5)
    influences.axhline(0, color="black", linewidth=0.5)
    influences.set_ylabel("influence (logit)")

    image = heat.imshow(
        traced.states["h"][:, units].T, cmap=diverging, vmin=-1, vmax=1, aspect="auto", interpolation="nearest"
    )
    heat.set_yticks(range(len(units)), [str(unit) for unit in units], fontsize="x-small")
    heat.set_ylabel("h of unit")
    named = range(0, T, -(-T // MAX_NAMES))
    heat.set_xticks(named, [words[t] for t in named], rotation=90, fontsize="small")
    for tick, t in zip(heat.get_xticklabels(), named, strict=True):
        tick.set_parse_math(False)
        tick.set_bbox({"facecolor": colours[t], "edgecolor": "none", "pad": 1.5})
        tick.set_color("white" if traced.influence[t] < -0.5 * scale else "black")
    figure.colorbar(image, ax=heat, pad=0.01)
    return figure


def _page_data(picture: Picture) -> dict[str, Any]:
    """What the page's script draws, with as many digits as it shows."""
    traced, effects = picture.trace, picture.effects
    band = traced.band
    return {
        "words": picture.reading.words,
        "known": picture.reading.known,
        "probabilities": _rounded(traced.probabilities, 4),
        "influence": _rounded(traced.influence, 4),
        "moved": _rounded(traced.moved, 4),
        "band": band and {"mean": _rounded(band.mean, 4), "sd": _rounded(band.sd, 4)},
        "states": {name: _rounded(state, 3) for name, state in traced.states.items()},
        "units": traced.units,
        "gates": GATES,
        "top": effects and _top(effects, picture.vocabulary),
    }


def _top(effects: WordEffects, vocabulary: Sequence[str]) -> dict[str, Any]:
    """For each quantity and unit, the words that raise it and those that lower it: [word, mean, occurrences]."""

    def rows(quantity: str, unit: int) -> list[list[list[Any]]]:
        means = effects.means[quantity][:, unit]
        return [
            [[vocabulary[effects.ids[w]], round(float(means[w]), 3), int(effects.counts[w])] for w in places]
            for places in effects.top(quantity, unit, TOP_WORDS)
        ]

    units = range(effects.means["h"].shape[1])
    return {quantity: [rows(quantity, unit) for unit in units] for quantity in QUANTITIES}


def _rounded(array: Array, digits: int) -> Any:
    return np.round(array, digits).tolist()


def _shortened(word: str) -> str:
    return word if len(word) <= 16 else word[:15] + "…"
