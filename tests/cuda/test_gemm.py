"""What the CUDA backend tells cuBLAS of row-major matrices, acted on by a plain column-major GEMM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

SIZES = [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1), (0, 4, 5), (3, 0, 5), (3, 4, 0)]


def dense(rows: int, cols: int) -> Tensor:
    return torch.randn(rows, cols, dtype=torch.float64)


def transposed(rows: int, cols: int) -> Tensor:
    return dense(cols, rows).t()


def wide_rows(rows: int, cols: int) -> Tensor:
    return dense(rows, cols + 3)[:, 1 : cols + 1]


def wide_columns(rows: int, cols: int) -> Tensor:
    return wide_rows(cols, rows).t()


def odd_strides(rows: int, cols: int) -> Tensor:
    """Dense, with any number as the stride of a dimension of size 1: torch leaves such behind."""
    strides = (max(cols, 1) if rows != 1 else 0, 1 if cols != 1 else 77)
    return dense(rows, cols).as_strided((rows, cols), strides)


LAYOUTS = [dense, transposed, wide_rows, wide_columns, odd_strides]


@pytest.mark.parametrize("accumulate", [False, True], ids=["", "accumulate"])
@pytest.mark.parametrize("layout_out", [dense, wide_rows, odd_strides])
@pytest.mark.parametrize("layout_b", LAYOUTS)
@pytest.mark.parametrize("layout_a", LAYOUTS)
def test_product(op, layout_a, layout_b, layout_out, accumulate):
    for M, N, K in SIZES:
        a, b, out = layout_a(M, K), layout_b(K, N), layout_out(M, N)
        expected = a @ b + out if accumulate else a @ b
        op.gemm(out, a, b, accumulate)
        torch.testing.assert_close(out, expected, msg=lambda m, size=(M, N, K): f"M, N, K = {size}: {m}")


@pytest.mark.parametrize(
    ("out", "a", "b", "message"),
    [
        (transposed(3, 4), dense(3, 5), dense(5, 4), "out is not row-major"),
        (dense(3, 4), dense(6, 10)[::2, ::2], dense(5, 4), "a is neither row-major nor"),
        (dense(3, 4), dense(3, 5), dense(5, 1).expand(5, 4), "b is neither row-major nor"),
        (dense(3, 4), dense(3, 5), dense(1, 4).expand(5, 4), "b is neither row-major nor"),
        (dense(3, 4), dense(3, 5), dense(4, 5), "shapes"),
        (dense(3, 4), dense(4, 5), dense(5, 4), "shapes"),
        (dense(3, 4), dense(3, 5), dense(5, 3), "shapes"),
    ],
)
def test_what_cublas_cannot_read_is_refused(op, out, a, b, message):
    with pytest.raises(ValueError, match=message):
        op.gemm(out, a, b, False)
