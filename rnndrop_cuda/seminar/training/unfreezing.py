"""Gradual unfreezing: what is pretrained is not spoiled by the gradients of an output layer that knows nothing yet."""

from __future__ import annotations

import re

from torch import nn

from rnndrop_cuda.seminar.model import RNNClassifier


def unfreeze(model: RNNClassifier, epoch: int, *, embedding: bool = True) -> None:
    """Lets so many groups be trained: 1 the output layer, 2 the top layer of the LSTM too, and so on to the embedding.

    Howard & Ruder, ACL 2018, section 3.3: epochs count from 1, and each one thaws the next group. embedding: whether it
    has its turn.
    """
    groups = groups_of(model)
    for number, group in enumerate(groups if embedding else groups[:-1], start=1):
        for weight in group:
            weight.requires_grad_(number <= epoch)


def groups_of(model: RNNClassifier) -> list[list[nn.Parameter]]:
    """The weights from the output layer down to the embedding, a group for each layer of the LSTM."""
    layers: dict[int, list[nn.Parameter]] = {}
    for name, weight in model.rec_layer.named_parameters():
        layer = re.search(r"_l(\d+)", name)  # where there is only one, it need not say so
        layers.setdefault(int(layer[1]) if layer else 0, []).append(weight)
    from_the_top = [layers[k] for k in sorted(layers, reverse=True)]
    return [[*model.output.parameters()], *from_the_top, [*model.word_embeddings.parameters()]]
