"""What the tests of masks share: the op that expands them, and statistics."""

import pytest
import torch

from rnndrop_cuda import ops

needs_op = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="rnndrop_cuda was built without CPU kernels")


def expand(seed, shape, drop, dropped=0.0, kept=1.0, dtype=torch.float32):
    return torch.ops.rnndrop.expand_dropout_mask(seed, shape, drop, dropped, kept, dtype)


def random_seed(*shape):
    return torch.randint(-(2**31), 2**31, (*shape, 3), dtype=torch.int32)


def assert_uncorrelated(a, b, p=0.5):
    """Of two masks, whose entries have mean 1 and variance p/(1-p)."""
    n = a.numel()
    assert abs(((a.flatten() - 1) @ (b.flatten() - 1)).item()) <= 5 * n**0.5 * p / (1 - p)
