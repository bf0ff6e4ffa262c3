"""The seminar's layers against nn.LSTM, each other and the fused layers: outputs and every gradient."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from rnndrop_cuda import GalLSTM, LayerMasks, SemeniutaLSTM
from rnndrop_cuda.seminar.layers import (
    FastRNNLayer,
    MyLSTM,
    RNNLayer,
    gen_dropout_mask,
    init_h0_c0,
    lstm_weights,
)

SIZES = [(1, 1, 1, 1), (7, 5, 3, 6), (4, 1, 17, 9)]  # T, B, I, H
PROBABILITIES = [0.25, 0.5, 1.0]
SEMINAR_LAYERS = [RNNLayer, FastRNNLayer, MyLSTM]


def alike(*layers: nn.Module) -> list[nn.Module]:
    """The layers in float64, all with the first one's weights."""
    layers = [layer.double() for layer in layers]
    with torch.no_grad():
        for layer in layers[1:]:
            for weight, first in zip(lstm_weights(layer), lstm_weights(layers[0]), strict=True):
                weight.copy_(first)
    return layers


def outputs_and_gradients(layer: nn.Module, size: tuple[int, ...], **kwargs) -> dict[str, torch.Tensor]:
    """out, h_n, c_n and the gradients of all inputs and weights, for inputs and upstream gradients of a fixed seed."""
    T, B, I, H = size
    generator = torch.Generator().manual_seed(1)
    x, h_0, c_0, dy, dh_n, dc_n = (
        torch.randn(shape, dtype=torch.float64, generator=generator)
        for shape in ((T, B, I), (1, B, H), (1, B, H), (T, B, H), (1, B, H), (1, B, H))
    )
    inputs = {"x": x.requires_grad_(), "h_0": h_0.requires_grad_(), "c_0": c_0.requires_grad_()}
    out, (h_n, c_n) = layer(x, (h_0, c_0), **kwargs)
    weights = dict(zip(("W_ih", "W_hh", "b_ih", "b_hh"), lstm_weights(layer), strict=True))
    wanted = {**inputs, **weights}
    gradients = torch.autograd.grad((out, h_n, c_n), list(wanted.values()), (dy, dh_n, dc_n))
    return {"out": out, "h_n": h_n, "c_n": c_n, **dict(zip(wanted, gradients, strict=True))}


def assert_same(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name in expected:
        torch.testing.assert_close(
            result[name], expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )


def gal_masks(size: tuple[int, ...], p: float) -> list[LayerMasks]:
    _, _, I, H = size
    mask_x, mask_h = gen_dropout_mask(I, H, True, p, torch.empty(0, dtype=torch.float64))
    return [LayerMasks(x=mask_x, h=mask_h)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [RNNLayer, FastRNNLayer, MyLSTM, GalLSTM, SemeniutaLSTM])
def test_without_dropout_equals_nn_lstm(make, size):
    box, layer = alike(nn.LSTM(*size[2:]), make(*size[2:], dropout=0))
    assert_same(outputs_and_gradients(layer, size), outputs_and_gradients(box, size))


@pytest.mark.parametrize("make", [RNNLayer, FastRNNLayer, MyLSTM, GalLSTM, SemeniutaLSTM])
def test_evaluation_has_no_dropout_and_no_hidden_is_zeros(make):
    box, layer = alike(nn.LSTM(3, 6), make(3, 6, dropout=0.5).eval())
    x = torch.randn(7, 5, 3, dtype=torch.float64)
    (out, (h_n, c_n)), (expected, (expected_h, expected_c)) = layer(x), box(x)
    assert_same({"out": out, "h": h_n, "c": c_n}, {"out": expected, "h": expected_h, "c": expected_c})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("p", PROBABILITIES)
def test_gal_layers_agree_with_the_same_masks(size, p):
    masks = gal_masks(size, p)
    loop, *others = alike(*(make(*size[2:], dropout=0.1) for make in (RNNLayer, FastRNNLayer, GalLSTM)))
    expected = outputs_and_gradients(loop, size, masks=masks)
    for layer in others:
        assert_same(outputs_and_gradients(layer, size, masks=masks), expected)


@pytest.mark.parametrize("make", [FastRNNLayer, GalLSTM])
def test_gal_layers_draw_the_same_masks_from_the_same_seed(make):
    """So that curves of layers with the same maths lie on one another; the evaluation between must not draw."""
    layers = alike(RNNLayer(3, 6, dropout=0.5), make(3, 6, dropout=0.5))
    x = torch.randn(7, 5, 3, dtype=torch.float64)
    results = []
    for layer in layers:
        torch.manual_seed(7)
        first = layer.train()(x)[0]
        layer.eval()(x)
        results.append({"first": first, "second": layer.train()(x)[0]})
    assert_same(results[1], results[0])
    assert not torch.equal(results[0]["first"], results[0]["second"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("kind", ["step", "sequence", "batch"])
def test_semeniuta_layers_agree_with_the_same_mask(size, p, kind):
    T, B, _, H = size
    shape = {"step": (T, B, H), "sequence": (B, H), "batch": (H,)}[kind]
    mask_g = torch.nn.functional.dropout(torch.ones(shape, dtype=torch.float64), p)
    written_out, fused = alike(MyLSTM(*size[2:]), SemeniutaLSTM(*size[2:], dropout=0.1))
    masks = [LayerMasks(g=mask_g)]
    assert_same(outputs_and_gradients(fused, size, masks=masks), outputs_and_gradients(written_out, size, masks=masks))


def test_masks_of_a_sample_each_act_in_the_loop():
    """The loop takes what Gal's own code draws, a mask a sample: each sample is as if alone with its mask."""
    layer = RNNLayer(3, 6).double()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    mask_x, mask_h = torch.rand(2, 3, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64)
    out, _ = layer(x, masks=[LayerMasks(x=mask_x, h=mask_h)])
    for b in range(2):
        alone, _ = layer(x[:, b : b + 1], masks=[LayerMasks(x=mask_x[b], h=mask_h[b])])
        torch.testing.assert_close(out[:, b : b + 1], alone)


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_gal_mask_statistics(p):
    for mask in gen_dropout_mask(100_000, 50_000, True, p, torch.empty(0, dtype=torch.float64)):
        kept = mask != 0
        assert torch.equal(mask[kept], torch.full_like(mask[kept], 1 / (1 - p)))
        five_sigma = 5 * math.sqrt(p * (1 - p) / len(mask))
        assert abs(kept.double().mean() - (1 - p)) < five_sigma


def test_gal_masks_take_dtype_and_ends_of_p():
    like = torch.empty(0, dtype=torch.float16)
    for is_training, p, value in [(False, 0.5, 1), (True, 0, 1), (True, None, 1), (True, 1, 0), (False, 1, 1)]:
        mask_x, mask_h = gen_dropout_mask(4, 3, is_training, p, like)
        assert torch.equal(mask_x, torch.full((4,), value, dtype=torch.float16))
        assert torch.equal(mask_h, torch.full((3,), value, dtype=torch.float16))


def test_initial_state():
    h_0, c_0 = init_h0_c0(5, 3, torch.ones(1, dtype=torch.float64))
    assert torch.equal(h_0, torch.zeros(5, 3, dtype=torch.float64))
    assert torch.equal(c_0, h_0)
    assert c_0.data_ptr() != h_0.data_ptr()


@pytest.mark.parametrize("make", [MyLSTM, SemeniutaLSTM])
def test_semeniuta_mask_is_fresh_each_step_sample_and_unit(make):
    """With all weights 0 but the bias of g, i = f = o = 1/2 and the mask can be read back from the states."""
    T, B, H, p = 40, 50, 60, 0.3
    layer = make(1, H, dropout=p).double()
    with torch.no_grad():
        for weight in lstm_weights(layer):
            weight.zero_()
        lstm_weights(layer)[2][2 * H : 3 * H] = 0.5
    out, _ = layer(torch.zeros(T, B, 1, dtype=torch.float64))
    c = torch.atanh(2 * out.detach())
    before = torch.cat([torch.zeros(1, B, H, dtype=torch.float64), c[:-1]])
    mask = (c - before / 2) / (0.5 * math.tanh(0.5))

    kept = mask > 0.5 / (1 - p)
    torch.testing.assert_close(mask, kept.double() / (1 - p), rtol=0, atol=1e-9)
    same_as_neighbour = p * p + (1 - p) * (1 - p)
    for what, value, expected in [
        ("kept", kept, 1 - p),
        ("same at the next step", kept[1:] == kept[:-1], same_as_neighbour),
        ("same in the next sample", kept[:, 1:] == kept[:, :-1], same_as_neighbour),
        ("same in the next unit", kept[..., 1:] == kept[..., :-1], same_as_neighbour),
    ]:
        rate = value.double().mean().item()
        assert abs(rate - expected) < 0.01, f"{what}: {rate}, expected {expected}"


def test_my_lstm_starts_as_pytorch_does():
    for name, parameter in MyLSTM(100, 64).named_parameters():
        bound = 1 / math.sqrt(64)
        assert parameter.abs().max() <= bound, name
        assert parameter.min() < -0.95 * bound, f"{name}: the notebook's slip starts at 0"
        assert parameter.max() > 0.95 * bound, name


@pytest.mark.parametrize("make", SEMINAR_LAYERS)
def test_layers_survive_deepcopy_pickle_and_state_dict(make):
    layer = make(3, 6, dropout=0.5)
    x = torch.randn(7, 5, 3)
    before = {name: weight.clone() for name, weight in layer.state_dict().items()}
    layer(x)[0].sum().backward()  # in training: a forward with dropout must leave no trace in the module
    assert layer.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in layer.state_dict().items())
    loaded = make(3, 6, dropout=0.5)
    loaded.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        torch.manual_seed(7)
        expected = layer(x)[0]
        torch.manual_seed(7)
        assert torch.equal(twin(x)[0], expected)
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in layer.parameters()}


def test_fast_layer_trains_its_raw_weights():
    layer = FastRNNLayer(3, 6, dropout=0.5)
    W_ih, W_hh, _, _ = lstm_weights(layer)
    masks = [LayerMasks(x=torch.tensor([0.0, 2.0, 2.0]), h=torch.tensor([2.0, 0.0, 2.0, 0.0, 2.0, 2.0]))]
    before = W_ih.clone(), W_hh.clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.randn(7, 5, 3), masks=masks)[0].sum().backward()
    optimizer.step()
    for weight, old, mask in zip((W_ih, W_hh), before, masks[0], strict=False):
        changed = (weight != old).any(dim=0)
        assert torch.equal(changed, mask != 0), "columns of dropped units keep their weights, the others learn"


@pytest.mark.parametrize("make", SEMINAR_LAYERS)
@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, "0.5"])
def test_dropout_must_be_a_probability(make, p):
    with pytest.raises(ValueError, match=r"dropout.*probability"):
        make(3, 6, dropout=p)


def test_mask_probability_is_checked_even_in_evaluation():
    with pytest.raises(ValueError, match=r"p: expected a probability"):
        gen_dropout_mask(3, 6, False, math.nan, torch.empty(0))


@pytest.mark.parametrize(
    ("make", "masks", "message"),
    [
        (RNNLayer, LayerMasks(x=torch.ones(4), h=torch.ones(6)), r"masks\[0\].x: .*\[3\] or \[5, 3\], got \[4\]"),
        (RNNLayer, LayerMasks(x=torch.ones(3), h=torch.ones(2, 6)), r"masks\[0\].h: .*\[5, 6\], got \[2, 6\]"),
        (FastRNNLayer, LayerMasks(x=torch.ones(5, 3), h=torch.ones(6)), r"masks\[0\].x: .*\[3\], got \[5, 3\]"),
        (MyLSTM, LayerMasks(g=torch.ones(2, 5, 6)), r"masks\[0\].g: .*\[7, 5, 6\], got \[2, 5, 6\]"),
        (MyLSTM, LayerMasks(x=torch.ones(3), g=torch.ones(6)), r"masks g and no others, got x, g"),
        (FastRNNLayer, LayerMasks(), r"masks x, h and no others, got none"),
    ],
)
def test_wrong_masks_are_refused(make, masks, message):
    with pytest.raises(ValueError, match=message):
        make(3, 6)(torch.randn(7, 5, 3), masks=[masks])


def test_masks_must_be_of_one_layer():
    with pytest.raises(ValueError, match=r"one LayerMasks, got 2"):
        MyLSTM(3, 6)(torch.randn(7, 5, 3), masks=[LayerMasks(g=torch.ones(6))] * 2)


@pytest.mark.parametrize("make", [RNNLayer, MyLSTM])
@pytest.mark.parametrize("shape", [(7, 3), (0, 5, 3), (7, 5, 4)])
def test_wrong_input_is_refused(make, shape):
    with pytest.raises(ValueError, match=r"inp: expected \[T, B, 3\] with T >= 1"):
        make(3, 6)(torch.randn(shape))


@pytest.mark.parametrize("make", [RNNLayer, MyLSTM])
def test_wrong_hidden_is_refused(make):
    with pytest.raises(ValueError, match=r"hidden\[1\]: expected shape \[1, 5, 6\], got \[5, 6\]"):
        make(3, 6)(torch.randn(7, 5, 3), (torch.zeros(1, 5, 6), torch.zeros(5, 6)))


@pytest.mark.parametrize("make", SEMINAR_LAYERS)
def test_empty_batch(make):
    out, (h_n, c_n) = make(3, 6)(torch.randn(7, 0, 3))
    assert (out.shape, h_n.shape, c_n.shape) == ((7, 0, 6), (1, 0, 6), (1, 0, 6))
