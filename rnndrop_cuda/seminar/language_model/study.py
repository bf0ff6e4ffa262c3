"""Which dropout lowers a language model's perplexity most: every kind at a few probabilities, then over several seeds.

For each kind the validation text chooses the probability, with the first seed; the chosen one is trained with the other
seeds. Each run's best epoch is chosen on the validation text, too. The test text decides nothing.
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
from rnndrop_cuda.seminar.language_model.trainer import make_optimizer
from rnndrop_cuda.seminar.training.batches import TEST, TRAIN, VALIDATION
from rnndrop_cuda.seminar.training.experiment import Cache
from rnndrop_cuda.seminar.training.loop import fit

QUESTION = "Which dropout lowers an LSTM language model's perplexity most, and at what cost?"
NONE, USUAL = "none (nn.LSTM)", "inputs and outputs only (nn.LSTM)"
"""What the dropouts inside the recurrence are compared with."""

Changes = Mapping[str, Any]
"""Fields of LanguageModelSettings."""
_USUAL: Changes = {"dropout_in": 0.5, "dropout_out": 0.5}


def _gal(**options: Any) -> Callable[[float], Changes]:
    """On inputs, on h and on outputs alike."""
    same = ("input_dropout", "hidden_dropout", "dropout_out")
    return lambda p: {**dict.fromkeys(same, p), "dropout_mask": "sequence", **options}


def _beside_the_usual(*keywords: str, **options: Any) -> Callable[[float], Changes]:
    return lambda p: {**_USUAL, **dict.fromkeys(keywords, p), **options}


@dataclass(frozen=True)
class Kind:
    """A kind of dropout. changes: the settings for a probability, one of `probabilities`."""

    changes: Callable[[float], Changes]
    probabilities: tuple[float, ...]


KINDS: dict[str, Kind] = {
    NONE: Kind(lambda p: {"layer": "nn.LSTM"}, (0.0,)),
    USUAL: Kind(lambda p: {"layer": "nn.LSTM", "dropout_in": p, "dropout_out": p}, (0.3, 0.5, 0.65)),
    "Gal, a mask a batch": Kind(_gal(), (0.3, 0.5)),
    "Gal, a mask a sample": Kind(_gal(mask_scope="sample"), (0.3, 0.5)),
    "Gal untied, a mask a batch": Kind(_gal(gate_masks="untied"), (0.3, 0.5)),
    "Gal untied, a mask a sample": Kind(_gal(gate_masks="untied", mask_scope="sample"), (0.3, 0.5)),
    "Semeniuta, a mask a step": Kind(_beside_the_usual("candidate_dropout"), (0.25, 0.5)),
    "Semeniuta, a mask a sequence": Kind(
        _beside_the_usual("candidate_dropout", candidate_mask="sequence", mask_scope="sample"), (0.25, 0.5)
    ),
    "zoneout": Kind(_beside_the_usual("hidden_zoneout", "cell_zoneout"), (0.05, 0.15)),
    "DropConnect (AWD-LSTM)": Kind(_beside_the_usual("weight_dropout"), (0.3, 0.5)),
    "RNNDrop": Kind(_beside_the_usual("cell_dropout", mask_scope="sample"), (0.2, 0.4)),
}
# The default is meant for 30 minutes on 2 cores, the other for 2 minutes.
DEFAULT: Changes = {"reviews": 500, "vocab_size": 5000, "epochs": 10, "batch_size": 16, "learning_rate": 0.005}
QUICK: Changes = {**DEFAULT, "data": "rotten-tomatoes", "reviews": 400, "epochs": 2, "vocab_size": 1000}
SEEDS = {"default": 3, "quick": 2}


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
    started: Callable[[str], object] = lambda what: None,
    after_epoch: Callable[[], object] = lambda: None,
) -> Iterator[tuple[str, Chosen]]:
    """Every kind, or NONE, USUAL and those of `only`; what is in the cache is not trained again.

    started: called before each run with what it is. after_epoch: called after each epoch, of a cached run at once.
    Errors as load_text's and Cache.get's, and ValueError where `only` names no kind or settings do not fit.
    """
    if unknown := [name for name in only if name not in KINDS]:
        raise ValueError(f"only: expected some of {', '.join(map(repr, KINDS))}, got {unknown[0]!r}")
    first = LanguageModelSettings(**base)
    first.check()
    text = load_text(first)

    def run(name: str, p: float, seed: int) -> TextRun:
        settings = LanguageModelSettings(**{**base, **KINDS[name].changes(p), "seed": seed})
        started(f"{name}{f' {p:g}' if p else ''}, seed {seed}")
        file = cache.file(settings, text.described(), device)
        found = cache.get(file)
        if found is None:
            found = train_and_score(settings, text, device, after_epoch)
            cache.put(file, found)
        else:
            for _ in found.epochs:
                after_epoch()
        return found

    for name, kind in KINDS.items():
        if only and name not in (NONE, USUAL, *only):
            continue
        tried = {p: run(name, p, 0) for p in kind.probabilities}
        best = min(tried, key=lambda p: tried[p].validation)
        runs = [tried[best], *(run(name, best, seed) for seed in range(1, seeds))]
        yield name, Chosen({f"{p:g}": r.validation for p, r in tried.items()}, best, runs)


def epochs_of(base: Changes, seeds: int, only: tuple[str, ...] = ()) -> int:
    """That run_all trains, in all."""
    kinds = [kind for name, kind in KINDS.items() if not only or name in (NONE, USUAL, *only)]
    return int(base["epochs"]) * sum(len(kind.probabilities) + seeds - 1 for kind in kinds)


def train_and_score(
    settings: LanguageModelSettings, text: Text, device: torch.device, after_epoch: Callable[[], object]
) -> TextRun:
    """Trains as the settings say, and scores the weights of the epoch with the lowest validation loss."""
    pieces = {part: Pieces(ids, settings.batch_size, settings.bptt, device) for part, ids in text.parts.items()}
    model = settings.build(len(text.words)).to(device)
    torch.manual_seed(settings.seed)
    epochs: list[dict[str, float]] = []
    best, weights = 0, model.state_dict()
    for epoch in fit(
        model, nn.Identity(), make_optimizer(settings, model), device, pieces[TRAIN], {VALIDATION: pieces[VALIDATION]},
        settings.epochs, max_norm=settings.clip, measure=Reader(settings.loss_over).measure, nothing=NO_TOKENS,
    ):  # fmt: skip
        epochs.append({**epoch.row(), "training_seconds": epoch.training_seconds})
        if epochs[-1]["val_loss"] <= min(row["val_loss"] for row in epochs):
            best, weights = epoch.number, copy.deepcopy(model.state_dict())
        after_epoch()
    model.load_state_dict(weights)
    train, validation, test = (score(model, pieces[part]).perplexity for part in (TRAIN, VALIDATION, TEST))
    return TextRun(dataclasses.asdict(settings), text.described(), epochs, best, train, validation, test)
