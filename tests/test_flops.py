"""torch.utils.flop_counter counts the layer as it counts nn.LSTM, and torch.profiler tells forward from backward."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from rnndrop_cuda import LSTM
from tests.modules import FUSED, NOT_USABLE, B, H, I, T, device_of

FORMS = [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2}, {"bias": False}]


def counted(lstm, wanted):
    """FLOPs of the forward, and of the backward to h_0 and to what else is wanted."""
    like = lstm.weight_hh_l0
    x = torch.randn(T, B, I, dtype=like.dtype, device=like.device, requires_grad=True)
    runs = lstm.num_layers * (2 if lstm.bidirectional else 1)
    hx = [
        torch.randn(runs, B, size, dtype=like.dtype, device=like.device, requires_grad=True)
        for size in (lstm.proj_size or H, H)
    ]
    inputs = [*hx, *([x] if "x" in wanted else []), *(lstm.parameters() if "weights" in wanted else [])]
    if "weights" not in wanted:
        lstm.requires_grad_(False)
    if "x" not in wanted:
        x.requires_grad_(False)
    with FlopCounterMode(display=False) as forward:
        y, (h_n, c_n) = lstm(x, hx)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(y.sum() + h_n.sum() + c_n.sum(), inputs)
    return forward.get_total_flops(), backward.get_total_flops()


@FUSED
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("wanted", [("x", "weights"), ("weights",), ("x",)], ids=str)
def test_flops_are_those_of_nn_lstm(backend, form, wanted):
    """Of the nn.LSTM that is counted product by product: the one in float64 on the CPU."""
    expected = counted(nn.LSTM(I, H, **form, dtype=torch.float64), wanted)
    assert min(expected) > 0
    for dropout in (0.0, 0.5):
        ours = LSTM(I, H, **form, hidden_dropout=dropout, input_dropout=dropout, device=device_of(backend))
        assert counted(ours, wanted) == expected


def test_flops_by_hand():
    gates, projection = 2 * T * B * 4 * H * (I + 2), 2 * T * B * 2 * H
    assert counted(LSTM(I, H, proj_size=2), ("x", "weights"))[0] == gates + projection


@pytest.mark.skipif(bool(NOT_USABLE["cpu"]), reason=NOT_USABLE["cpu"])
def test_the_profiler_names_forward_and_backward():
    lstm, x = LSTM(I, H, 2, hidden_dropout=0.5), torch.randn(T, B, I)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        lstm(x)[0].sum().backward()
    times = {event.key: event.count for event in profiler.key_averages()}
    assert times["rnndrop::lstm_layer"] == 2
    assert times["rnndrop::lstm_layer_backward"] == 2
