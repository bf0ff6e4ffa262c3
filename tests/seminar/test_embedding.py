"""The embedding's dropout: of words wherever they stand, or of single numbers."""

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
