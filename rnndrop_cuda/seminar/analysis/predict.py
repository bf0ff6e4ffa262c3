"""`rnndrop predict`: the sentiment of texts by a trained classifier, and how sure it is, by Monte Carlo dropout.

A text is cut into words, cropped and padded as the reviews were that the classifier was trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.mc_dropout import drops, mc_predict
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.reviews import START, UNKNOWN, ids_of_words, tokenize
from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint

BATCH = 128  # texts of about one length that are computed together


@dataclass(frozen=True)
class Encoded:
    """A text's ids as in training, start first and cropped but not padded; words that were read, unknown ones too."""

    ids: list[int]
    words: int
    unknown: int


@dataclass(frozen=True)
class Prediction:
    """Of one text. Without dropout inside the recurrence there is one pass, and no deviation."""

    probability: float
    """Of the text being positive: the mean over the samples."""
    std: float | None
    entropy: float
    """Nats, of the probability: log 2 at most."""
    mutual_information: float | None
    """Nats: the part of the entropy that comes from the model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop predict argv...`; returns 0, or 2 on wrong input."""
    args = _parser().parse_args(sys.argv[1:] if argv is None else list(argv))
    try:
        device = options.usable_device(args.device)
        model, words, settings = load_checkpoint(args.checkpoint)
        id_of = ids_of_words(words, settings.contractions)
        if not id_of:
            raise ValueError(f"--checkpoint {args.checkpoint} has ranks instead of words: no text can be read with it")
        texts = list(_texts(args))
        encoded = [encode(text, id_of, settings.maxlen, settings.contractions) for text in texts]
        known = [k for k, text in enumerate(encoded) if text.unknown < text.words]
        if not known:
            raise ValueError(_without_known_words(texts[0], encoded[0]))
    except (OSError, ValueError) as error:
        print(f"rnndrop predict: {error}", file=sys.stderr)
        return 2
    found = predict(model.to(device), [encoded[k].ids for k in known], settings.maxlen, args.samples, args.seed)
    predictions = dict(zip(known, found, strict=True))
    for k, text in enumerate(texts):
        if k not in predictions:
            print(f"rnndrop predict: {_without_known_words(text, encoded[k])}", file=sys.stderr)
    if found[0].std is None:
        print(
            "rnndrop predict: no dropout inside the recurrence of this model: one pass, no deviation", file=sys.stderr
        )
    rows = [_row(text, encoded[k], predictions.get(k)) for k, text in enumerate(texts)]
    print(json.dumps(rows, indent=1, ensure_ascii=False) if args.json else "\n".join(map(_line, rows)))
    return 0


def encode(text: str, id_of: dict[str, int], maxlen: int | None, contractions: str = "keep") -> Encoded:
    """The text's ids, start included: all of them, or the first maxlen."""
    words = tokenize(text, contractions)[: None if maxlen is None else maxlen - 1]
    ids = [id_of.get(word, UNKNOWN) for word in words]
    return Encoded([START, *ids], len(ids), ids.count(UNKNOWN))


def predict(
    model: nn.Module, rows: Sequence[Sequence[int]], maxlen: int | None, samples: int, seed: int
) -> list[Prediction]:
    """What the classifier says of each row of ids, from `samples` passes with masks drawn with `seed`.

    maxlen: rows are padded on the left to it, as in training; None: on the right, and the model is told the lengths.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    dropout = any(isinstance(layer, LSTM) and drops(layer) for layer in model.modules())
    by_length = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    predictions: dict[int, Prediction] = {}
    for start in range(0, len(rows), BATCH):
        batch = by_length[start : start + BATCH]
        x = [tensor.to(device) for tensor in _padded([rows[k] for k in batch], maxlen)]
        if dropout:
            mc = mc_predict(_OfOneArgument(model), x, samples, generator)
            columns = (mc.mean[:, 0], mc.std[:, 0], mc.predictive_entropy, mc.mutual_information)
            predictions |= {
                k: Prediction(*values) for k, *values in zip(batch, *(c.tolist() for c in columns), strict=True)
            }
        else:
            with torch.no_grad():
                p = model.eval()(*x)[:, 0]
            entropy = torch.special.entr(torch.stack([p, 1 - p])).sum(0)
            predictions |= {
                k: Prediction(mean, None, h, None)
                for k, mean, h in zip(batch, p.tolist(), entropy.tolist(), strict=True)
            }
    return [predictions[k] for k in range(len(rows))]


class _OfOneArgument(nn.Module):
    """mc_predict calls a model with one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: list[Tensor]) -> Tensor:
        probabilities: Tensor = self.model(*x)
        return probabilities


def _padded(rows: list[Sequence[int]], maxlen: int | None) -> list[Tensor]:
    """[ids [T, B]] or, where maxlen is None, [ids [T, B], lengths [B]]."""
    if maxlen is None:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows])
        return [ids, torch.tensor([len(row) for row in rows])]
    ids = torch.zeros(maxlen, len(rows), dtype=torch.int64)
    for column, row in enumerate(rows):
        ids[maxlen - len(row) :, column] = torch.tensor(row)
    return [ids]


def _texts(args: argparse.Namespace) -> Iterator[str]:
    """Each text with a word in it. OSError where a file cannot be read, ValueError where there is no text."""
    if args.text is not None:
        source, texts = "--text", [args.text]
    elif args.file is not None:
        path = Path(args.file)
        try:
            source, texts = str(path), path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--file {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except OSError as error:
            raise OSError(f"--file {path}: {error.strerror}") from error
    else:
        if sys.stdin.isatty():
            print("reading texts from the terminal, one a line, to the end (Ctrl-D)", file=sys.stderr)
        try:
            source, texts = "standard input", sys.stdin.read().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input is not UTF-8 text: {error.reason} at byte {error.start}") from error
    texts = [text.strip() for text in texts if tokenize(" ".join(text.split()))]
    if not texts:
        raise ValueError(f"{source} has no text: a word at least is needed")
    yield from texts


def _without_known_words(text: str, encoded: Encoded) -> str:
    return f"none of the {encoded.words} words read is known to the model in {_shortened(text)!r}"


def _row(text: str, encoded: Encoded, prediction: Prediction | None) -> dict[str, Any]:
    """prediction: None where no word was known."""
    answer = prediction and {
        "label": "positive" if prediction.probability > 0.5 else "negative",
        "probability": prediction.probability,
        "std": prediction.std,
        "entropy": prediction.entropy,
        "mutual_information": prediction.mutual_information,
    }
    unanswered = dict.fromkeys(("label", "probability", "std", "entropy", "mutual_information"))
    return {"text": text, **(answer or unanswered), "words": encoded.words, "unknown_words": encoded.unknown}


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnndrop predict",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Tells whether texts are positive, by a classifier that `rnndrop train` trained: the probability, its\n"
            "deviation over passes with other dropout masks (how much the model disagrees with itself), its entropy."
        ),
        epilog=(
            "examples:\n"
            '  rnndrop predict --checkpoint results/train --text "a wonderful film"\n'
            "  rnndrop predict --checkpoint results/train --file reviews.txt --json     one text a line\n"
            "  cat reviews.txt | rnndrop predict --checkpoint results/train/last --samples 200"
        ),
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a run's folder (its best checkpoint) or a checkpoint's"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="one text")
    source.add_argument("--file", metavar="FILE", help="texts, one a line (neither: from standard input)")
    parser.add_argument(
        "--samples", type=options.positive, default=50, metavar="N", help="passes with dropout (default: 50)"
    )
    parser.add_argument("--seed", type=options.seed, default=0, metavar="N", help="of the masks (default: 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print a list of objects; entropy in nats")
    return parser
