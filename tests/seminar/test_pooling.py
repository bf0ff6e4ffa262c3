"""What the output layer reads, against plain loops: over one text, its padding, and each of its beginnings."""

import pytest
import torch

from rnndrop_cuda.seminar.pooling import POOLINGS, pool, pool_each_step


def by_hand(y, pooling):
    """Of one text [T, H]."""
    if pooling == "last":
        return y[-1]
    columns = [[step[unit].item() for step in y] for unit in range(y.shape[1])]
    mean, most = [sum(column) / len(column) for column in columns], [max(column) for column in columns]
    return torch.tensor([*y[-1].tolist(), *mean, *most], dtype=y.dtype)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_that_of_each_text_alone(pooling):
    torch.manual_seed(0)
    y = torch.randn(5, 3, 4, dtype=torch.float64) - 2  # negative mostly: zeros would be maxima
    lengths = torch.tensor([5, 1, 3])
    with_lengths = pool(y, pooling, lengths)
    assert with_lengths.shape == (3, 4 * POOLINGS[pooling])
    for b, length in enumerate(lengths):
        torch.testing.assert_close(with_lengths[b], by_hand(y[:length, b], pooling))
        torch.testing.assert_close(pool(y, pooling)[b], by_hand(y[:, b], pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_step_is_where_the_text_might_end(pooling):
    y = torch.randn(6, 2, 3, dtype=torch.float64)
    steps = pool_each_step(y, pooling)
    torch.testing.assert_close(steps, torch.stack([pool(y[: t + 1], pooling) for t in range(6)]))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_reach_the_text_and_not_the_padding(pooling):
    y = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([4, 2])
    assert torch.autograd.gradcheck(lambda y: pool(y, pooling, lengths), y)
    (gradient,) = torch.autograd.grad(pool(y, pooling, lengths).sum(), y)
    assert not gradient[4:, 0].any() and not gradient[2:, 1].any()
    assert gradient[3, 0].all() and gradient[1, 1].all()


def test_bfloat16_stays_what_it_is():
    y = torch.randn(5, 2, 3, dtype=torch.bfloat16)
    assert pool(y, "concat", torch.tensor([5, 2])).dtype == pool(y, "concat").dtype == torch.bfloat16
