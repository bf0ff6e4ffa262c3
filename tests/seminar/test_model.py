"""The classifier: what the seminar defines, and reviews of their own lengths whose padding it does not see."""

import functools

import pytest
import torch
from ragged_rows import V, some_rows
from torch import nn

from rnndrop_cuda.presets import GalLSTM, SemeniutaLSTM
from rnndrop_cuda.seminar.layers import FastRNNLayer, MyLSTM, RNNLayer
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.pooling import POOLINGS
from rnndrop_cuda.seminar.training.batches import LengthBatches


def test_the_model_is_what_the_seminar_defines():
    plain = RNNClassifier(5, 7, 11, 2, 3)
    assert isinstance(plain.rec_layer, nn.LSTM)
    ids = torch.randint(0, 11, (4, 3))
    out, _ = plain.rec_layer(plain.word_embeddings(ids))
    expected = torch.sigmoid(out[-1] @ plain.output.weight.T + plain.output.bias)
    torch.testing.assert_close(plain(ids), expected)
    assert RNNClassifier(5, 7, 11, 1, 3, FastRNNLayer, dropout=0.25).rec_layer.dropout == 0.25
    sparse = RNNClassifier(5, 7, 11, 1, 3, embedding=lambda n, d: nn.Embedding(n, d, sparse=True))
    assert sparse.word_embeddings.sparse


LAYERS = {
    "nn.LSTM": nn.LSTM,
    "two layers of nn.LSTM": functools.partial(nn.LSTM, num_layers=2),
    "GalLSTM": functools.partial(GalLSTM, dropout=0.5),
    "SemeniutaLSTM": functools.partial(SemeniutaLSTM, dropout=0.5),
    "two layers of GalLSTM": functools.partial(GalLSTM, num_layers=2),
}


def test_the_output_layer_may_read_the_mean_and_the_maximum_too():
    torch.manual_seed(0)
    model = RNNClassifier(5, 7, 11, 1, 3, pooling="concat")
    ids = torch.randint(0, 11, (4, 3))
    out, _ = model.rec_layer(model.word_embeddings(ids))
    last, mean, most = (weight[0] for weight in model.output.weight.split(7, 1))
    logits = out[-1] @ last + out.mean(0) @ mean + out.amax(0) @ most + model.output.bias
    torch.testing.assert_close(model(ids)[:, 0], torch.sigmoid(logits))
    with pytest.raises(ValueError, match="pooling: expected one of last, concat, got 'mean'"):
        RNNClassifier(5, 7, 11, 1, 3, pooling="mean")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_padded_review_gives_what_it_gives_alone(layer, pooling):
    torch.manual_seed(0)
    model = RNNClassifier(6, 8, V, 1, 5, rec_layer=layer, pooling=pooling).double().eval()
    rows = some_rows([9, 1, 4, 9, 17])
    ((ids, order, lengths),) = LengthBatches(rows, torch.arange(5), 5)
    together = model(ids.T, lengths)
    alone = torch.cat([model(torch.from_numpy(rows[i])[:, None]) for i in order])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert together.std() > 0, "the reviews differ"
    assert (model(ids.T) - alone).abs().max() > 1e-3, "without lengths the padding is seen"

    weights = list(model.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(together.log().sum(), weights), torch.autograd.grad(alone.log().sum(), weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [RNNLayer, FastRNNLayer, MyLSTM])
def test_a_layer_that_knows_no_lengths_is_refused(layer):
    model = RNNClassifier(6, 8, V, 1, 2, rec_layer=layer)
    ids = torch.ones(3, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match=f"lengths: expected none with a {layer.__name__}"):
        model(ids, torch.tensor([3, 2]))
