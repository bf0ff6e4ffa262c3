"""`rnndrop compare`: trains the review classifier with each recurrent layer and reports accuracy, loss and time.

Every layer sees the same reviews in the same order and starts from the same weights. What is found is written
after every epoch; the same command again trains only the layers that are not finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES, Reviews
from rnndrop_cuda.seminar.reports import compare as report
from rnndrop_cuda.seminar.reports.results import FILE_NAME, Results, open_results, save
from rnndrop_cuda.seminar.settings import LAYERS, Layer
from rnndrop_cuda.seminar.training.batches import Batch
from rnndrop_cuda.seminar.training.comparison import CompareSettings, Training, time_in_turn
from rnndrop_cuda.seminar.training.loop import format_scores

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

# Rounds and reviews a step with --quick: below a second in all, where batches as large as in training take three.
QUICK_TIMING = (3, 32)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop compare argv...`; returns 0, 2 on wrong input or an unwritable folder, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    args = parser.parse_args(argv)
    preset = "quick" if args.quick else "paper" if args.paper else "default"
    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(CompareSettings)}
    settings = CompareSettings(**{**PRESETS[preset], **{k: v for k, v in given.items() if v is not None}})
    out = Path(args.out or f"results/compare{'' if preset == 'default' else '-' + preset}")
    layers = list(dict.fromkeys(args.layers))  # a layer named twice is one layer
    try:
        device = options.usable_device(args.device)
        check_writable(out)
        reviews = settings.load().first(settings.reviews)
        trained_on, *_ = reviews.hold_out(settings.validation)
        results: Results = {
            "facts": facts(device, shlex.join(["rnndrop", "compare", *argv])),
            "settings": settings.shared(),
            "data": trained_on.described(),
            "layers": {},
        }
        if earlier := open_results(out, results, fresh=args.fresh):
            print(earlier, file=sys.stderr)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return fail("compare", one_line(error, flags_of(parser)))
    try:
        left = [layer for layer in layers if layer.label not in results["layers"]]
        _train_all(left, settings, reviews, device, results, out)
        # Of an earlier run's layers, too: only times of one run are comparable.
        rounds, at_most = QUICK_TIMING if args.quick else (9, settings.batch_size)
        timed = dataclasses.replace(settings, batch_size=min(settings.batch_size, at_most))
        results[report.IN_TURN] = time_in_turn(layers, timed, reviews, device, rounds)
        save(results, out)
        asked_for: Results = {**results, "layers": {layer.label: results["layers"][layer.label] for layer in layers}}
        written = report.write(asked_for, out)
    except OSError as error:
        return fail("compare", f"writing to {out}: {one_line(error, {})}")
    except KeyboardInterrupt:
        return fail("compare", f"stopped; the same command resumes from {out / FILE_NAME}", 130)
    report.print_table(asked_for)
    print("written: " + ", ".join(str(path) for path in (out / FILE_NAME, *written)))
    return 0


def _train_all(
    layers: list[Layer],
    settings: CompareSettings,
    reviews: Reviews,
    device: torch.device,
    results: Results,
    out: Path,
) -> None:
    """Puts each layer's result into results, which are saved after every epoch."""
    with tqdm(unit="batch", disable=None) as bar:

        def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
            for batch in batches:
                yield batch
                bar.update()

        for k, layer in enumerate(layers):
            training = Training(dataclasses.replace(settings, layer=str(layer)), reviews, device)
            bar.total = len(layers) * training.steps
            results["layers"][layer.label] = training.result
            bar.set_description(f"{layer.label}, layer {k + 1} of {len(layers)}")
            for epoch in training.run(watched):
                save(results, out)
                scores = f"{format_scores(epoch.scores)}, {epoch.seconds:.1f} s"
                bar.write(f"{layer.label} {epoch.number}/{settings.epochs}: {scores}", file=sys.stderr)
            save(results, out)


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="rnndrop compare",
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
            "The same command again resumes where the last one was cut short and repeats no finished layer.\n"
            "Results of other settings, versions or machines found in the folder are kept under another name."
        ),
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="Rotten Tomatoes sentences, 2 epochs: within 90 seconds")
    size.add_argument("--paper", action="store_true", help="the seminar's 15 epochs on every review")
    run = parser.add_argument_group("what to run")
    options.add_config(parser)
    _add_run(run)
    _add_model(parser.add_argument_group("the seminar's hyperparameters"))
    return parser


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    default, quick, paper = PRESETS.values()
    add(
        "--layers",
        nargs="+",
        type=options.layer,
        default=[Layer.parse(text) for text in COMPARED],
        metavar="NAME[:P]",
        help=f"layers, and P, the probability of their dropout: {', '.join(LAYERS)} (default: {' '.join(COMPARED)})",
    )
    add(
        "--data",
        type=str,
        metavar="SOURCE",
        help=f"{', '.join(CSV_SOURCES)}, imdb, or the path of an npz like Keras' imdb.npz "
        f"(default: {default['data']}; --quick: {quick['data']})",
    )
    options.add_unverified_data(group)
    options.add_parts(group)
    add(
        "--epochs",
        type=options.positive,
        metavar="N",
        help=f"passes over the training reviews (default: {default['epochs']}; --quick: {quick['epochs']}; --paper: "
        f"{paper['epochs']})",
    )
    add(
        "--seed",
        type=options.seed,
        metavar="N",
        help="seed for the weights, the dropout and the order of batches (default: 0)",
    )
    options.add_device(group)
    add("--out", type=str, metavar="DIR", help="folder of the results (default: results/compare[-quick|-paper])")
    add("--fresh", action="store_true", help="train every layer anew; earlier results are kept under another name")


def _add_model(group: argparse._ArgumentGroup) -> None:
    default = CompareSettings()
    numbers = {
        "vocab_size": "number of ids: the most frequent words and four more",
        "maxlen": "crop and pad reviews to N ids",
        "n_emb": "numbers per word",
        "n_hidden": "units of the layer",
        "batch_size": "reviews per step",
    }
    for name, what in numbers.items():
        kind = options.positive if name != "vocab_size" else options.vocab_size
        options.add_number(default, group, name, kind, "N", what)
    options.add_number(default, group, "learning_rate", options.above_0, "X", "of RMSprop")
