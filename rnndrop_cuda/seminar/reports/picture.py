"""`rnndrop visualize`: a picture of what a trained classifier does with one review, word by word.

Writes review.html, one file that loads nothing and answers to pointer, touch and keys, and review.png. The figures are
trace.py's.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure  # no pyplot: no display, no global state

from rnndrop_cuda.files import check_writable, write_whole
from rnndrop_cuda.seminar.analysis.trace import (
    GATES,
    MIN_COUNT,
    QUANTITIES,
    Array,
    Reading,
    Trace,
    WordEffects,
    of_row,
    read,
    trace,
    word_effects,
)
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES, DATA_SEED, Reviews, held_out_texts
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint

CHECKPOINT = "results/train"
OUT = "results/visualize"
TEMPLATE = "picture.html.jinja"
# Blue is darker than orange, so that the map can be read in grey, too; a sign stands where the colour is strong.
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
MAX_WORDS = 3000  # a page of 16 MB; the longest review of IMDB has 2,500
MAX_NAMES = 250  # words named in the PNG
FEW_UNITS = 16
TOP_WORDS = 6


@dataclass(frozen=True)
class Picture:
    """One review and all that is shown of it."""

    reading: Reading
    trace: Trace
    effects: WordEffects | None
    """None: left out."""
    vocabulary: list[str]
    facts: dict[str, str]
    """Where it comes from: names and values, shown in a table."""
    label: int | None = None
    """1 where the review is positive, 0 where it is not; None: not known."""

    @property
    def verdict(self) -> str:
        p = self.trace.probabilities[-1]
        return f"{'positive' if p > 0.5 else 'negative'}, probability {p:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop visualize argv...`; returns 0, or 2 on wrong input or an unwritable folder."""
    args = _parser().parse_args(sys.argv[1:] if argv is None else list(argv))
    out = Path(args.out)
    try:
        picture = _picture(args)
        check_writable(out)
    except FileNotFoundError as error:
        hint = "; `rnndrop train` makes one, `rnndrop train --data rotten-tomatoes --epochs 3` in a minute"
        return _fail(f"{error}{hint if str(error).startswith('no checkpoint') else ''}")
    except (OSError, TypeError, ValueError, ModuleNotFoundError) as error:
        return _fail(str(error))
    files = {out / "review.html": page(picture).encode(), out / "review.png": png(picture)}
    try:
        for path, content in files.items():
            write_whole(path, content)
    except OSError as error:
        return _fail(f"writing to {out}: {error}")
    band = picture.trace.band
    dropout = f"; with dropout {band.mean[-1]:.3f} ± {band.sd[-1]:.3f}" if band else "; no dropout inside: no band"
    print(f"{picture.verdict}{dropout}")
    print("written: " + ", ".join(map(str, files)))
    return 0


def page(picture: Picture) -> str:
    """The page as one HTML file; every text in it is escaped."""
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
    """The output along the words with its band, the words' influence, and h of the units that moved the output most."""
    figure = draw(picture)
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of scripts that the font has not: a box is drawn
        figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def draw(picture: Picture) -> Figure:
    """The figure of `png`."""
    traced, words = picture.trace, [_shortened(word) for word in picture.reading.words]
    T, units = len(words), traced.units[:FEW_UNITS]
    diverging = LinearSegmentedColormap.from_list("signed", [COLOURS["negative"], COLOURS["zero"], COLOURS["positive"]])
    figure = Figure(figsize=(min(max(8.0, 0.3 * T + 1.5), 80.0), 8.5), layout="constrained")
    outputs, influences, heat = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 4))

    steps = np.arange(-1, T)  # -1: before the first word
    if band := traced.band:
        low, high = np.clip(band.mean - band.sd, 0, 1), np.clip(band.mean + band.sd, 0, 1)
        outputs.fill_between(steps, low, high, color="#888888", alpha=0.35, label="with dropout: mean ± deviation")
        outputs.plot(steps, band.mean, "--", color="#444444")
    outputs.plot(steps, traced.probabilities, "o-", color="black", markersize=3, label="without dropout")
    outputs.axhline(0.5, color="black", linewidth=0.5)
    outputs.set(ylim=(0, 1), ylabel="probability positive", title=picture.verdict)
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


def _picture(args: argparse.Namespace) -> Picture:
    """Raises what load_checkpoint, load_reviews and trace raise, and ValueError on a wrong text or review."""
    model, vocabulary, settings = load_checkpoint(args.checkpoint)
    reviews = None
    if args.text is None or args.top_reviews:
        reviews = settings.load()
        if reviews.words != vocabulary:
            raise ValueError(f"{settings.data} is no longer what {args.checkpoint} was trained on")
    facts = {"checkpoint": str(args.checkpoint), "layer": settings.layer, "trained on": settings.data}
    label = None
    if args.text is not None:
        try:
            args.text.encode()  # what was not UTF-8 on the command line cannot be written
            reading = read(args.text, vocabulary, settings.maxlen, settings.contractions)
        except ValueError as error:
            raise ValueError(f"--text: {error}") from error
        facts["review"] = "given by --text"
    else:
        assert reviews is not None
        reading = _of_review(args.review, reviews, settings)
        label = int(reviews.y_test[args.review])
        facts["review"] = f"{args.review} of the test part of {settings.data}"
    if (T := len(reading.ids)) > MAX_WORDS:
        raise ValueError(f"the review must have at most {MAX_WORDS} words that the model reads, got {T}")
    traced = trace(model, reading.ids, settings.maxlen, args.samples, args.seed)
    if traced.band:
        facts["dropout masks"] = f"{args.samples} sets, seed {args.seed}"
    effects = None
    if reviews is not None and args.top_reviews:
        effects = word_effects(model, reviews.X_test[: args.top_reviews])
    return Picture(reading, traced, effects, vocabulary, facts, label)


def _of_review(n: int, reviews: Reviews, settings: TrainSettings) -> Reading:
    N = len(reviews.y_test)
    if n >= N:
        raise ValueError(f"--review must be from 0 to {N - 1} for {settings.data}, got {n}")
    try:
        if settings.data in CSV_SOURCES:
            return read(
                held_out_texts(settings.data, DATA_SEED)[n], reviews.words, settings.maxlen, settings.contractions
            )
        return of_row(reviews.X_test[n], reviews.words)
    except ValueError as error:
        raise ValueError(f"--review {n}: {error}") from error


def _page_data(picture: Picture) -> dict[str, Any]:
    """What the page's script draws; as many digits as it shows."""
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
    """For each quantity and unit the words that raise it and those that lower it: [word, mean, occurrences]."""

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


def _fail(message: str) -> int:
    print(f"rnndrop visualize: {message}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnndrop visualize",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Shows what a classifier that `rnndrop train` trained does with one review: how much each word moves its\n"
            "output and its hidden state, its units and gates word by word, how sure it is along the way (MC\n"
            "dropout), and which words open or close a unit. Writes review.html (one file, opens anywhere) and\n"
            "review.png."
        ),
        epilog=(
            "examples:\n"
            '  rnndrop visualize --text "A wonderful cast, but a dull and silly film."\n'
            "  rnndrop visualize --review 3 --checkpoint runs/semeniuta --out pictures"
        ),
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="the review")
    source.add_argument(
        "--review",
        type=options.whole,
        default=0,
        metavar="N",
        help="review N of the model's test part, from 0 (default: 0)",
    )
    parser.add_argument(
        "--checkpoint",
        default=CHECKPOINT,
        metavar="DIR",
        help=f"a run's folder (its best checkpoint) or a checkpoint's (default: {CHECKPOINT})",
    )
    parser.add_argument("--out", default=OUT, metavar="DIR", help=f"folder of the two files (default: {OUT})")
    parser.add_argument(
        "--samples",
        type=options.positive,
        default=50,
        metavar="N",
        help="sets of dropout masks for the band (default: 50)",
    )
    parser.add_argument("--seed", type=options.seed, default=0, metavar="N", help="of the masks (default: 0)")
    parser.add_argument(
        "--top-reviews",
        type=options.whole,
        default=500,
        metavar="N",
        help="test reviews over which a word's effect on a unit is averaged; 0 leaves that out (default: 500)",
    )
    return parser
