"""What is trained in which epoch, from the output layer down to the embedding."""

import pytest
from torch import nn

from rnndrop_cuda.seminar.settings import ModelSettings
from rnndrop_cuda.seminar.training.unfreezing import unfreeze

OUTPUT, EMBEDDING = {"output.weight", "output.bias"}, {"word_embeddings.weight"}


def layer(k: int) -> set[str]:
    return {f"rec_layer.{name}_l{k}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


def trained(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("name", ["nn.LSTM", "GalLSTM:0.5"])
def test_layer_by_layer(name):
    model = ModelSettings(layer=name, num_layers=2, n_emb=3, n_hidden=4).build_model(9)
    expected = [OUTPUT, OUTPUT | layer(1), OUTPUT | layer(1) | layer(0), OUTPUT | layer(1) | layer(0) | EMBEDDING]
    for epoch, names in enumerate([*expected, expected[-1]], start=1):
        unfreeze(model, epoch)
        assert trained(model) == names
    unfreeze(model, 1)
    assert trained(model) == OUTPUT, "a run that is resumed"
    model.word_embeddings.requires_grad_(False)
    unfreeze(model, 9, embedding=False)
    assert trained(model) == OUTPUT | layer(1) | layer(0)


@pytest.mark.parametrize("name", ["RNNLayer:0.5", "FastRNNLayer:0.5", "MyLSTM:0.5"])
def test_every_layer_has_its_turn(name):
    model = ModelSettings(layer=name, n_emb=3, n_hidden=4).build_model(9)
    everything = trained(model)
    for epoch, names in enumerate([OUTPUT, everything - EMBEDDING, everything], start=1):
        unfreeze(model, epoch)
        assert trained(model) == names
