"""The training of `rnndrop compare`: one layer after another, from the same weights on the same reviews."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rnndrop_cuda.seminar.data.reviews import Reviews
from rnndrop_cuda.seminar.layers import lstm_weights
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.settings import Layer, RunSettings
from rnndrop_cuda.seminar.training.batches import Batch, Parts
from rnndrop_cuda.seminar.training.loop import Epoch, evaluate, fit, train_epoch
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop


@dataclass(frozen=True, kw_only=True)
class CompareSettings(RunSettings):
    """What the figures of every layer depend on; `layer` is the one that is trained."""

    def shared(self) -> dict[str, Any]:
        """All but the layer, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "layer"}

    def build_alike(self, *, sparse: bool = False) -> RNNClassifier:
        """The classifier with the weights that nn.LSTM's classifier draws from the same seed, whatever the layer."""
        first = dataclasses.replace(self, layer="nn.LSTM").build()
        model = self.build(sparse=sparse)
        model.word_embeddings.load_state_dict(first.word_embeddings.state_dict())
        model.output.load_state_dict(first.output.state_dict())
        with torch.no_grad():
            for weight, initial in zip(lstm_weights(model.rec_layer), lstm_weights(first.rec_layer), strict=True):
                weight.copy_(initial)
        return model


class Training:
    """Trains the layer of the settings. `result` is what results.json says of it, complete once `run` has ended.

    result: "parameters" of the layer; "epochs", Epoch.row of each, the training part as met in training, dropout on;
    "train_loss" and "train_accuracy" of the trained model on the reviews it was trained on, dropout off.
    """

    def __init__(self, settings: CompareSettings, reviews: Reviews, device: torch.device) -> None:
        self.settings, self.device = settings, device
        order = torch.Generator().manual_seed(settings.seed)
        self.parts = Parts(reviews, settings.batch_size, device, order, validation=settings.validation)
        # On CUDA the host would wait for every step to say how many words it met; dense gradients need no waiting.
        self.model = settings.build_alike(sparse=device.type == "cpu").to(device)
        parameters = sum(p.numel() for p in self.model.rec_layer.parameters())
        self.result: dict[str, Any] = {"parameters": parameters, "epochs": []}

    @property
    def steps(self) -> int:
        """Batches in all."""
        return self.settings.epochs * self.parts.steps_an_epoch + len(self.parts.train)

    def run(self, feed: Callable[[Iterable[Batch]], Iterable[Batch]] = lambda batches: batches) -> Iterator[Epoch]:
        """Yields each epoch when it is in the result. feed: what the batches pass through, such as a progress bar."""
        settings, lossfun = self.settings, nn.BCELoss(reduction="sum")
        optimizer = LazyRMSprop(self.model.parameters(), lr=settings.learning_rate)
        torch.manual_seed(settings.seed)
        for epoch in fit(
            self.model, lossfun, optimizer, self.device, self.parts.train, self.parts.scored, settings.epochs,
            feed=lambda part, batches: feed(batches),
        ):  # fmt: skip
            self.result["epochs"].append(epoch.row())
            yield epoch
        as_trained = evaluate(feed(self.parts.train_in_order()), self.model, lossfun, self.device)
        self.result |= {"train_loss": as_trained.loss, "train_accuracy": as_trained.accuracy}


def time_in_turn(
    layers: Sequence[Layer], settings: CompareSettings, reviews: Reviews, device: torch.device, rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds of a training step by the layer's label: {"median", "lower", "upper"}, the latter two the quartiles.

    Beside them what they are of: {"rounds", "reviews"}, the latter those of a step's batch.

    A step is forward, loss, backward and the optimizer's, of a fresh model, on one batch of the training reviews. In
    every round each layer takes one, after one that is not counted, so that other work on the machine slows all alike.
    """
    order = torch.Generator().manual_seed(settings.seed)
    parts = Parts(reviews, settings.batch_size, device, order, validation=settings.validation)
    batch, lossfun = next(iter(parts.train)), nn.BCELoss(reduction="sum")
    models = {
        layer.label: dataclasses.replace(settings, layer=str(layer)).build(sparse=device.type == "cpu").to(device)
        for layer in layers
    }
    optimizers = {name: LazyRMSprop(model.parameters(), lr=settings.learning_rate) for name, model in models.items()}

    def step(name: str) -> float:
        begun = time.perf_counter()
        train_epoch([batch], models[name], lossfun, optimizers[name], device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    for name in models:
        step(name)
    times = [{name: step(name) for name in models} for _ in range(rounds)]
    found = {}
    for name in models:
        lower, median, upper = statistics.quantiles([taken[name] for taken in times], method="inclusive")
        found[name] = {
            "median": median, "lower": lower, "upper": upper, "rounds": rounds, "reviews": len(batch[1]),
        }  # fmt: skip
    return found
