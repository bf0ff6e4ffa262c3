"""The module's call that is all C++ (csrc/plain_call.h) where sequences have different lengths."""

import pytest
import torch
from test_plain_training import EVERY_DROPOUT
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnndrop_cuda import LSTM, ops, pack_weights
from tests.modules import flat, loss_of
from tests.problems import relative_error

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")
I, H = 5, 64
FEW, MANY = [3, 6, 0, 6], [(7 * k) % 23 for k in range(40)]  # in the order they came, and longest first


def as_list(layer, x, lengths, **options):
    return layer(x, lengths=lengths, **options)


def as_tensor(layer, x, lengths, **options):
    return layer(x, lengths=torch.tensor(lengths), **options)


def packed(layer, x, lengths, **options):
    x = x.transpose(0, 1) if layer.batch_first else x
    return layer(pack_padded_sequence(x, torch.tensor(lengths).clamp(min=1), enforce_sorted=False), **options)


def packed_in_order(layer, x, lengths, **options):
    lengths = sorted((max(length, 1) for length in lengths), reverse=True)
    x = x.transpose(0, 1) if layer.batch_first else x
    return layer(pack_padded_sequence(x, lengths), **options)


FORMS = pytest.mark.parametrize("run", [as_list, as_tensor, packed, packed_in_order])
BOUNDS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


@FORMS
@pytest.mark.parametrize("lengths", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True, "bias": False}, {"num_layers": 2, "bidirectional": True, **EVERY_DROPOUT},
     {"proj_size": 4, "num_layers": 2, "mask_scope": "sample", "gate_masks": "untied", **EVERY_DROPOUT}],
    ids=["plain", "batch_first", "noisy", "of samples"],
)  # fmt: skip
def test_training_gives_what_the_long_way_gives(taken, run, lengths, dtype, options):
    layer = LSTM(I, H, dtype=dtype, **options)
    B, T, runs = len(lengths), max(lengths), layer.num_layers * (2 if layer.bidirectional else 1)
    x = torch.randn(*(B, T) if layer.batch_first else (T, B), I, dtype=dtype)
    hx = [torch.randn(runs, B, n, dtype=dtype) for n in (layer.proj_size or H, H)]
    found, expected = [], []
    for results, long_way in ((found, {}), (expected, {"return_masks": True})):
        torch.manual_seed(1)
        leaves = [t.clone().requires_grad_() for t in (x, *hx)]
        output = run(layer, leaves[0], lengths, hx=tuple(leaves[1:]), **long_way)
        results += flat(output)
        results += torch.autograd.grad(loss_of(output), [*leaves, *layer.parameters()])
    assert taken == [True]
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.shape == wanted.shape
        assert ours.stride() == wanted.stride()
        assert relative_error(ours, wanted) <= BOUNDS[dtype]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch_first", [False, True])
def test_samples_that_were_put_in_order_have_every_derivative(taken, batch_first):
    """Once and twice, for several upstream gradients at once, and for one that is not what its memory holds."""
    layer = LSTM(I, H, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(*(40, 23) if batch_first else (23, 40), I, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, *x.shape[:2], H, dtype=torch.float64)
    found, expected = [], []
    for results, long_way in ((found, {}), (expected, {"return_masks": True})):
        y = layer(x, lengths=MANY, **long_way)[0]
        results += torch.autograd.grad(y, [x, layer.weight_ih_l0], upstream, is_grads_batched=True, retain_graph=True)
        (dx,) = torch.autograd.grad(y, x, upstream[0], create_graph=True)
        results += torch.autograd.grad(dx.square().sum(), [x, layer.weight_hh_l0], retain_graph=True)
        results += torch.autograd.grad(y, x, torch._neg_view(upstream[0]))
    assert taken == [True]
    for ours, wanted in zip(found, expected, strict=True):
        assert relative_error(ours, wanted) <= 1e-12


@FORMS
@pytest.mark.parametrize("lengths", [FEW, MANY], ids=["few", "many"])
def test_inference_with_and_without_packed_weights(taken, run, lengths):
    layer, x = LSTM(I, H, 2, bidirectional=True).eval(), torch.randn(max(lengths), len(lengths), I)
    with torch.inference_mode():
        expected = flat(run(layer, x, lengths, return_masks=True))
        found = flat(run(layer, x, lengths))
        pack_weights(layer)
        again = flat(run(layer, x, lengths))
    assert taken == [True] * 2
    assert all(map(torch.equal, found, again))
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.is_inference()
        assert relative_error(ours, wanted) <= BOUNDS[torch.float32]


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_a_packed_batch_comes_back_as_it_came(taken, enforce_sorted):
    layer, x = LSTM(I, H), torch.randn(6, 3, I)
    given = pack_padded_sequence(x, torch.tensor([6, 4, 1]), enforce_sorted=enforce_sorted)
    output, (h_n, _) = layer(given)
    assert taken == [True]
    assert type(output) is PackedSequence
    assert all(ours is theirs for ours, theirs in zip(output[1:], given[1:], strict=True))
    y, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == [6, 4, 1]
    assert torch.equal(h_n[0], torch.stack([y[5, 0], y[3, 1], y[0, 2]]))
    output.data.mul_(2)
    output.data.sum().backward()  # what was saved for it is another tensor
    with torch.no_grad():
        layer(given)[0].data.fill_(3)
    assert torch.equal(given.data, pack_padded_sequence(x, [6, 4, 1]).data)


def test_who_is_left_to_the_long_way(taken):
    layer, x = LSTM(I, H).eval(), torch.randn(6, 4, I)
    given = pack_padded_sequence(x, [6, 6, 5, 2])
    expected = layer(x, lengths=[6, 6, 5, 2])[0]
    for lengths in (torch.tensor([6, 6, 5, 2], dtype=torch.int32), (6, 6, 5, 2)):
        assert torch.equal(layer(x, lengths=lengths)[0], expected)

    class Other(PackedSequence):
        pass

    assert torch.equal(layer(Other(*given))[0].data, layer(given)[0].data)
    with torch.autocast("cpu", torch.bfloat16):
        layer(given)  # plain, too: it is cast as nn.LSTM's is
    with torch.inference_mode():
        of_inference = pack_padded_sequence(x, torch.tensor([2, 6, 5, 6]), enforce_sorted=False)
        layer(of_inference)
    layer(of_inference)[0].data.sum().backward()
    assert taken == [True, False, False, False, True, True, True, False]


def inconsistent(**changed):
    given = pack_padded_sequence(torch.randn(6, 4, I), torch.tensor([2, 6, 5, 6]), enforce_sorted=False)
    return {"input": given._replace(**changed)}


X = torch.randn(6, 4, I)
WRONG = {
    "too long": {"input": X, "lengths": [6, 7, 1, 2]},
    "negative": {"input": X, "lengths": [6, -1, 1, 2]},
    "far too long": {"input": X, "lengths": [2**70, 1, 1, 1]},
    "of another batch": {"input": X, "lengths": [6, 1, 1]},
    "a matrix": {"input": X, "lengths": torch.ones(4, 1, dtype=torch.int64)},
    "floats": {"input": X, "lengths": [6.0, 1.0, 1.0, 1.0]},
    "bools": {"input": X, "lengths": torch.ones(4, dtype=torch.bool)},
    "on another device": {"input": X.to("meta"), "lengths": [1, 1, 1, 1]},
    "lengths of a packed batch": {**inconsistent(), "lengths": [1, 1, 1, 1]},
    "a tuple": {"input": tuple(inconsistent()["input"])},
    "too few rows": inconsistent(data=torch.randn(18, I)),
    "too many rows": inconsistent(data=torch.randn(20, I)),
    "other features": inconsistent(data=torch.randn(19, I + 1)),
    "another dtype": inconsistent(data=torch.randn(19, I).double()),
    "dimensions": inconsistent(data=torch.randn(19, I, 1)),
    "an order of fewer": inconsistent(sorted_indices=torch.tensor([1, 3, 2])),
    "hx of another batch": {**inconsistent(), "hx": (torch.zeros(1, 3, H), torch.zeros(1, 3, H))},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_in_the_same_words(taken, wrong):
    layer, given = LSTM(I, H).eval(), WRONG[wrong]
    with torch.no_grad(), pytest.raises(Exception) as expected:  # noqa: PT011  the other call says which
        layer(**given, return_masks=True)
    with torch.no_grad(), pytest.raises(type(expected.value)) as found:
        layer(**given)
    assert str(found.value) == str(expected.value)
    assert taken == [False]
