"""torch.func over the layer: per-sample gradients, vmap over everything, nested derivatives, forward mode refused."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from rnndrop_cuda import LSTM, functional
from tests.modules import (
    ANY_BACKEND,
    FUSED,
    B,
    H,
    I,
    T,
    assert_close,
    build,
    device_of,
    flat,
    loss_of,
    random_x,
    training_step,
)
from tests.problems import CONSTANTS


def detached(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def loss_of_sample(model):
    """The loss of one sample x [T, I], as a function of the weights too."""

    def loss(weights, x, **options):
        return loss_of(torch.func.functional_call(model, weights, (x.unsqueeze(1),), options))

    return loss


@ANY_BACKEND
def test_per_sample_gradients_equal_a_loop(backend):
    model, x = build(backend).eval(), random_x(backend)
    weights, loss = detached(model), loss_of_sample(model)
    in_one_go = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 1))(weights, x)
    for b in range(B):
        leaves = [x[:, b].clone().requires_grad_(), *model.parameters()]
        expected = torch.autograd.grad(loss_of(model(leaves[0].unsqueeze(1))), leaves)
        of_weights, of_x = in_one_go
        assert_close([of_x[b], *(gradient[b] for gradient in of_weights.values())], expected)


@ANY_BACKEND
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_draws_masks_as_its_randomness_says(backend, randomness):
    model, x = build(backend), random_x(backend)[:, 0]
    copies = torch.stack([x, x, x])
    gradient = torch.func.grad(loss_of_sample(model))
    of_copies = torch.func.vmap(gradient, in_dims=(None, 0), randomness=randomness)(detached(model), copies)
    first, second, _ = of_copies["weight_hh_l0"]
    assert torch.equal(first, second) == (randomness == "same")
    assert first.any()


@ANY_BACKEND
def test_vmap_over_models_equals_a_loop(backend):
    models, x = [build(backend).eval() for _ in range(3)], random_x(backend)
    weights, _ = torch.func.stack_module_state(models)
    outputs = torch.func.vmap(lambda w: torch.func.functional_call(models[0], w, (x,)))(weights)
    for k, model in enumerate(models):
        assert_close([value[k] for value in flat(outputs)], flat(model(x)))


LAYER_ARGUMENTS = ("x", "h_0", "c_0", "W_ih", "W_hh", "b_ih", *CONSTANTS)


@ANY_BACKEND
@pytest.mark.parametrize(
    "mapped",
    [
        ("x", 1), ("h_0", 0), ("c_0", 2), ("W_hh", 1), ("b_ih", 1), ("mask_x", 1), ("mask_h", 1), ("mask_g", 1),
        ("mask_c", 1), ("zone_c", 0), ("zone_h", 1), ("lengths", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mask_dims", ["shared", "sample", "untied", "untied sample"])
@pytest.mark.parametrize("B", [3, 1])
def test_vmap_over_each_argument_equals_a_loop(backend, mapped, mask_dims, B):
    """Outputs and gradients, with the mapped dimension anywhere."""
    name, dim = mapped
    batch = (B,) if mask_dims.endswith("sample") else ()
    gates = (4, *(batch or (1,))) if mask_dims.startswith("untied") else batch
    shapes = {
        "x": (T, B, I), "h_0": (B, H), "c_0": (B, H), "W_ih": (4 * H, I), "W_hh": (4 * H, H), "b_ih": (4 * H,),
        "mask_x": (*gates, I), "mask_h": (*gates, H), "mask_g": (T, B, H) if batch else (H,), "mask_c": (*batch, H),
        "zone_c": (T, B, H) if batch else (H,), "zone_h": (*batch, H), "lengths": (B,),
    }  # fmt: skip
    device, N = device_of(backend), 4

    def draw(argument, *extra):
        shape = (*extra, *shapes[argument])
        if argument == "lengths":
            return torch.randint(0, T + 1, shape, device=device)
        return torch.randn(shape, dtype=torch.float64, device=device)

    with_lengths = name in ("lengths", "c_0")
    given = {argument: draw(argument) for argument in LAYER_ARGUMENTS if argument != "lengths" or with_lengths}
    given[name] = draw(name, N).movedim(0, dim)
    in_dims = {argument: dim if argument == name else None for argument in given}
    upstream = draw("x").sum(-1, keepdim=True)

    def loss(differentiable, constant):
        y, h_n, c_n = functional.lstm_layer(**differentiable, **constant, backend=backend)
        return (y * upstream).sum() + (h_n.sin() * c_n).sum(), (y, h_n, c_n)

    def split(values):
        return (
            {argument: value for argument, value in values.items() if argument not in CONSTANTS},
            {argument: value for argument, value in values.items() if argument in CONSTANTS},
        )

    solve = torch.func.grad(loss, has_aux=True)
    gradients, outputs = torch.func.vmap(lambda values: solve(*split(values)), in_dims=(in_dims,))(given)
    for n in range(N):
        one = given | {name: given[name].select(dim, n)}
        differentiable, constant = split(one)
        leaves = {argument: value.clone().requires_grad_() for argument, value in differentiable.items()}
        value, expected = loss(leaves, constant)
        assert_close([output[n] for output in outputs], expected)
        wanted = torch.autograd.grad(value, list(leaves.values()))
        assert_close([gradients[argument][n] for argument in leaves], wanted)


@ANY_BACKEND
def test_derivatives_nest_in_torch_func(backend):
    """A Hessian by reverse mode twice, against plain torch."""
    model, x = build(backend).eval(), random_x(backend, T=2, B=1)
    plain = model.to_torch()

    def hessian(model):
        return torch.func.jacrev(torch.func.jacrev(lambda x: loss_of(model(x))))(x)

    assert_close([hessian(model)], [torch.autograd.functional.hessian(lambda x: loss_of(plain(x)), x)])


@FUSED
@pytest.mark.parametrize("transform", ["vjp", "per sample", "grad of vmap", "grad of grad"])
def test_torch_compile_takes_torch_func_over_the_layer(backend, transform):
    """It leaves what derives to eager PyTorch, as it does with nn.LSTM."""
    torch._dynamo.reset()
    x = random_x(backend)
    model = LSTM(I, H, hidden_zoneout=0.2).to(x).eval()
    weights, loss = detached(model), loss_of_sample(model)

    def of_batch(weights, x):
        return loss_of(torch.func.functional_call(model, weights, (x,)))

    def of_samples(weights, x):
        return torch.func.vmap(loss, (None, 1))(weights, x).sum()

    def squares_of_gradient(weights, x):
        return sum(g.square().sum() for g in torch.func.grad(of_batch)(weights, x).values())

    def derive(weights, x):
        if transform == "vjp":
            value, pull_back = torch.func.vjp(of_batch, weights, x)
            return pull_back(value)
        if transform == "per sample":
            return torch.func.vmap(torch.func.grad(loss), (None, 1))(weights, x)
        function = of_samples if transform == "grad of vmap" else squares_of_gradient
        return torch.func.grad(function, argnums=(0, 1))(weights, 2 * x)

    compiled = torch.compile(derive, backend="aot_eager")
    found, expected = (tree_leaves(run(weights, x)) for run in (compiled, derive))
    assert_close(found, expected)


@FUSED
def test_torch_compile_takes_vmap_over_the_layer_in_one_graph(backend):
    torch._dynamo.reset()
    model, x = build(backend).eval(), random_x(backend)
    run = torch.func.vmap(lambda x: model(x.unsqueeze(1))[0], 1)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    assert_close([compiled(x)], [run(x)])


def function_of_input_and_weights(backend):
    """A layer with every mask given, as a function of tensors, and tensors to call it with."""
    model, x = build(backend, weight_dropout=0.5), random_x(backend)
    masks = model.draw_masks(T, B)
    names, parameters = zip(*detached(model).items(), strict=True)

    def run(x, *parameters):
        weights = dict(zip(names, parameters, strict=True))
        return tuple(flat(torch.func.functional_call(model, weights, (x,), {"masks": masks})))

    return run, (x, *parameters)


def dual_outputs(run, inputs):
    with forward_ad.dual_level():
        outputs = run(*(forward_ad.make_dual(value, torch.ones_like(value)) for value in inputs))
        return [forward_ad.unpack_dual(output).tangent for output in outputs]


def forward_mode(run, inputs):
    tangents = tuple(map(torch.ones_like, inputs))
    return torch.func.jvp(run, inputs, tangents)[1]


FORWARD_MODE = {
    "jvp": forward_mode,
    "jacfwd": lambda run, inputs: torch.func.jacfwd(lambda x: run(x, *inputs[1:])[0].sum())(inputs[0]),
    "hessian": lambda run, inputs: torch.func.hessian(lambda x: run(x, *inputs[1:])[0].sum())(inputs[0]),
    "dual": dual_outputs,
    "dual, where autograd is off": torch.no_grad()(dual_outputs),
    "compiled": lambda run, inputs: torch.compile(forward_mode, backend="eager")(run, inputs),
}


@FUSED
@pytest.mark.parametrize("kind", FORWARD_MODE)
def test_forward_mode_is_refused_where_it_would_be_lost(backend, kind):
    torch._dynamo.reset()
    with pytest.raises(NotImplementedError, match="backend='python' only"):
        FORWARD_MODE[kind](*function_of_input_and_weights(backend))


@FUSED
def test_forward_mode_is_refused_in_backward(backend):
    """Forward over reverse by hand: the upstream gradient alone carries a tangent."""
    run, inputs = function_of_input_and_weights(backend)
    x = inputs[0].requires_grad_()
    y = run(*inputs)[0]
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="backend='python' only"):
        torch.autograd.grad(y, x, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


@FUSED
def test_forward_mode_elsewhere_does_not_matter(backend):
    run, inputs = function_of_input_and_weights(backend)

    def scaled(scale):
        return run(*inputs)[0] * scale

    scale = torch.ones((), dtype=torch.float64, device=inputs[0].device)
    assert_close([torch.func.jvp(scaled, (scale,), (scale,))[1]], [run(*inputs)[0]])


@pytest.mark.parametrize("kind", ["jvp", "dual", "dual, where autograd is off", "compiled"])
def test_forward_mode_on_the_python_backend(kind):
    """Against reverse mode applied twice."""
    torch._dynamo.reset()
    run, inputs = function_of_input_and_weights("python")
    _, expected = torch.autograd.functional.jvp(run, inputs, tuple(map(torch.ones_like, inputs)))
    assert all(tangent.any() for tangent in expected)
    assert_close(FORWARD_MODE[kind](run, inputs), expected)


def test_vmap_over_no_entry_keeps_the_shape():
    layer = LSTM(5, 6)
    y, (h_n, c_n) = torch.func.vmap(layer)(torch.randn(0, 4, 3, 5))
    assert y.shape == (0, 4, 3, 6)
    assert h_n.shape == c_n.shape == (0, 1, 3, 6)


@ANY_BACKEND
def test_functionalize_keeps_outputs_and_gradients(backend):
    """Masks are drawn inside, and what comes out is changed in place."""
    model = build(backend)

    def changed(x):
        y, (h_n, c_n) = model(x)
        return y.mul(2).add_(1), (h_n, c_n)

    x = random_x(backend)
    as_called, functionalized = (
        training_step(model, x, run=run) for run in (changed, torch.func.functionalize(changed))
    )
    assert_close(functionalized, as_called)
