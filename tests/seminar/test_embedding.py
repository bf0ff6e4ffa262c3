"""The embedding's dropout: of words wherever they stand, or of single numbers."""

import pytest
import torch

from rnndrop_cuda.seminar.embedding import DroppingEmbedding


def test_a_dropped_word_is_dropped_wherever_it_stands():
    embedding = DroppingEmbedding(1000, 3, 0.25)
    ids = torch.arange(1000).repeat(2, 1)
    x = embedding(ids)
    dropped = (x == 0).all(-1)
    assert torch.equal(dropped[0], dropped[1])
    assert 0.2 < dropped[0].float().mean() < 0.3
    torch.testing.assert_close(x[~dropped], embedding.eval()(ids)[~dropped] / 0.75)


def test_elements_are_dropped_as_nn_dropout_drops_them():
    embedding = DroppingEmbedding(50, 8, 0.3, scope="element")
    ids = torch.randint(0, 50, (5, 3))
    torch.manual_seed(1)
    x = embedding(ids)
    torch.manual_seed(1)
    assert torch.equal(x, torch.nn.Dropout(0.3)(embedding.weight[ids]))
    assert torch.equal(embedding.eval()(ids), embedding.weight[ids])


def test_a_scope_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="scope: expected one of word, element, got 'letter'"):
        DroppingEmbedding(50, 8, 0.3, scope="letter")
