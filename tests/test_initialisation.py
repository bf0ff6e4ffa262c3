"""How the parameters begin: init, forget_bias."""

import pytest
import torch
from torch import nn

from rnndrop_cuda import LSTM
from rnndrop_cuda.lstm import INITS
from tests.modules import H, I
from tests.problems import relative_error


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_init(init, dtype):
    layer = LSTM(I, 40, 2, bidirectional=True, init=init, dtype=dtype)
    bound, tolerance = 40**-0.5, 1e-5 if dtype == torch.float32 else 0.02
    for reset in (False, True):
        if reset:
            before = [p.clone() for p in layer.parameters()]
            layer.reset_parameters()
            assert not any(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
        for name, parameter in layer.named_parameters():
            p = parameter.detach().double()
            if init == "orthogonal" and "weight_hh" in name:
                for gate in p.chunk(4):
                    assert relative_error(gate @ gate.T, torch.eye(40)) < tolerance
                assert relative_error(p[:40], p[40:80]) > 0.1
            elif init == "normal" and "weight_hh" in name:
                assert abs(p.mean()) < 5 / p.numel() ** 0.5
                assert abs(p.var() - 1) < 5 * (2 / p.numel()) ** 0.5
            else:
                limit = 0.05 if init == "uniform" else bound
                assert 0.9 * limit < p.abs().max() <= limit * (1 + tolerance)
                assert abs(p.mean()) < 5 * limit / (3 * p.numel()) ** 0.5


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("forget_bias", [1, 0.0, -2.5])
def test_forget_bias_is_the_sum_of_both(init, forget_bias):
    layer = LSTM(I, H, 2, bidirectional=True, init=init, forget_bias=forget_bias)
    for reset in (False, True):
        if reset:
            layer.reset_parameters()
        for _, _, b_ih, b_hh in layer.all_weights:
            total = (b_ih + b_hh).chunk(4)
            assert torch.equal(total[1], torch.full((H,), float(forget_bias)))
            assert total[0].any() and total[2].any() and total[3].any()


def test_default_init_with_options_draws_what_nn_lstm_draws():
    torch.manual_seed(4)
    theirs = nn.LSTM(I, H)
    torch.manual_seed(4)
    ours = LSTM(I, H, forget_bias=1.0, learn_initial_state=True)
    assert all(torch.equal(getattr(ours, f"weight_{k}_l0"), getattr(theirs, f"weight_{k}_l0")) for k in ("ih", "hh"))
    after = torch.rand(1)
    torch.manual_seed(4)
    nn.LSTM(I, H)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("init", INITS)
def test_init_on_the_meta_device(init):
    layer = LSTM(I, H, init=init, learn_initial_state=True, device="meta", dtype=torch.float64)
    assert all(p.device.type == "meta" and p.dtype == torch.float64 for p in layer.parameters())
