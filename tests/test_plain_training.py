"""The module's call that is all C++ (csrc/plain_call.h) where it draws masks, or is differentiated."""

import pytest
import torch
from torch import nn

from rnndrop_cuda import LSTM, ops
from tests.modules import assert_bit_for_bit, call, long_way, loss_of, training_step
from tests.problems import relative_error

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")
T, B, I, H = 4, 3, 5, 6
EVERY_DROPOUT = {
    "input_dropout": 0.4, "hidden_dropout": 0.4, "candidate_dropout": 0.4, "weight_dropout": 0.4, "dropout": 0.4,
    "cell_dropout": 0.4, "cell_zoneout": 0.4, "hidden_zoneout": 0.4,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False, "batch_first": True}, {"num_layers": 3, "bidirectional": True}, {"proj_size": 2},
     {"bidirectional": True, "num_layers": 2, "proj_size": 4, "bias": False, "mask_scope": "sample"},
     {"num_layers": 2, "gate_masks": "untied", "candidate_mask": "sequence"},
     *({name: p} for name, p in EVERY_DROPOUT.items())],
)  # fmt: skip
def test_training_gives_the_bits_of_the_long_way(taken, dtype, with_hx, options):
    dropout = {} if len(options) < 2 or EVERY_DROPOUT.keys() & options.keys() else EVERY_DROPOUT
    layer = LSTM(I, H, dtype=dtype, **{"num_layers": 2, **dropout, **options})
    runs, P = layer.num_layers * (2 if layer.bidirectional else 1), layer.proj_size or H
    hx = tuple(torch.randn(runs, B, n, dtype=dtype, requires_grad=True) for n in (P, H)) if with_hx else None
    x = torch.randn(*(B, T) if layer.batch_first else (T, B), I, dtype=dtype)
    steps = [training_step(layer, x, run=lambda x, run=run: run(layer, x, hx)) for run in (call, long_way)]
    assert all(map(torch.equal, *steps))
    if hx:
        of_hx = []
        for run in (call, long_way):
            torch.manual_seed(1)
            of_hx.append(torch.autograd.grad(loss_of(run(layer, x, hx)), hx))
        assert all(map(torch.equal, *of_hx))
    assert taken == [True] * (2 if hx else 1)


def with_lengths(layer, x):
    return layer(x, lengths=[x.shape[0] - k % 5 for k in range(x.shape[1])])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [{}, {"lengths": [3]}])
def test_a_sequence_without_a_batch(taken, batch_first, lengths):
    layer = LSTM(I, H, 2, bidirectional=True, proj_size=2, batch_first=batch_first, **EVERY_DROPOUT)
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((T, I), (4, 2), (4, H))]
    found, expected = [], []
    for results, options in ((found, {}), (expected, {"return_masks": True})):
        torch.manual_seed(1)
        y, (h_n, c_n) = layer(leaves[0], tuple(leaves[1:]), **lengths, **options)[:2]
        loss = y.sin().sum() + h_n.sum() - c_n.cos().sum()
        results += [y, h_n, c_n, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])]
    assert [t.shape for t in found[:3]] == [(T, 4), (4, 2), (4, H)]
    assert all(map(torch.equal, found, expected))
    assert taken == [True]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("B", [1, 5, 40])
@pytest.mark.parametrize("options", [{}, {"input_dropout": 0.4, "weight_dropout": 0.4, "proj_size": 30}])
@pytest.mark.parametrize("run", [call, long_way, with_lengths])
def test_two_directions_run_on_a_thread_each(taken, dtype, B, options, run):
    layer = LSTM(33, 70, 2, bidirectional=True, dtype=dtype, **options)
    x = torch.randn(40, B, 33, dtype=dtype)

    def step():
        return training_step(layer, x, run=lambda x: run(layer, x))

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = step()
    for op in ("rnndrop::lstm_layer", "rnndrop::lstm_layer_backward"):
        assert len({event.thread for event in profile.events() if event.key == op}) == 2
    for _ in range(3):
        assert all(map(torch.equal, step(), found))
    torch.set_num_threads(1)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}[dtype]
    for ours, wanted in zip(found, step(), strict=True):
        assert relative_error(ours, wanted) < bound
    assert taken == [True] * 5 * (run is not long_way)


def test_one_direction_alone_is_differentiated(taken):
    layer, x = LSTM(I, H, bidirectional=True), torch.randn(T, B, I)
    for weight in (layer.weight_hh_l0, layer.weight_hh_l0_reverse):
        layer.requires_grad_(False)
        weight.requires_grad_()
        found, expected = (torch.autograd.grad(loss_of(run(layer, x)), weight)[0] for run in (call, long_way))
        assert torch.equal(found, expected)
    layer.requires_grad_()
    y = layer(x)[0]
    y[..., :H].sum().backward()
    assert layer.weight_hh_l0.grad.any()
    assert not layer.weight_hh_l0_reverse.grad.any()
    assert taken == [True] * 3


def test_the_bias_the_input_or_the_state_alone_is_differentiated(taken):
    layer, x = LSTM(I, H, num_layers=2).requires_grad_(False), torch.randn(T, B, I)
    hx = torch.randn(2, B, H), torch.randn(2, B, H)
    assert not layer(x, hx)[0].requires_grad
    for tensor in (layer.bias_hh_l1, x, *hx):
        tensor.requires_grad_()
        found, expected = (torch.autograd.grad(run(layer, x, hx)[0].sum(), tensor)[0] for run in (call, long_way))
        assert torch.equal(found, expected)
        tensor.requires_grad_(False)
    assert taken == [True] * 5


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"proj_size": 2}, {"dtype": torch.float64}])
def test_an_output_that_is_changed_before_the_backward(taken, options):
    """Where nn.LSTM's may be, ours may, and else neither."""
    layer, x = LSTM(I, H, **options), torch.randn(T, B, I, dtype=options.get("dtype"))
    for lstm, run in ((layer, call), (layer, long_way), (nn.LSTM(I, H, **options), call)):
        y = run(lstm, x)[0]
        y *= 2
        if options:
            y.sum().backward()
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
    assert taken == [True]


def test_a_second_derivative(taken):
    layer, x = LSTM(I, H, 2, bidirectional=True, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    x.requires_grad_()
    penalties = []
    for run in (call, long_way):
        (dx,) = torch.autograd.grad(run(layer, x)[0].sin().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(dx.square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(*penalties)
    assert taken == [True]


class Given(LSTM):
    """Uses the masks that it was given."""

    given: object = None

    def draw_masks(self, T, B, generator=None):
        return self.given


def test_draw_masks_of_a_subclass_is_asked(taken):
    layer, x = Given(I, H, hidden_dropout=0.5), torch.randn(T, B, I)
    (masks,) = layer.given = LSTM(I, H, hidden_dropout=0.5).draw_masks(T, B)
    assert_bit_for_bit(layer(x), layer(x, masks=layer.given))
    layer.given = [masks._replace(h=torch.ones(H + 1))]
    with pytest.raises(RuntimeError, match="mask_h: expected shape"):
        layer(x)
    assert taken == [True]
    layer.given = [masks._replace(h=torch.ones(H, requires_grad=True))]
    with pytest.raises(ValueError, match="mask_h: the fused kernels give masks no gradient"):
        layer(x)
    layer.given = None
    with pytest.raises(TypeError):
        layer(x)
    assert taken == [True, False, False]


def test_an_error_in_drawing_is_the_callers():
    layer = LSTM(I, H, hidden_dropout=0.5)
    layer.hidden_dropout = 2
    with pytest.raises(ValueError, match="hidden_dropout: expected a probability"):
        layer(torch.randn(T, B, I))
