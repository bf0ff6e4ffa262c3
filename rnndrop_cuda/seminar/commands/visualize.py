"""`rnndrop visualize`: a picture of what a trained classifier does with one review, as review.html and review.png."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnndrop_cuda.files import check_writable, write_whole
from rnndrop_cuda.seminar.analysis.trace import Reading, of_row, read, trace, word_effects
from rnndrop_cuda.seminar.commands import options, train_options
from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line
from rnndrop_cuda.seminar.data.reviews import Reviews
from rnndrop_cuda.seminar.reports.html import as_bytes
from rnndrop_cuda.seminar.reports.picture import Picture, page, png
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint

OUT = "results/visualize"
MAX_WORDS = 3000  # a page of 16 MB; the longest review of IMDB has 2,500


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop visualize argv...`; returns 0, or 2 on wrong input or an unwritable folder."""
    parser = _parser()
    args = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    out = Path(args.out)
    try:
        picture = _picture(args)
        check_writable(out)
    except (OSError, TypeError, ValueError, ModuleNotFoundError) as error:
        return fail("visualize", one_line(error, flags_of(parser)))
    files = {out / "review.html": as_bytes(page(picture)), out / "review.png": png(picture)}
    try:
        for path, content in files.items():
            write_whole(path, content)
    except OSError as error:
        return fail("visualize", f"cannot write to {out}: {one_line(error, {})}")
    band = picture.trace.band
    dropout = f"with dropout {band.mean[-1]:.3f} ± {band.sd[-1]:.3f}" if band else "no dropout inside, hence no band"
    print(f"{picture.verdict}; {dropout}")
    print("written: " + ", ".join(map(str, files)))
    return 0


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
        reading = read(_encodable(args.text), vocabulary, settings.maxlen, settings.contractions)
        facts["review"] = "given on the command line"
    else:
        assert reviews is not None
        reading = _of_review(args.review, reviews, settings)
        label = int(reviews.y_test[args.review])
        facts["review"] = f"{args.review} of the test part of {settings.data}"
    if (words := len(reading.ids)) > MAX_WORDS:
        raise ValueError(
            f"the review is too long: expected at most {MAX_WORDS} words that the model reads, got {words}"
        )
    traced = trace(model, reading.ids, settings.padded_to, args.samples, args.seed)
    if not np.isfinite(traced.probabilities).all():
        raise ValueError("the model's output is no number: its weights are so large that their products overflow")
    if traced.band:
        facts["dropout masks"] = f"{args.samples} sets, seed {args.seed}"
    effects = None
    if reviews is not None and args.top_reviews:
        effects = word_effects(model, reviews.X_test[: args.top_reviews])
    return Picture(reading, traced, effects, vocabulary, facts, label)


def _encodable(text: str) -> str:
    """The text itself; ValueError where it was not UTF-8 on the command line: then it cannot be written."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text: expected UTF-8: {error}") from error
    return text


def _of_review(n: int, reviews: Reviews, settings: TrainSettings) -> Reading:
    N = len(reviews.y_test)
    if n >= N:
        raise ValueError(f"review: expected a number from 0 to {N - 1} for {settings.data}, got {n}")
    try:
        if reviews.test_texts is None:
            return of_row(reviews.X_test[n], reviews.words)
        return read(reviews.test_texts[n], reviews.words, settings.maxlen, settings.contractions)
    except ValueError as error:
        raise ValueError(f"review {n} of {settings.data}: {error}") from error


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="rnndrop visualize",
        description=(
            "Shows what a classifier that `rnndrop train` trained does with one review: how far each word moves its\n"
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
    source.add_argument("--text", type=str, help="the review")
    source.add_argument(
        "--review",
        type=options.whole,
        default=0,
        metavar="N",
        help="review N of the model's test part, counted from 0 (default: 0)",
    )
    options.add_checkpoint(parser, train_options.OUT)
    parser.add_argument(
        "--out", type=str, default=OUT, metavar="DIR", help=f"where to write the two files (default: {OUT})"
    )
    parser.add_argument(
        "--samples",
        type=options.positive,
        default=50,
        metavar="N",
        help="sets of dropout masks for the band (default: 50)",
    )
    parser.add_argument("--seed", type=options.seed, default=0, metavar="N", help="seed of the masks (default: 0)")
    parser.add_argument(
        "--top-reviews",
        type=options.whole,
        default=500,
        metavar="N",
        help="average a word's effect on a unit over N test reviews; 0 leaves these averages out (default: 500)",
    )
    return parser
