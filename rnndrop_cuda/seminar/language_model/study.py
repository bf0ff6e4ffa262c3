"""Which dropout lowers a language model's perplexity most: every kind at a few probabilities, then over several seeds.

For each kind the validation text chooses the probability, with the first seed; the chosen one is trained with the other
seeds. Every dropout inside the recurrence stands beside the same ones outside of it: those that Gal & Ghahramani and
AWD-LSTM have there, with the probabilities that were best without any inside. Each run's best epoch is chosen on the
validation text, too. The test text decides nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from rnndrop_cuda.seminar.language_model.evaluate import score
from rnndrop_cuda.seminar.language_model.pieces import Pieces
from rnndrop_cuda.seminar.language_model.scores import NO_TOKENS, Reader
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.language_model.text import Text, load_text
from rnndrop_cuda.seminar.language_model.trainer import learning_rate, make_optimizer
from rnndrop_cuda.seminar.training.batches import TEST, TRAIN, VALIDATION
from rnndrop_cuda.seminar.training.experiment import Cache
from rnndrop_cuda.seminar.training.loop import fit

QUESTION = "Which dropout lowers an LSTM language model's perplexity most, and at what cost?"
NONE, USUAL = "none (nn.LSTM)", "inputs and outputs only (nn.LSTM)"
WORDS = "inputs, outputs and words, a mask a sequence (nn.LSTM)"
OUTSIDE = (NONE, USUAL, WORDS)
"""What the dropouts inside the recurrence are compared with. The probabilities of the last two stand beside these."""

Changes = Mapping[str, Any]
"""Fields of LanguageModelSettings."""


@dataclass(frozen=True)
class Kind:
    """A kind of dropout.

    changes: the settings for a probability, one of `probabilities`, beside those of what is outside of the recurrence,
    of inputs and outputs and of words.
    """

    changes: Callable[[float, float, float], Changes]
    probabilities: tuple[float, ...]


def _outside(inputs: float, words: float) -> Changes:
    return {"dropout_in": inputs, "dropout_out": inputs, "embedding_dropout": words, "dropout_mask": "sequence"}


def _inside(*keywords: str, **options: Any) -> Callable[[float, float, float], Changes]:
    return lambda p, inputs, words: {**_outside(inputs, words), **dict.fromkeys(keywords, p), **options}


def _gal(**options: Any) -> Callable[[float, float, float], Changes]:
    """The layer drops its input, so that an untied mask has four of them, too."""
    return lambda p, inputs, words: {
        **_outside(inputs, words), "dropout_in": 0.0, "input_dropout": inputs, "hidden_dropout": p, **options,
    }  # fmt: skip


_SEQUENCE: Changes = {"candidate_mask": "sequence", "mask_scope": "sample"}
KINDS: dict[str, Kind] = {
    NONE: Kind(lambda p, *beside: {"layer": "nn.LSTM"}, (0.0,)),
    USUAL: Kind(lambda p, *beside: {"layer": "nn.LSTM", "dropout_in": p, "dropout_out": p}, (0.5, 0.65, 0.8)),
    WORDS: Kind(lambda p, inputs, words: {"layer": "nn.LSTM", **_outside(inputs, p)}, (0.1, 0.25)),
    "Gal, a mask a batch": Kind(_gal(), (0.25, 0.5)),
    "Gal, a mask a sample": Kind(_gal(mask_scope="sample"), (0.25, 0.5)),
    "Gal untied, a mask a batch": Kind(_gal(gate_masks="untied"), (0.25, 0.5)),
    "Gal untied, a mask a sample": Kind(_gal(gate_masks="untied", mask_scope="sample"), (0.25, 0.5)),
    "Semeniuta, a mask a step": Kind(_inside("candidate_dropout"), (0.25, 0.5)),
    "Semeniuta, a mask a sequence": Kind(_inside("candidate_dropout", **_SEQUENCE), (0.25, 0.5)),
    "zoneout": Kind(_inside("hidden_zoneout", "cell_zoneout"), (0.05, 0.15)),
    "DropConnect (AWD-LSTM)": Kind(_inside("weight_dropout"), (0.3, 0.5)),
    "RNNDrop": Kind(_inside("cell_dropout", mask_scope="sample"), (0.2, 0.4)),
}
# The default is meant for 30 minutes on 2 cores (by the seconds an epoch it takes 25), the other for 2 (it takes 18 s).
DEFAULT: Changes = {
    "reviews": 200, "vocab_size": 5000, "n_hidden": 400, "epochs": 20, "patience": 3, "batch_size": 16,
    "learning_rate": 0.003, "anneal": 4.0, "anneal_after": 2,
}  # fmt: skip
QUICK: Changes = {
    **DEFAULT, "data": "rotten-tomatoes", "reviews": 400, "vocab_size": 1000, "n_hidden": 200, "epochs": 2,
}  # fmt: skip
SEEDS = {"default": 3, "quick": 2}
FINALISTS = {"default": 3, "quick": None}
"""Kinds inside the recurrence that have all these seeds; None: all kinds."""


class TextRun(NamedTuple):
    """A run's figures. epochs: Epoch.row of each; the perplexities are of the best epoch's weights, dropout off."""

    experiment: dict[str, Any]
    data: dict[str, Any]
    epochs: list[dict[str, float]]
    best_epoch: int
    train: float
    validation: float
    test: float


class Chosen(NamedTuple):
    """Of a kind: the validation perplexity of each probability with the first seed, the best one, and its runs."""

    tried: dict[str, float]
    p: float
    runs: list[TextRun]


def run_all(
    base: Changes,
    seeds: int,
    cache: Cache[TextRun],
    device: torch.device,
    only: tuple[str, ...] = (),
    finalists: int | None = None,
    started: Callable[[str], object] = lambda what: None,
    after_epoch: Callable[[], object] = lambda: None,
) -> Iterator[tuple[str, Chosen]]:
    """Every kind, or OUTSIDE and those of `only`, with the first seed and then again with all seeds.

    What is in the cache is not trained again. finalists: so many of the kinds inside the recurrence, those with the
    lowest validation perplexities with the first seed, are trained with the other seeds, and OUTSIDE; None: all are.
    started: called before each run with what it is. after_epoch: called after each epoch, of a cached run at once.
    Errors as load_text's and Cache.get's, and ValueError where `only` names no kind or settings do not fit.
    """
    if unknown := [name for name in only if name not in KINDS]:
        raise ValueError(f"only: expected some of {', '.join(map(repr, KINDS))}, got {unknown[0]!r}")
    first = LanguageModelSettings(**base)
    first.check()
    text = load_text(first)
    beside = {USUAL: 0.0, WORDS: 0.0}

    def run(name: str, p: float, seed: int) -> TextRun:
        settings = LanguageModelSettings(**{**base, **KINDS[name].changes(p, *beside.values()), "seed": seed})
        started(f"{name}{f' {p:g}' if p else ''}, seed {seed}")
        file = cache.file(settings, text.described(), device)
        found = cache.get(file)
        if found is None:
            found = train_and_score(settings, text, device, after_epoch)
            cache.put(file, found)
        else:
            for _ in range(settings.epochs):
                after_epoch()
        return found

    kinds: dict[str, Chosen] = {}
    for name in _names(only):
        tried = {p: run(name, p, 0) for p in KINDS[name].probabilities}
        best = min(tried, key=lambda p: tried[p].validation)
        if name in beside:
            beside[name] = best
        kinds[name] = Chosen({f"{p:g}": r.validation for p, r in tried.items()}, best, [tried[best]])
        yield name, kinds[name]
    inside = sorted((name for name in kinds if name not in OUTSIDE), key=lambda name: kinds[name].runs[0].validation)
    dropped = inside[finalists:] if finalists is not None else []
    for name, chosen in kinds.items():
        if seeds > 1 and name not in dropped:
            others = [run(name, chosen.p, seed) for seed in range(1, seeds)]
            yield name, chosen._replace(runs=[*chosen.runs, *others])


def epochs_of(base: Changes, seeds: int, only: tuple[str, ...] = (), finalists: int | None = None) -> int:
    """That run_all trains, in all, where no run ends early."""
    names = _names(only)
    inside = len(names) - len(OUTSIDE)
    again = len(OUTSIDE) + (inside if finalists is None else min(inside, finalists))
    return int(base["epochs"]) * (sum(len(KINDS[name].probabilities) for name in names) + again * (seeds - 1))


def _names(only: tuple[str, ...]) -> list[str]:
    return [name for name in KINDS if not only or name in (*OUTSIDE, *only)]


def train_and_score(
    settings: LanguageModelSettings, text: Text, device: torch.device, after_epoch: Callable[[], object]
) -> TextRun:
    """Trains as the settings say, and scores the weights of the epoch with the lowest validation loss."""
    pieces = {part: Pieces(ids, settings.batch_size, settings.bptt, device) for part, ids in text.parts.items()}
    model = settings.build(len(text.words)).to(device)
    torch.manual_seed(settings.seed)
    optimizer = make_optimizer(settings, model)
    epochs: list[dict[str, float]] = []
    best, weights = 0, model.state_dict()
    for epoch in fit(
        model, nn.Identity(), optimizer, device, pieces[TRAIN], {VALIDATION: pieces[VALIDATION]},
        settings.epochs, max_norm=settings.clip, measure=Reader(settings.loss_over).measure, nothing=NO_TOKENS,
    ):  # fmt: skip
        epochs.append({**epoch.row(), "training_seconds": epoch.training_seconds})
        losses = [row["val_loss"] for row in epochs]
        if losses[-1] <= min(losses):
            best, weights = epoch.number, copy.deepcopy(model.state_dict())
        after_epoch()
        if settings.patience is not None and epoch.number - best >= settings.patience:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, losses)
    for _ in range(settings.epochs - len(epochs)):
        after_epoch()
    model.load_state_dict(weights)
    train, validation, test = (score(model, pieces[part]).perplexity for part in (TRAIN, VALIDATION, TEST))
    return TextRun(dataclasses.asdict(settings), text.described(), epochs, best, train, validation, test)
