"""Statistics of every mask that the layers draw: keep rate, scale, shared where it must be, fresh where it must be.

Seeds are fixed and bounds are five standard deviations: what passes once passes always.
"""

import itertools
import re

import pytest
import torch

from rnndrop_cuda import LSTM, GalLSTM, SemeniutaLSTM, dropout_mask, ops
from rnndrop_cuda.masks import LayerMasks, noise, noises_on
from rnndrop_cuda.noises import NOISES, sizes_by_name
from tests.mask_bits import assert_uncorrelated, needs_op

T, B, I, H = 40, 50, 30, 20
P = 0.3


@pytest.fixture(params=[pytest.param("op", marks=needs_op), "torch"])
def path(request, monkeypatch):
    """Masks from the op, then as they are drawn where there is no kernel for it."""
    if request.param == "torch":
        monkeypatch.setattr(ops, "HAS_CPU_KERNELS", False)


def assert_is_dropout_mask(mask, shape, p):
    """Right shape and values, and a keep rate within five standard deviations."""
    assert mask.shape == shape
    kept = mask != 0
    assert torch.equal(mask[kept], torch.full_like(mask[kept], 1 / (1 - p)))
    n = mask.numel()
    assert abs(kept.double().mean() - (1 - p)) <= 5 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_dropout_mask(p, dtype, path):
    mask = dropout_mask((201, 303), p, dtype=dtype)
    assert mask.dtype == dtype
    assert_is_dropout_mask(mask, (201, 303), p)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 5)])
def test_dropout_mask_of_any_shape(shape, path):
    assert dropout_mask(shape, 0.5).shape == shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dropout_mask_in_half_precision(dtype, path):
    mask = dropout_mask((200, 300), 0.5, dtype=dtype)
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, 2.0}


def test_dropout_mask_at_the_ends():
    assert torch.equal(dropout_mask((3, 4), 0), torch.ones(3, 4))
    assert torch.equal(dropout_mask((3, 4), 1), torch.zeros(3, 4))
    assert torch.equal(dropout_mask((3, 4), 1.0), torch.zeros(3, 4))


@pytest.mark.parametrize("drop", [1, 2, 1000, 2**16 - 1])
def test_probabilities_are_exact_to_16_bits(drop, path):
    n, p = 2**24, drop / 2**16
    dropped = n - int(dropout_mask((n,), p).count_nonzero())
    assert abs(dropped - n * p) <= 5 * (n * p * (1 - p)) ** 0.5


def test_what_is_less_than_half_a_step_of_16_bits_is_nothing():
    assert dropout_mask((10_000,), 2**-18).all()
    assert not dropout_mask((10_000,), 1 - 2**-18).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_noise_of_any_two_values(dtype, path):
    mask = noise((300, 300), 0.25, dropped=3.0, kept=-0.1, dtype=dtype)
    assert mask.dtype == dtype
    assert torch.equal(mask.unique(), torch.tensor([-0.1, 3.0], dtype=dtype))
    assert abs((mask == 3).double().mean() - 0.25) <= 5 * (0.25 * 0.75 / 300**2) ** 0.5
    assert torch.equal(noise((3,), 0, dropped=3.0, kept=-0.1, dtype=dtype), torch.full((3,), -0.1, dtype=dtype))
    assert torch.equal(noise((3,), 1, dropped=3.0, kept=-0.1, dtype=dtype), torch.full((3,), 3.0, dtype=dtype))


@pytest.mark.parametrize("p", [0.5, 0.25])  # of an entry's bits the first decides, then the first two
def test_entries_are_independent(p, path):
    """No correlation with the next 64 entries, and at the strides of rows and of the kernels' lanes and pieces."""
    mask = dropout_mask((2**21,), p)
    for lag in (*range(1, 65), 96, 127, 128, 129, 256, 300, 512, 2**12, 2**13, 2**13 + 1, 2**14, 2**15, 2**18, 2**20):
        assert_uncorrelated(mask[lag:], mask[:-lag], p)


def test_draws_are_independent(path):
    masks = [dropout_mask((2**18,), 0.5) for _ in range(4)]
    for k, mask in enumerate(masks):
        for other in masks[:k]:
            for lag in (0, 1, 32, 2**13):
                assert_uncorrelated(mask[lag:], other[: mask.numel() - lag])
                assert_uncorrelated(other[lag:], mask[: mask.numel() - lag])
    small = torch.stack([dropout_mask((64,), 0.5) for _ in range(2000)])
    assert_uncorrelated(small[1:], small[:-1])


def test_neighbouring_seeds_are_independent(path):
    masks = []
    for seed in range(50):
        masks.append(dropout_mask((2**14,), 0.5, generator=torch.Generator().manual_seed(seed)))
    for mask, following in itertools.pairwise(masks):
        assert_uncorrelated(mask, following)


def test_a_mask_of_integers_is_refused():
    """1/(1-p) is no whole number."""
    with pytest.raises(ValueError, match=r"dtype: expected a floating-point dtype, got torch\.int64"):
        dropout_mask((50,), 0.3, dtype=torch.int64)


@pytest.mark.parametrize("shape", [(2.5,), "ab", (3, None), 4])
def test_a_shape_of_anything_but_whole_numbers_is_refused(shape):
    with pytest.raises(TypeError, match=re.escape(f"shape: expected whole numbers, got {shape!r}")):
        dropout_mask(shape, 0.3)


def test_generator_and_seed_decide():
    first = dropout_mask((50,), 0.5, generator=torch.Generator().manual_seed(7))
    again = dropout_mask((50,), 0.5, generator=torch.Generator().manual_seed(7))
    other = dropout_mask((50,), 0.5, generator=torch.Generator().manual_seed(8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

    layer, x = GalLSTM(I, H, dropout=P), torch.randn(T, B, I)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_gal_masks(scope):
    layer = GalLSTM(1000, 1000, dropout=P, mask_scope=scope, dtype=torch.float64)
    (masks,) = layer.draw_masks(T, B)
    batch = () if scope == "batch" else (B,)
    assert_is_dropout_mask(masks.x, (*batch, 1000), P)
    assert_is_dropout_mask(masks.h, (*batch, 1000), P)
    assert masks.g is None
    assert not torch.equal(masks.x, masks.h)
    if scope == "sample":
        assert not torch.equal(masks.x[0], masks.x[1])


@pytest.mark.parametrize(
    ("kind", "scope", "shape"),
    [("step", "batch", (T, B, H)), ("step", "sample", (T, B, H)), ("sequence", "batch", (H,)),
     ("sequence", "sample", (B, H))],
)  # fmt: skip
def test_semeniuta_masks(kind, scope, shape):
    layer = SemeniutaLSTM(I, H, dropout=P, candidate_mask=kind, mask_scope=scope, dtype=torch.float64)
    (masks,) = layer.draw_masks(T, B)
    assert masks.x is None
    assert masks.h is None
    assert_is_dropout_mask(masks.g, shape, P)
    if kind == "step":
        assert not torch.equal(masks.g[0], masks.g[1])
        assert not torch.equal(masks.g[:, 0], masks.g[:, 1])


def test_fresh_masks_at_every_forward():
    layer = LSTM(I, H, input_dropout=P)
    assert not torch.equal(layer.draw_masks(T, B)[0].x, layer.draw_masks(T, B)[0].x)


@pytest.mark.parametrize("layer", [GalLSTM(I, H, dropout=P), SemeniutaLSTM(I, H, dropout=P)])
def test_no_dropout_in_eval(layer):
    x, plain = torch.randn(T, B, I), LSTM(I, H)
    plain.load_state_dict(layer.state_dict())
    layer.eval()
    before = torch.get_rng_state()
    assert torch.equal(layer(x)[0], plain(x)[0])
    assert torch.equal(torch.get_rng_state(), before), "eval must draw nothing"
    layer.train()
    assert not torch.equal(layer(x)[0], plain(x)[0])


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_masks_drawn_at_once_are_those_drawn_one_after_the_other(scope):
    """The same bits for a seed, whichever way they are drawn."""
    probabilities = {row.keyword: 0.3 for row in NOISES}
    for odd in ({}, {"cell_dropout": 1.0}):
        layer = LSTM(I, H, 2, bidirectional=True, proj_size=3, mask_scope=scope, **(probabilities | odd))
        torch.manual_seed(7)
        masks = layer.draw_masks(T, B)
        torch.manual_seed(7)
        for k, of_run in enumerate(masks):
            sizes = sizes_by_name(T, B, I if k < 2 else 6, H, 3)
            for row, p, shape in noises_on(layer):
                if row.between_layers and k >= 2:
                    assert getattr(of_run, row.field) is None
                    continue
                dropped, kept = row.values(p)
                expected = noise([sizes[size] for size in shape], p, dropped=dropped, kept=kept)
                assert torch.equal(getattr(of_run, row.field), expected), row.field


def test_no_dropout_draws_nothing():
    layer = LSTM(I, H)
    before = torch.get_rng_state()
    assert layer.draw_masks(T, B) == [LayerMasks()]
    assert torch.equal(torch.get_rng_state(), before)


def test_untied_masks_have_one_for_each_gate():
    for scope, batch in (("batch", 1), ("sample", B)):
        layer = LSTM(I, H, input_dropout=P, hidden_dropout=P, mask_scope=scope, gate_masks="untied")
        x, h = zip(*((m.x, m.h) for m in (layer.draw_masks(T, B)[0] for _ in range(20))), strict=True)
        assert_is_dropout_mask(torch.stack(x), (20, 4, batch, I), P)
        assert_is_dropout_mask(torch.stack(h), (20, 4, batch, H), P)
        assert not torch.equal(x[0][0], x[0][1])


def test_cell_masks_are_not_scaled():
    """A factor of 1/(1-p) would act anew at every step."""
    (masks,) = LSTM(I, 1000, cell_dropout=P, mask_scope="sample").draw_masks(T, B)
    assert_is_dropout_mask(masks.c / (1 - P), (B, 1000), P)
    (shared,) = LSTM(I, H, cell_dropout=P).draw_masks(T, B)
    assert shared.c.shape == (H,)
    dropped = LSTM(I, H, cell_dropout=1.0)(torch.randn(T, B, I))
    assert not dropped[0].any() and not dropped[1][1].any()


def test_zoneout_keeps_a_unit_with_its_probability():
    (masks,) = LSTM(I, H, hidden_zoneout=P, cell_zoneout=0.6).draw_masks(T, B)
    for stays, p in ((masks.z_h, P), (masks.z_c, 0.6)):
        assert_is_dropout_mask((1 - stays) / (1 - p), (T, B, H), p)
    assert not torch.equal(masks.z_h[0], masks.z_h[1])


def test_zoneout_of_one_keeps_the_state():
    x, hx = torch.randn(T, B, I), (torch.randn(1, B, H), torch.randn(1, B, H))
    output, state = LSTM(I, H, hidden_zoneout=1, cell_zoneout=1)(x, hx)
    assert torch.equal(output, hx[0].expand(T, -1, -1))
    assert torch.equal(state[0], hx[0]) and torch.equal(state[1], hx[1])


def test_zoneout_in_eval_is_the_expectation_and_draws_nothing():
    layer, x = LSTM(I, H, hidden_zoneout=P, cell_zoneout=0.6).eval(), torch.randn(T, B, I)
    before = torch.get_rng_state()
    output, _, masks = layer(x, return_masks=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert masks == [LayerMasks(z_c=masks[0].z_c, z_h=masks[0].z_h)]
    assert torch.equal(masks[0].z_c, torch.full((H,), 0.6)) and torch.equal(masks[0].z_h, torch.full((H,), P))
    torch.testing.assert_close(layer.train()(x, masks=masks)[0], output)
    layer.mc_dropout = True
    assert layer.eval()(x, return_masks=True)[2][0].z_h.shape == (T, B, H)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_mask_under_vmap(randomness, path):
    masks = torch.vmap(lambda x: x * dropout_mask((1000,), 0.5), randomness=randomness)(torch.ones(3, 1000))
    assert torch.equal(masks[0], masks[1]) == (randomness == "same")
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda x: x * dropout_mask((1000,), 0.5))(torch.ones(3, 1000))


def test_dropout_mask_compiles_for_every_size(path):
    torch._dynamo.reset()

    def draw(x):
        return x * dropout_mask(x.shape, 0.3)

    compiled = torch.compile(draw, fullgraph=True, dynamic=True, backend="aot_eager")
    for T, B in ((3, 4), (5, 4), (200, 70)):
        x = torch.ones(T, B)
        torch.manual_seed(T)
        expected = draw(x)
        torch.manual_seed(T)
        assert torch.equal(compiled(x), expected)


def test_dropout_mask_on_meta_and_the_default_device(path):
    assert dropout_mask((3, 4), 0.3, device="meta").is_meta
    with torch.device("meta"):
        assert dropout_mask((3, 4), 0.3).is_meta
        assert dropout_mask((3, 4), 0.3, device="cpu").device.type == "cpu"
