"""Pieces of text: every token is a target once, rows go on from piece to piece, what pads does not count."""

import pytest
import torch

from rnndrop_cuda.seminar.data.text import PADDING
from rnndrop_cuda.seminar.language_model.pieces import Pieces


@pytest.mark.parametrize("n, rows, steps", [(2, 1, 5), (11, 4, 2), (12, 4, 2), (37, 5, 3), (100, 7, 100), (3, 8, 1)])
def test_every_token_is_a_target_once_after_the_one_before_it(n, rows, steps):
    ids = torch.arange(4, 4 + n)
    pieces = list(Pieces(ids, rows, steps, torch.device("cpu")))
    assert len(pieces) == len(Pieces(ids, rows, steps, torch.device("cpu")))
    inputs, targets = (torch.cat([piece[k] for piece in pieces], dim=1) for k in (0, 1))
    assert inputs.shape[0] == min(rows, n - 1)
    counts = targets != PADDING
    assert torch.equal(targets[counts], ids[1:])
    assert torch.equal(inputs[counts], ids[:-1])
    assert [bool(piece[2].all()) for piece in pieces] == [True, *[False] * (len(pieces) - 1)]
    assert max(piece[0].shape[1] for piece in pieces) <= steps


def test_a_text_without_a_target_is_refused():
    with pytest.raises(ValueError, match="ids: expected at least two, got 1"):
        Pieces(torch.tensor([1]), 1, 1, torch.device("cpu"))
