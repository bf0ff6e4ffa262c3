"""The training of `rnndrop compare`: every layer starts from nn.LSTM's weights."""

import dataclasses

import torch

from rnndrop_cuda.seminar.commands import compare
from rnndrop_cuda.seminar.layers import lstm_weights
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.comparison import CompareSettings


def test_every_layer_starts_from_the_same_weights():
    settings = CompareSettings(vocab_size=20, n_emb=6, n_hidden=4, seed=3)
    models = [dataclasses.replace(settings, layer=text).build_alike() for text in compare.COMPARED]
    torch.manual_seed(3)
    expected = RNNClassifier(6, 4, 20, 1, 16)
    for model in models:
        assert torch.equal(model.word_embeddings.weight, expected.word_embeddings.weight)
        assert torch.equal(model.output.weight, expected.output.weight)
        for weight, first in zip(lstm_weights(model.rec_layer), lstm_weights(expected.rec_layer), strict=True):
            assert torch.equal(weight, first)
