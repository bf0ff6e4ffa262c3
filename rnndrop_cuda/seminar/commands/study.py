"""`rnndrop study NAME`: the seminar's further studies, each with several seeds, a table, a plot and a report.

Every run is kept by its configuration: the same command again repeats none, and more seeds or another choice of
variants train only what is new.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from rnndrop_cuda.files import check_writable
from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import language_model_study, options
from rnndrop_cuda.seminar.commands.study_end import run_to_its_end
from rnndrop_cuda.seminar.data.vectors import GLOVE
from rnndrop_cuda.seminar.language_model.study import QUESTION
from rnndrop_cuda.seminar.reports import study as study_report
from rnndrop_cuda.seminar.studies import STUDIES, Plan, planned, run_all
from rnndrop_cuda.seminar.training.experiment import Cache, Experiment, StudyRun

GIVEN = ("data", "unverified_data", "reviews", "validation", "epochs")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop study argv...`; returns 0, 2 on wrong input or an unwritable folder, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == [language_model_study.NAME]:  # its figures are perplexities
        return language_model_study.main(argv[1:])
    parser = _parser()
    args = parser.parse_args(argv)
    study = STUDIES[args.study]
    preset = "quick" if args.quick else "paper" if args.paper else "default"
    out = Path(args.out or f"results/study-{args.study}{'' if preset == 'default' else '-' + preset}")

    def answer() -> list[Path]:
        device = options.usable_device(args.device)
        check_writable(out)
        plan = planned(
            study,
            preset,
            {name: getattr(args, name) for name in GIVEN if getattr(args, name) is not None},
            only=args.only,
            seeds=args.seeds,
            vectors=args.vectors,
            n_emb=args.n_emb,
            pretrained=args.pretrained,
        )
        runs = _run(plan, Cache(out / "runs", StudyRun), device)
        results = study_report.Results(
            args.study,
            study.question,
            facts(device, shlex.join(["rnndrop", "study", *argv])),
            study.bars,
            runs,
            {variant: base for variant, base in study.against.items() if variant in runs},
        )
        study_report.print_results(results)
        return study_report.write(results, out)

    return run_to_its_end(answer, out, parser)


def _run(plan: Plan, cache: Cache, device: torch.device) -> dict[str, list[StudyRun]]:
    """The runs of each variant, with a progress bar of epochs."""
    runs: dict[str, list[StudyRun]] = {variant: [] for variant in plan}
    left = sum(experiment.epochs for experiments in plan.values() for experiment in experiments)
    with tqdm(total=left, unit="epoch", disable=None) as bar:

        def started(variant: str, experiment: Experiment) -> None:
            bar.set_description(f"{variant}, seed {experiment.seed}")

        for variant, experiment, run, is_new in run_all(plan, cache, device, started, bar.update):
            runs[variant].append(run)
            if is_new:
                line = f"{variant}, seed {experiment.seed}: {run.scored_on} accuracy {run.test_accuracy:.4f}, best "
                bar.write(f"{line}{run.best_test_accuracy:.4f}, {run.seconds:.1f} s an epoch", file=sys.stderr)
            else:
                bar.total -= experiment.epochs
                bar.refresh()
    return runs


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="rnndrop study",
        description="Trains the review classifier in several variants and with several seeds, and says what differs.",
        epilog="studies:\n"
        + "\n".join(f"  {name:<16}{study.question}" for name, study in STUDIES.items())
        + f"\n  {language_model_study.NAME:<16}{QUESTION}"
        + "\n\nexamples:\n"
        "  rnndrop study dropout --quick          short sentences, a minute or two\n"
        "  rnndrop study dropout                  meant for 15 minutes on 2 cores\n"
        "  rnndrop study dropout --seeds 5        the same, with two seeds more\n"
        "  rnndrop study full-reviews             the first 400 words of every review: half an hour\n"
        "  rnndrop study pretraining --pretrained results/language-model\n\n"
        "Writes study.json, study.png and, of classifiers, study.html, and a file for each run under runs/: none is "
        "repeated.",
    )
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help="one of those below")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few short sentences, 2 epochs, 2 seeds, a small model")
    size.add_argument("--paper", action="store_true", help="the seminar's 15 epochs on every review, 5 seeds")
    options.add_config(parser)
    _add_run(parser.add_argument_group("what to run"))
    return parser


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--seeds",
        type=options.positive,
        metavar="N",
        help="seeds 0 to N-1 (default: 3, of full-reviews 1; quick 2; paper 5)",
    )
    add("--only", nargs="+", metavar="VARIANT", help="train only these variants and the first one")
    add("--epochs", type=options.positive, metavar="N", help="(default: 5; quick 2; paper 15, of full-reviews 5)")
    add(
        "--data",
        type=str,
        metavar="SOURCE",
        help="as for rnndrop compare; all of its reviews, unless --quick or --reviews",
    )
    options.add_unverified_data(group)
    options.add_parts(group)
    add(
        "--vectors",
        type=str,
        metavar="SOURCE",
        help=f"the pretrained vectors: {GLOVE} (default) or a file as for rnndrop vectors",
    )
    add("--n-emb", type=options.positive, metavar="N", help="numbers per word in these vectors (default: 50)")
    add(
        "--pretrained",
        type=str,
        metavar="DIR",
        help="the language model that `pretraining` needs, the folder of `rnndrop language-model train`",
    )
    options.add_device(group)
    add("--out", type=str, metavar="DIR", help="folder of the results (default: results/study-STUDY[-quick|-paper])")
