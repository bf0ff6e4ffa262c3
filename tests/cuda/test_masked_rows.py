"""Rows of several matrices times masks, in one launch of the emulated kernel: the bits of torch's own products."""

from __future__ import annotations

import pytest
import torch

from tests.emulation import toolchain

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def random_matrices(columns, dtype):
    """A matrix for each way to share a mask: all rows, those of a gate, every fifth; and one that is copied."""
    matrices = [torch.randn(rows, columns, dtype=dtype) for rows in (8, 12, 35, 1)]
    masks = [torch.rand(masks, columns).lt(0.5).to(dtype) / 0.3 for masks in (1, 4, 5)]
    return matrices, [*masks, None], [1, 3, 1, 1]


def products(matrices, masks, rows_of_mask):
    """What torch makes of them."""
    expected = []
    for matrix, mask, neighbours in zip(matrices, masks, rows_of_mask, strict=True):
        rows = torch.arange(len(matrix)) // neighbours
        expected.append(matrix.clone() if mask is None else matrix * mask[rows % len(mask)])
    return expected


@pytest.mark.parametrize("columns", [1, 5, 8, 64, 100, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_are_those_of_torch(op, dtype, columns):
    given = matrices, masks, rows_of_mask = random_matrices(columns, dtype)
    expected = products(*given)
    for schedule in toolchain.SCHEDULES:
        op.set_schedule(schedule)
        out = [torch.full_like(matrix, float("nan")) for matrix in matrices]
        before = op.launches()
        op.mask_rows(matrices, out, masks, rows_of_mask)
        assert op.launches() == before + 1
        assert all(map(torch.equal, out, expected))
    op.set_schedule(toolchain.SCHEDULES[0])
    op.mask_rows(matrices, matrices, masks, rows_of_mask)
    assert all(map(torch.equal, matrices, expected))


@pytest.mark.parametrize("unaligned", ["matrices", "out", "masks"])
def test_whatever_begins_where_no_access_of_16_bytes_may(op, unaligned):
    def one_element_on(tensor):
        return torch.empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)

    matrices, masks, rows_of_mask = random_matrices(64, torch.float32)
    expected = products(matrices, masks, rows_of_mask)
    given = {"matrices": matrices, "out": [torch.empty_like(matrix) for matrix in matrices], "masks": masks[:3]}
    given[unaligned] = [*map(one_element_on, given[unaligned])]
    assert all(tensor.data_ptr() % 16 for tensor in given[unaligned])
    op.mask_rows(given["matrices"], given["out"], [*given["masks"], None], rows_of_mask)
    assert all(map(torch.equal, given["out"], expected))


def test_what_is_empty_is_left_out(op):
    before, some = op.launches(), torch.randn(2, 3)
    empty = [torch.empty(0, 4), torch.empty(4, 0)]
    op.mask_rows(empty, empty, [torch.ones(1, 4), None], [1, 1])
    assert op.launches() == before
    out = torch.empty_like(some)
    op.mask_rows([empty[0], some, empty[1]], [empty[0], out, empty[1]], [None] * 3, [1] * 3)
    assert op.launches() == before + 1
    assert torch.equal(out, some)


def test_more_matrices_than_a_launch_takes_are_refused(op):
    matrices = [torch.randn(2, 3) for _ in range(5)]
    with pytest.raises(RuntimeError, match="CUDA error"):
        op.mask_rows(matrices, matrices, [None] * 5, [1] * 5)
