"""The CUDA kernel that draws all masks of a call, emulated: bit for bit what the CPU's op makes of the same seeds.

What the seeds are, a generator's state says by Philox4x32-10, which is written down here once more.
"""

from __future__ import annotations

import math

import pytest
import torch

from rnndrop_cuda import LSTM
from rnndrop_cuda.masks import plan
from tests.emulation import toolchain
from tests.mask_bits import expand, needs_op, random_seed

pytestmark = needs_op
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(5,), (31,), (0, 4), (64,), (2, 3, 9001), (), (65,), (8192,), (8193,), (3, 8191)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(2026)


def philox(key: int, counter: list[int]) -> list[int]:
    """Ten rounds, as Salmon et al. have them."""
    k, x = [key % 2**32, key >> 32], counter
    for _ in range(10):
        p, q = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(q >> 32) ^ x[1] ^ k[0], q % 2**32, (p >> 32) ^ x[3] ^ k[1], p % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return x


def seed_of(key: int, offset: int, mask: int) -> torch.Tensor:
    block = offset // 4
    words = philox(key, [block % 2**32, block >> 32, mask % 2**32, mask >> 32])[:3]
    return torch.tensor([word - 2**32 if word >= 2**31 else word for word in words], dtype=torch.int32)


def test_philox_here_is_philox():
    """The vectors published with Random123."""
    assert philox(0, [0] * 4) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 2**32 - 1
    assert philox(2**64 - 1, [ones] * 4) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert philox(0x299F31D0A4093822, pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_seed_gives_the_same_mask_on_cpu_and_cuda(op, dtype):
    for shape in SHAPES:
        for drop in (0, 1, 20_000, 2**15, 2**16 - 1):
            arguments = (random_seed(), shape, drop, -0.3, 1.7, dtype)
            assert torch.equal(op.expand_dropout_mask(*arguments), expand(*arguments))
    seeds = random_seed(2, 5).transpose(0, 1)
    for shape in ((7, 9001), (3,), (0,)):
        arguments = (seeds, shape, 20_000, 0.0, 2.0, dtype)
        assert torch.equal(op.expand_dropout_mask(*arguments), expand(*arguments))
    assert op.expand_dropout_mask(random_seed(0), (4,), 5, 0.0, 1.0, dtype).shape == (0, 4)


def draw(op, shapes, drop, dropped, kept, dtype=torch.float32):
    dims, sizes = [len(shape) for shape in shapes], [size for shape in shapes for size in shape]
    return op.draw_dropout_masks(dims, sizes, drop, dropped, kept, dtype)


@pytest.mark.parametrize("captured", [False, True], ids=["", "captured"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_masks_of_a_call_are_one_launch(op, dtype, captured):
    drop = [1, 20_000, 7, 2**15, 2**16 - 1, 300, 9, 30_000, 11, 40_000]
    dropped, kept = [k / 8 for k in range(10)], [-1 - k / 4 for k in range(10)]
    key, offset = 0x123456789ABCDEF0, 4 * 2**33 + 8
    op.set_generator(key, offset, captured)
    for schedule in toolchain.SCHEDULES:
        op.set_schedule(schedule)
        before, launches = op.generator_offset(), op.launches()
        masks = draw(op, SHAPES, drop, dropped, kept, dtype)
        assert op.launches() == launches + 1
        assert op.generator_offset() == before + 4
        for k, (mask, *of_one) in enumerate(zip(masks, SHAPES, drop, dropped, kept, strict=True)):
            assert torch.equal(mask, expand(seed_of(key, before, k), *of_one, dtype))
    op.set_schedule(toolchain.SCHEDULES[0])


def test_more_masks_than_a_launch_takes(op):
    n = 101
    op.set_generator(7, 0, False)
    before = op.launches()
    masks = draw(op, [(k,) for k in range(n)], [2**15] * n, [0.0] * n, [2.0] * n)
    assert op.launches() == before + math.ceil(n / 48)
    for k, mask in enumerate(masks):
        assert torch.equal(mask, expand(seed_of(7, 0, k), (k,), 2**15, 0.0, 2.0))


def test_nothing_to_draw_is_no_launch(op):
    op.set_generator(7, 4, False)
    before = op.launches()
    assert draw(op, [], [], [], []) == []
    assert op.generator_offset() == 4
    assert draw(op, [(0,), (3, 0)], [1, 2], [0.0, 0.0], [1.0, 1.0])[1].shape == (3, 0)
    assert op.launches() == before


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("gates", ["tied", "untied"])
@pytest.mark.parametrize("candidate", ["step", "sequence"])
def test_every_noise_of_a_layer(op, scope, gates, candidate):
    every = dict.fromkeys(
        ("input_dropout", "hidden_dropout", "candidate_dropout", "weight_dropout", "dropout", "cell_dropout",
         "hidden_zoneout", "cell_zoneout"), 0.3,
    )  # fmt: skip
    options = {"mask_scope": scope, "gate_masks": gates, "candidate_mask": candidate}
    layer = LSTM(5, 7, num_layers=2, bidirectional=True, proj_size=3, **every, **options)
    what = plan(layer, 4, 6)
    op.set_generator(99, 0, False)
    before = op.launches()
    masks = op.draw_dropout_masks(*what.at_once, torch.float32)
    assert op.launches() == before + 1
    assert len(masks) == 4 * 8 - 2  # no dropout behind the last layer
    for k, (mask, (shape, p, (dropped, kept))) in enumerate(zip(masks, what.wanted, strict=True)):
        assert torch.equal(mask, expand(seed_of(99, 0, k), shape, round(p * 2**16), dropped, kept))


@pytest.mark.parametrize("dims", [[2], [-1]])
def test_bad_arguments(op, dims):
    with pytest.raises(RuntimeError, match="sizes: expected"):
        op.draw_dropout_masks(dims, [4], [1], [0.0], [1.0], torch.float32)
    with pytest.raises(ValueError, match="seed: expected dtype int32"):
        op.expand_dropout_mask(torch.zeros(3), (4,), 1, 0.0, 1.0, torch.float32)
