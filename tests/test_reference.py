"""The oracle itself: against nn.LSTM, against a loop over nn.LSTMCell, and each sample run alone."""

import pytest
import torch
from torch import nn

from rnndrop_cuda import reference
from tests.problems import INPUTS, OUTPUTS, random_problem, relative_error

EXACT = 1e-12


def nn_lstm(x, h_0, c_0, W_ih, W_hh, b_ih=None, b_hh=None, reverse=False):
    """nn.LSTM's own kernel, one direction; reversed by turning x and y round."""
    weights = [W_ih, W_hh] if b_ih is None else [W_ih, W_hh, b_ih, b_hh]
    y, h_n, c_n = torch.lstm(
        x.flip(0) if reverse else x, (h_0[None], c_0[None]), weights, b_ih is not None, 1, 0.0, True, False, False
    )
    return y.flip(0) if reverse else y, h_n[0], c_n[0]


def lstm_cell_loop(x, h_0, c_0, W_ih, W_hh, b_ih=None, b_hh=None, mask_x=1, mask_h=1):
    """Gal's dropout as it is written by hand."""
    cell = nn.LSTMCell(x.shape[-1], h_0.shape[-1], bias=b_ih is not None, dtype=x.dtype)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = dict(zip(names, [w for w in (W_ih, W_hh, b_ih, b_hh) if w is not None], strict=False))
    h, c, y = h_0, c_0, []
    for x_t in x:
        h, c = torch.func.functional_call(cell, weights, (x_t * mask_x, (h * mask_h, c)))
        y.append(h)
    return torch.stack(y), h, c


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in actual:
        assert relative_error(actual[name], expected[name]) < EXACT, name


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(5, 3, 4, 6), (1, 1, 1, 1), (7, 2, 9, 5)])
def test_equals_nn_lstm(sizes, bias, reverse):
    problem = random_problem(*sizes, bias=bias, reverse=reverse)
    assert_same(problem.solve(reference.lstm_layer), problem.solve(nn_lstm))


@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "mask_x-only", "mask_h-only"])
def test_equals_lstm_cell_loop(masks):
    problem = random_problem(masks=masks)
    assert_same(problem.solve(reference.lstm_layer), problem.solve(lstm_cell_loop))


def test_semeniuta_mask_multiplies_the_candidate_only():
    """With m_g = 0 nothing enters the cell: c_t is the product of the forget gates and c_0."""
    problem = random_problem(T=3, masks="none")
    problem.options["mask_g"] = torch.zeros(6, dtype=torch.float64)
    x, h_0, c_0, W_ih, W_hh, b_ih, b_hh = (problem.inputs[name] for name in INPUTS)
    h, c = h_0, c_0
    for x_t in x:
        _, f_pre, _, o_pre = (x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh).chunk(4, dim=-1)
        c = torch.sigmoid(f_pre) * c
        h = torch.sigmoid(o_pre) * torch.tanh(c)
    actual = problem.solve(reference.lstm_layer)
    assert relative_error(actual["c_n"], c) < EXACT
    assert relative_error(actual["h_n"], h) < EXACT


def test_fresh_candidate_masks_belong_to_their_steps():
    problem = random_problem(masks="semeniuta-step")
    inputs = [problem.inputs[name] for name in INPUTS]
    x, h, c, *weights = inputs
    for t, x_t in enumerate(x):
        _, h, c = reference.lstm_layer(x_t[None], h, c, *weights, mask_g=problem.options["mask_g"][t])
    _, h_n, c_n = reference.lstm_layer(*inputs, **problem.options)
    assert relative_error(h, h_n) < EXACT
    assert relative_error(c, c_n) < EXACT


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_equal_running_each_sample_alone(reverse):
    """Outputs and gradients; the masks of a sample go with it."""
    T, B, H = 6, 5, 4
    problem = random_problem(T, B, 3, H, masks="both", lengths=True, reverse=reverse)
    together = problem.solve(reference.lstm_layer)
    lengths = problem.options["lengths"].tolist()
    assert 0 in lengths
    assert T in lengths

    leaves = {k: v.detach().clone().requires_grad_() for k, v in problem.inputs.items()}
    x, h_0, c_0, *weights = (leaves[name] for name in INPUTS)
    loss = torch.zeros((), dtype=torch.float64)
    for b, n in enumerate(lengths):
        one = slice(b, b + 1)
        y, h_n, c_n = torch.zeros(0, 1, H, dtype=torch.float64), h_0[one], c_0[one]
        if n > 0:
            y, h_n, c_n = reference.lstm_layer(
                x[:n, one], h_n, c_n, *weights, mask_x=problem.options["mask_x"],
                mask_h=problem.options["mask_h"][one], mask_g=problem.options["mask_g"][:n, one], reverse=reverse,
            )  # fmt: skip
        alone = {"y": torch.cat([y, torch.zeros(T - n, 1, H, dtype=torch.float64)]), "h_n": h_n, "c_n": c_n}
        for name in OUTPUTS:
            of_sample = (slice(None), one) if name == "y" else one
            assert relative_error(together[name][of_sample], alone[name]) < EXACT
            loss = loss + (problem.upstream[name][of_sample] * alone[name]).sum()
    loss.backward()
    for name, leaf in leaves.items():
        assert relative_error(together["d" + name], leaf.grad) < EXACT, name


@pytest.mark.parametrize("masks", ["none", "both"])
def test_differentiable_twice(masks):
    problem = random_problem(T=2, B=2, I=2, H=2, masks=masks, lengths=True, reverse=True)
    inputs = [problem.inputs[name].requires_grad_() for name in INPUTS]

    def layer(*inputs):
        return reference.lstm_layer(*inputs, **problem.options)

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)
