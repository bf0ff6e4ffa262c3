"""A layer without h_0 or c_0 begins with zeros: the results and gradients of one that is given them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from rnndrop_cuda import LSTM, functional, ops
from tests.problems import CONSTANTS, INPUTS, OUTPUTS, assert_equals_reference, random_problem, relative_error

ABSENT = [("h_0", "c_0"), ("h_0",), ("c_0",)]
BACKENDS = ["cpu", "python"] if ops.HAS_CPU_KERNELS else ["python"]
needs_ops = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")


def begins_with_zeros(problem, absent=("h_0", "c_0")):
    """The problem without these states, and the same with zeros in their places."""
    given = {name: torch.zeros_like(value) if name in absent else value for name, value in problem.inputs.items()}
    without = {name: None if name in absent else value for name, value in problem.inputs.items()}
    return replace(problem, inputs=without), replace(problem, inputs=given)


@pytest.mark.parametrize("absent", ABSENT, ids="+".join)
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "untied-sample", "zoneout", "all"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_as_from_zeros(backend, masks, lengths, absent):
    layer = partial(functional.lstm_layer, backend=backend)
    for T, proj, reverse in ((5, 0, False), (4, 0, True), (1, 0, False), (3, 2, False), (3, 2, True)):
        problem = random_problem(T=T, masks=masks, lengths=lengths, reverse=reverse, proj=proj)
        without, from_zeros = begins_with_zeros(problem, absent)
        found, expected = without.solve(layer), from_zeros.solve(layer)
        assert found.keys() == expected.keys() - {f"d{name}" for name in absent}
        assert all(torch.equal(found[name], expected[name]) for name in found)
        assert_equals_reference(without, layer)


@needs_ops
@pytest.mark.parametrize("proj", [0, 2])
def test_opcheck(proj):
    problem, _ = begins_with_zeros(random_problem(masks="both", lengths=True, proj=proj))
    inputs = [value if value is None else value.requires_grad_() for value in map(problem.inputs.get, INPUTS)]
    W_hr = problem.inputs["W_hr"].requires_grad_() if proj else None
    arguments = (*inputs, W_hr, *map(problem.options.get, CONSTANTS), False)
    torch.library.opcheck(torch.ops.rnndrop.lstm_layer, (*arguments, True))

    y, _, _, *saved = (t.detach() for t in torch.ops.rnndrop.lstm_layer(*arguments, True))
    upstream = [problem.upstream[name] for name in OUTPUTS]
    torch.library.opcheck(
        torch.ops.rnndrop.lstm_layer_backward,
        (*arguments, y, *saved, *upstream, True, True),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@needs_ops
def test_second_derivatives():
    problem, _ = begins_with_zeros(random_problem(3, 2, 3, 4, masks="both"))
    leaves = {name: value.requires_grad_() for name, value in problem.inputs.items() if value is not None}

    def layer(*given):
        inputs = dict(zip(leaves, given, strict=True))
        return functional.lstm_layer(*map(inputs.get, INPUTS), **problem.options, backend="cpu")

    assert torch.autograd.gradgradcheck(layer, tuple(leaves.values()))


@needs_ops
def test_each_sample_by_itself():
    """Under vmap, where the batch takes in the mapped dimension."""
    problem, _ = begins_with_zeros(random_problem(3, 2, 3, 4))
    x = torch.randn(5, *problem.inputs["x"].shape, dtype=torch.float64)
    rest = [problem.inputs[name] for name in INPUTS[1:]]
    mapped = torch.func.vmap(lambda x: functional.lstm_layer(x, *rest)[0])(x)
    assert relative_error(mapped, torch.stack([functional.lstm_layer(of, *rest)[0] for of in x])) < 1e-12


@pytest.mark.parametrize("bias", [True, False])
def test_the_second_bias_has_a_gradient_of_its_own(bias):
    """One that is scaled in place leaves the other as it is."""
    layer = LSTM(3, 4, bias=bias)
    layer(torch.randn(5, 2, 3))[0].sum().backward()
    if not bias:
        assert all(parameter.grad is not None for parameter in layer.parameters())
        return
    before = layer.bias_ih_l0.grad.clone()
    assert torch.equal(layer.bias_hh_l0.grad, before)
    layer.bias_hh_l0.grad.mul_(2)
    assert torch.equal(layer.bias_ih_l0.grad, before)


def test_a_state_that_has_nothing_of_the_layer_leaves_what_it_has_learned():
    """A state of nn.LSTM's sets h_0 and c_0 to zeros; this one is of another layer alone."""
    model = nn.ModuleDict({"encoder": LSTM(5, 6, learn_initial_state=True), "head": nn.Linear(6, 2)})
    nn.init.ones_(model["encoder"].h_0)
    found = model.load_state_dict(model["head"].state_dict(prefix="head."), strict=False)
    assert {"encoder.h_0", "encoder.c_0"} < set(found.missing_keys)
    assert torch.equal(model["encoder"].h_0, torch.ones_like(model["encoder"].h_0))
