"""`rnndrop predict`: the sentiment of texts by a trained classifier, and how sure it is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnndrop_cuda.seminar.analysis.predict import Encoded, Prediction, encode, predict
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line
from rnndrop_cuda.seminar.commands.output import print_json
from rnndrop_cuda.seminar.commands.train_options import OUT
from rnndrop_cuda.seminar.data.text import ids_of_words, tokenize, without_line_breaks
from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint

FIGURES = ("label", "probability", "std", "entropy", "mutual_information")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop predict argv...`; returns 0, or 2 on wrong input."""
    parser = _parser()
    args = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    try:
        device = options.usable_device(args.device)
        model, words, settings = load_checkpoint(args.checkpoint)
        id_of = ids_of_words(words, settings.contractions)
        if not id_of:
            raise ValueError(
                f"checkpoint: expected a vocabulary of words, got one of ranks in {args.checkpoint}: "
                "it can read no text"
            )
        texts = _texts(args)
        encoded = [encode(text, id_of, settings.maxlen, settings.contractions) for text in texts]
        known = [k for k, text in enumerate(encoded) if text.unknown < text.words]
        if not known:
            raise ValueError(_without_known_words(texts[0]))
    except (OSError, ValueError) as error:
        return fail("predict", one_line(error, flags_of(parser)))
    found = predict(model.to(device), [encoded[k].ids for k in known], settings.padded_to, args.samples, args.seed)
    predictions = dict(zip(known, found, strict=True))
    for k, text in enumerate(texts):
        if k not in predictions:
            _note(_without_known_words(text))
    if found[0].std is None:
        _note("this model has no dropout inside its recurrence: one pass, no deviation")
    rows = [_row(text, encoded[k], predictions.get(k)) for k, text in enumerate(texts)]
    if args.json:
        print_json(rows, indent=1)
    else:
        print("\n".join(map(_line, rows)))
    return 0


def _note(message: str) -> None:
    print(f"rnndrop predict: {message}", file=sys.stderr)


def _texts(args: argparse.Namespace) -> list[str]:
    """The texts that have a word. OSError where a file cannot be read, ValueError where there is no such text."""
    if args.text is not None:
        source, texts = "text", [args.text]
    elif args.file is not None:
        source, texts = "file", _lines_of(Path(args.file))
    else:
        if sys.stdin.isatty():
            print("reading texts from the terminal, one per line, until the end of input (Ctrl-D)", file=sys.stderr)
        try:
            source, texts = "standard input", sys.stdin.read().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input: expected UTF-8, got {error.reason} at byte {error.start}") from error
    texts = [text.strip() for text in texts if tokenize(without_line_breaks(" ".join(text.split())))]
    if not texts:
        where = f" in {args.file}" if source == "file" else ""
        raise ValueError(f"{source}: expected at least one word, got none{where}")
    return texts


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"file: expected UTF-8, got {error.reason} at byte {error.start} of {path}") from error
    except OSError as error:
        raise OSError(f"file: cannot read {path}: {error.strerror}") from error


def _without_known_words(text: str) -> str:
    return f"the model knows none of the words that it reads in {_shortened(text)!r}"


def _row(text: str, encoded: Encoded, prediction: Prediction | None) -> dict[str, Any]:
    """What --json prints of a text. prediction: None where the model knows no word of it."""
    answer: dict[str, Any] = dict.fromkeys(FIGURES)
    if prediction is not None:
        answer = {name: getattr(prediction, name) for name in FIGURES[1:]}
        answer = {"label": "positive" if prediction.probability > 0.5 else "negative", **answer}
    return {"text": text, **answer, "words": encoded.words, "unknown_words": encoded.unknown}


def _line(row: dict[str, Any]) -> str:
    if row["label"] is None:
        return f"no answer: {_shortened(row['text'])}"
    deviation = "" if row["std"] is None else f" ± {row['std']:.3f}"
    unknown = f", {row['unknown_words']} of {row['words']} words unknown" if row["unknown_words"] else ""
    answer = f"{row['label']} {row['probability']:.3f}{deviation}, entropy {row['entropy']:.3f} nats"
    return f"{answer}{unknown}: {_shortened(row['text'])}"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="rnndrop predict",
        description=(
            "Tells whether texts are positive, using a classifier that `rnndrop train` trained: the probability, its\n"
            "deviation over passes with different dropout masks (how far the model disagrees with itself), and its\n"
            "entropy."
        ),
        epilog=(
            "examples:\n"
            '  rnndrop predict --checkpoint results/train --text "a wonderful film"\n'
            "  rnndrop predict --checkpoint results/train --file reviews.txt --json     one text per line\n"
            "  cat reviews.txt | rnndrop predict --checkpoint results/train/last --samples 200"
        ),
    )
    options.add_checkpoint(parser, OUT)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", type=str, help="the text")
    source.add_argument(
        "--file", type=str, metavar="FILE", help="texts, one per line (without --text and --file: standard input)"
    )
    parser.add_argument(
        "--samples", type=options.positive, default=50, metavar="N", help="passes with dropout (default: 50)"
    )
    parser.add_argument("--seed", type=options.seed, default=0, metavar="N", help="seed of the masks (default: 0)")
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects; entropies in nats")
    return parser
