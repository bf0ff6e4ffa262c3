"""The op that expands a seed to a mask: its generator to the bit, on every vector width and number of threads."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from rnndrop_cuda import ops
from tests.mask_bits import assert_uncorrelated, expand, needs_op, random_seed


def expected_words(seed, n):
    """The 16 bits that decide each of n entries: sfc32, 32 lanes abreast, anew every 128 steps."""
    steps, lanes = 128, 32
    number = np.arange(-(-n // (2 * steps * lanes)) * lanes, dtype=np.uint32)
    a, b, c = (np.full_like(number, np.uint32(word % 2**32)) for word in seed.tolist())
    words = []
    for step in range(16 + steps):
        word = a + b + number
        number = number + np.uint32(1)
        a, b, c = b ^ b >> 9, c + (c << 3), (c << 21 | c >> 11) + word
        if step >= 16:
            words += [word >> 16, word & 0xFFFF]
    return torch.from_numpy(np.stack(words).reshape(2 * steps, -1, lanes).swapaxes(0, 1).flatten()[:n].astype(np.int64))


@needs_op
@pytest.mark.parametrize("n", [1, 31, 33, 63, 64, 65, 300, 8191, 8192, 8193, 70_001])
def test_the_op_is_sfc32_to_the_bit(n):
    for seed in (*random_seed(3), torch.zeros(3, dtype=torch.int32)):
        words = expected_words(seed, n)
        for drop in (0, 1, 19661, 2**15, 2**16 - 1, int(words[-1]), min(int(words[-1]) + 1, 2**16 - 1)):
            for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
                expected = torch.where(words < drop, -0.3, 1.7).to(dtype)
                if dtype == torch.float64:
                    expected = torch.where(words < drop, torch.tensor(-0.3, dtype=dtype), 1.7)
                assert torch.equal(expand(seed, (n,), drop, -0.3, 1.7, dtype), expected)


@needs_op
def test_the_ops_bits_are_uniform():
    """Chi-square of how many of an entry's 16 bits fall into each of 256 equal parts."""
    n, seed = 2**20, random_seed()
    below = torch.tensor([n - int(expand(seed, (n,), 256 * k).count_nonzero()) for k in range(256)] + [n])
    expected = n / 256
    chi_square = ((below.diff() - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) <= 5 * (2 * 255) ** 0.5


@needs_op
@pytest.mark.parametrize("word", [0, 1, 2])
def test_the_ops_seeds_that_differ_by_one_bit_are_independent(word):
    seed = random_seed()
    mask = expand(seed, (2**16,), 2**15, kept=2.0)
    for bit in range(31):
        other = seed.clone()
        other[word] ^= 1 << bit
        of_other = expand(other, (2**16,), 2**15, kept=2.0)
        for lag in (0, 1, 2, 32, 64, 2**13):
            assert_uncorrelated(mask[lag:], of_other[: mask.numel() - lag])
            assert_uncorrelated(of_other[lag:], mask[: mask.numel() - lag])


@needs_op
def test_many_seeds_give_each_its_mask():
    seeds = random_seed(2, 5).transpose(0, 1)
    masks = expand(seeds, (7, 9001), 20_000)
    assert masks.shape == (5, 2, 7, 9001)
    for j in range(5):
        for k in range(2):
            assert torch.equal(masks[j, k], expand(seeds[j, k], (7, 9001), 20_000))
    assert expand(random_seed(0), (4,), 5).shape == (0, 4)
    assert expand(random_seed(2), (4, 0), 5).shape == (2, 4, 0)


@needs_op
def test_the_op_under_vmap_equals_a_loop():
    def of(seed):
        return expand(seed, (5, 3), 30_000)

    seeds = random_seed(2, 4)
    expected = expand(seeds, (5, 3), 30_000)
    assert torch.equal(torch.vmap(torch.vmap(of))(seeds), expected)
    assert torch.equal(torch.vmap(of, in_dims=1)(seeds[0].T), expected[0])


def draw(shapes, drop, dropped, kept, dtype=torch.float32, generator=None, device=None):
    dims, sizes = [len(shape) for shape in shapes], [size for shape in shapes for size in shape]
    return torch.ops.rnndrop.draw_dropout_masks(dims, sizes, drop, dropped, kept, dtype, device, generator)


@needs_op
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_masks_drawn_at_once_have_torchs_seeds(dtype):
    shapes, drop = [(5,), (2, 3, 9001), (), (0, 4), (70_001,)], [1, 20_000, 2**15, 7, 2**16 - 1]
    dropped, kept = [0.0, -0.3, 1.0, 0.0, 0.5], [2.0, 1.7, 0.0, 1.0, 3.0]
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    masks = draw(shapes, drop, dropped, kept, dtype, generators[0])
    assert len(masks) == len(shapes)
    for mask, *of_one in zip(masks, shapes, drop, dropped, kept, strict=True):
        seed = torch.randint(-(2**31), 2**31, (3,), dtype=torch.int32, generator=generators[1])
        assert torch.equal(mask, expand(seed, *of_one, dtype))
    assert torch.equal(*(generator.get_state() for generator in generators))
    assert draw([], [], [], []) == []


@needs_op
def test_masks_are_drawn_by_a_generator_of_their_device():
    like, generator = torch.empty(3, device="meta"), torch.Generator()
    with pytest.raises(RuntimeError, match="generator: expected one on meta, where the masks are, got one on cpu"):
        ops.draw_dropout_masks([1], [3], [7], [0.0], [2.0], like, generator)


@needs_op
def test_masks_on_a_device_without_kernels():
    """Not a call of itself without end."""
    with pytest.raises(RuntimeError, match="device: no kernel of this build draws masks on mps"):
        draw([(3,)], [7], [0.0], [2.0], device=torch.device("mps"))


@needs_op
@pytest.mark.parametrize(
    ("dims", "sizes", "drop", "message"),
    [
        ([1], [4], [1, 2], "for each of 1 masks"),
        ([2], [4], [1], "sizes: expected"),
        ([-1], [4], [1], "sizes: expected"),
        ([1], [-4], [1], "negative"),
        ([1], [4], [2**16], "drop: expected one of"),
    ],
)
def test_bad_arguments_of_masks_at_once(dims, sizes, drop, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        torch.ops.rnndrop.draw_dropout_masks(dims, sizes, drop, [0.0], [1.0], torch.float32)


@needs_op
def test_opcheck_of_masks_at_once():
    arguments = ([1, 2], [3, 2, 5], [7, 8], [0.0, 1.0], [1.5, 0.0], torch.float32)
    torch.library.opcheck(torch.ops.rnndrop.draw_dropout_masks, arguments)


@needs_op
def test_opcheck_of_the_mask():
    for seed, shape, dtype in ((random_seed(), (3, 5), torch.float32), (random_seed(2), (), torch.bfloat16)):
        torch.library.opcheck(torch.ops.rnndrop.expand_dropout_mask, (seed, shape, 7, 0.0, 1.5, dtype))


@needs_op
@pytest.mark.parametrize(
    ("seed", "shape", "drop", "dtype", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), (4,), 1, torch.float32, "seed: expected dtype int32"),
        (torch.zeros(2, dtype=torch.int32), (4,), 1, torch.float32, r"seed: expected shape \[..., 3\], got \[2\]"),
        (torch.zeros((), dtype=torch.int32), (4,), 1, torch.float32, "seed: expected shape"),
        (torch.zeros(3, dtype=torch.int32), (4,), -1, torch.float32, "drop: expected one of"),
        (torch.zeros(3, dtype=torch.int32), (4,), 2**16, torch.float32, "drop: expected one of"),
        (torch.zeros(3, dtype=torch.int32), (4,), 1, torch.int32, "dtype: expected float64, float32"),
        (torch.zeros(3, dtype=torch.int32), (-1,), 1, torch.float32, "negative"),
    ],
)
def test_bad_arguments_of_the_op(seed, shape, drop, dtype, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        expand(seed, shape, drop, dtype=dtype)


def digest_of_masks():
    """Of masks of one piece and of many, in every dtype."""
    seeds = torch.arange(-3, 3, dtype=torch.int32).view(2, 3) * 123_456_789
    digest = hashlib.sha256()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for shape in ((1,), (129,), (33, 8193)):
            digest.update(expand(seeds, shape, 12_345, -1.0, 1 / 3, dtype).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.slow
@needs_op
def test_the_same_bits_with_any_vector_width():
    program = (
        "from tests.test_ops_masks import digest_of_masks; from rnndrop_cuda import _C; "
        "print(digest_of_masks(), _C.vector_isa())"
    )
    capabilities = ["default", "avx2", "avx512"]  # torch does as it is asked, also where that is an illegal instruction
    widest = torch.backends.cpu.get_cpu_capability().lower()
    usable = capabilities[: capabilities.index(widest) + 1] if widest in capabilities else ["default"]
    expected = digest_of_masks()
    for capability in usable:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=os.path.dirname(os.path.dirname(__file__)),
            env=os.environ | {"ATEN_CPU_CAPABILITY": capability}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        isa = {"default": "baseline"}.get(capability, capability.upper())
        assert done.stdout.split() == [expected, isa]


@needs_op
def test_the_same_bits_on_any_number_of_threads():
    before, digests = torch.get_num_threads(), set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        digests.add(digest_of_masks())
    torch.set_num_threads(before)
    assert len(digests) == 1
