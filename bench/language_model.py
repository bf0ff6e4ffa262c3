"""A language model with this package's LSTM beside the ways people train one today: tokens a second, perplexity.

The same model (embedding, layers, adaptive softmax), text, weights and pieces; only the recurrent layers differ:
nn.LSTM without dropout inside; nn.LSTM in AWD-LSTM's weight-drop wrapper, which drops W_hh and lets it run; a Python
loop over nn.LSTMCell with Gal & Ghahramani's masks; and this package's. A training step (forward, backward, clipping,
Adam) of each is timed in turn, then each is trained from the same weights for a few epochs, if any. The step without a
recurrent layer says what the others leave to the LSTM.

    python -m bench.language_model --out bench/results/language-model.json
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bench.arguments import positive, whole
from bench.language_model_tables import HEAD, NN_LSTM
from bench.machine import check_out, machine_facts
from bench.stopwatch import no_garbage_collection
from rnndrop_cuda import LSTM
from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.language_model.evaluate import score
from rnndrop_cuda.seminar.language_model.model import LanguageModel
from rnndrop_cuda.seminar.language_model.pieces import Pieces
from rnndrop_cuda.seminar.language_model.scores import NO_TOKENS, Reader
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.language_model.text import load_text
from rnndrop_cuda.seminar.language_model.trainer import make_optimizer
from rnndrop_cuda.seminar.layers import RNNLayer
from rnndrop_cuda.seminar.training.batches import TRAIN, VALIDATION
from rnndrop_cuda.seminar.training.loop import run_batches

P_GAL, P_WEIGHTS = 0.3, 0.5
WRAPPER, LOOP = "nn.LSTM, weight-drop wrapper", "loop over nn.LSTMCell, Gal 0.3"
OURS_GAL, OURS_GAL_HALF = "LSTM, Gal 0.3", "LSTM, Gal 0.5"
OURS_SAMPLE, OURS_WEIGHTS = "LSTM, Gal 0.3, a mask a sample", "LSTM, weight_dropout"


class WeightDrop(nn.Module):
    """nn.LSTM with W_hh dropped anew in every forward (Merity, Keskar & Socher, arXiv 1708.02182, section 2)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.lstm = nn.LSTM(input_size, hidden_size)

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        dropped = {"weight_hh_l0": F.dropout(self.lstm.weight_hh_l0, P_WEIGHTS, self.training)}
        return functional_call(self.lstm, dropped, (x, hx))


class NoLayer(nn.Module):
    """Hands x on: what is left of a step is embedding, head and optimizer."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        state = x.new_zeros(1, x.shape[1], self.hidden_size)
        return x, (state, state)


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    NN_LSTM: nn.LSTM,
    WRAPPER: WeightDrop,
    LOOP: lambda E, H: RNNLayer(E, H, P_GAL),
    OURS_GAL: lambda E, H: LSTM(E, H, input_dropout=P_GAL, hidden_dropout=P_GAL),
    OURS_GAL_HALF: lambda E, H: LSTM(E, H, input_dropout=0.5, hidden_dropout=0.5),
    OURS_SAMPLE: lambda E, H: LSTM(E, H, input_dropout=P_GAL, hidden_dropout=P_GAL, mask_scope="sample"),
    OURS_WEIGHTS: lambda E, H: LSTM(E, H, weight_dropout=P_WEIGHTS),
    HEAD: NoLayer,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.language_model argv...`; returns 0, 2 on wrong input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        check_out(args.out)
        settings = settings_of(args.size, args.reviews, args.num_layers)
        text = load_text(settings)
    except (ImportError, OSError, ValueError) as error:
        print(f"bench.language_model: {error}", file=sys.stderr)
        return 2
    facts = machine_facts(torch.device("cpu"), shlex.join(["python", "-m", "bench.language_model", *argv]))
    pieces = {
        part: Pieces(text.parts[part], settings.batch_size, settings.bptt, torch.device("cpu"))
        for part in (TRAIN, VALIDATION)
    }
    models = models_of(settings, len(text.words))
    seconds = timed(settings, models, pieces[TRAIN], args.repeats)
    found = {
        "facts": {**facts, "threads": args.threads},
        "data": text.described(),
        "settings": dataclasses.asdict(settings),
        "tokens a step": settings.batch_size * settings.bptt,
        "seconds": seconds,
        "perplexity": {
            name: trained(settings, model, pieces, args.epochs) for name, model in models.items() if name != HEAD
        },
        "epochs": args.epochs,
    }
    print(json.dumps({name: found[name] for name in ("seconds", "perplexity")}, indent=1))
    if args.out:
        write_whole(args.out, (json.dumps(found, indent=1) + "\n").encode())
        print(f"\nwritten: {args.out}")
    return 0


def settings_of(size: int, reviews: int, num_layers: int = 1) -> LanguageModelSettings:
    return LanguageModelSettings(
        reviews=reviews, n_emb=size, n_hidden=size, num_layers=num_layers, vocab_size=8000, learning_rate=0.004
    )


def models_of(settings: LanguageModelSettings, n_words: int) -> dict[str, LanguageModel]:
    """By layer; all begin with the same weights."""
    models = {}
    first = settings.build(n_words)
    for name, make in LAYERS.items():
        model = copy.deepcopy(first)
        model.rec = nn.ModuleList(make(layer.input_size, layer.hidden_size) for layer in first.rec)
        if name != HEAD:
            with torch.no_grad():
                for weight, initial in zip(model.rec.parameters(), first.rec.parameters(), strict=True):
                    weight.copy_(initial)
        models[name] = model
    return models


def timed(
    settings: LanguageModelSettings, models: dict[str, LanguageModel], pieces: Pieces, repeats: int
) -> dict[str, dict[str, float]]:
    """Seconds of a training step, each model's in turn: median and quartiles. The models are left as they were."""
    steps = {name: step_of(settings, copy.deepcopy(model)) for name, model in models.items()}
    whole = [piece for piece in pieces if piece[0].shape[1] == settings.bptt]
    samples: dict[str, list[float]] = {name: [] for name in steps}
    with no_garbage_collection():
        for k in range(-2, repeats):
            for name, step in steps.items():
                begun = time.perf_counter()
                step(whole[k % len(whole)])
                if k >= 0:
                    samples[name].append(time.perf_counter() - begun)
    return {
        name: dict(zip(("q1", "median", "q3"), statistics.quantiles(sample, n=4, method="inclusive"), strict=True))
        for name, sample in samples.items()
    }


def step_of(settings: LanguageModelSettings, model: LanguageModel) -> Callable[[Any], object]:
    optimizer, reader = make_optimizer(settings, model.train()), Reader()
    rest = (nn.Identity(), "cpu", optimizer, settings.clip, reader.measure, NO_TOKENS)
    return lambda piece: run_batches([piece], model, *rest)


def trained(
    settings: LanguageModelSettings, model: LanguageModel, pieces: dict[str, Pieces], epochs: int
) -> list[float]:
    """Validation perplexity after each epoch."""
    torch.manual_seed(settings.seed)
    optimizer, reader = make_optimizer(settings, model), Reader()
    found = []
    for _ in range(epochs):
        model.train()
        run_batches(pieces[TRAIN], model, nn.Identity(), "cpu", optimizer, settings.clip, reader.measure, NO_TOKENS)
        found.append(score(model, pieces[VALIDATION]).perplexity)
    return found


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="bench.language_model", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    add = found.add_argument
    add(
        "--size", type=positive, default=200, metavar="N", help="numbers per word and units of the layer (default: 200)"
    )
    add("--num-layers", type=positive, default=1, metavar="N", help="recurrent layers (default: 1)")
    add("--reviews", type=positive, default=100, metavar="N", help="to train on (default: 100)")
    add("--threads", type=positive, default=1, metavar="N", help="(default: 1)")
    add("--repeats", type=positive, default=20, metavar="N", help="timed steps of each (default: 20)")
    add("--epochs", type=whole, default=3, metavar="N", help="trained for the perplexities, 0: none (default: 3)")
    add("--out", type=Path, metavar="FILE.json", help="where the results go")
    return found


if __name__ == "__main__":
    sys.exit(main())
