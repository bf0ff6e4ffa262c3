"""Statistics of every mask that the layers draw: keep rate, scale, shared where it must be, fresh where it must be."""

import pytest
import torch

from rnndrop_cuda import LSTM, GalLSTM, SemeniutaLSTM, dropout_mask
from rnndrop_cuda.masks import LayerMasks

T, B, I, H = 40, 50, 30, 20
P = 0.3


def assert_is_dropout_mask(mask, shape, p):
    """Right shape and values, and a keep rate within five standard deviations."""
    assert mask.shape == shape
    kept = mask != 0
    assert torch.equal(mask[kept], torch.full_like(mask[kept], 1 / (1 - p)))
    n = mask.numel()
    assert abs(kept.double().mean() - (1 - p)) <= 5 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_dropout_mask(p, dtype):
    mask = dropout_mask((201, 303), p, dtype=dtype)
    assert mask.dtype == dtype
    assert_is_dropout_mask(mask, (201, 303), p)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 5)])
def test_dropout_mask_of_any_shape(shape):
    assert dropout_mask(shape, 0.5).shape == shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dropout_mask_in_half_precision(dtype):
    mask = dropout_mask((200, 300), 0.5, dtype=dtype)
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, 2.0}


def test_dropout_mask_at_the_ends():
    assert torch.equal(dropout_mask((3, 4), 0), torch.ones(3, 4))
    assert torch.equal(dropout_mask((3, 4), 1), torch.zeros(3, 4))
    assert torch.equal(dropout_mask((3, 4), 1.0), torch.zeros(3, 4))


def test_dropout_mask_entries_are_independent():
    """Correlation of neighbours, and of the four entries that share a draw, within five standard deviations of 0."""
    mask = dropout_mask((400, 400), 0.5, dtype=torch.float64) - 1
    fours = mask.view(-1, 4)
    pairs = [(fours[:, a], fours[:, b]) for a in range(4) for b in range(a)]
    for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1]), *pairs):
        assert abs((a * b).mean()) <= 5 / a.numel() ** 0.5


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
