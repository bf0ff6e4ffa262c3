"""The module under autograd's other uses, and the same numbers again on every run."""

import functools

import pytest
import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from rnndrop_cuda import LSTM
from tests.modules import (
    ANY_BACKEND,
    DROPOUT,
    FUSED,
    all_equal,
    assert_close,
    build,
    device_of,
    flat,
    loss_of,
    random_x,
    training_step,
)


@ANY_BACKEND
def test_backward_in_eval_mode_equals_nn_lstm(backend):
    """Dropout is off, gradients are not."""
    model, x = build(backend).eval(), random_x(backend)
    assert_close(training_step(model, x), training_step(model.to_torch(), x))


@ANY_BACKEND
def test_backward_twice_with_retain_graph_doubles_the_gradients(backend):
    model, x = build(backend), random_x(backend).requires_grad_()
    loss = loss_of(model(x))
    loss.backward(retain_graph=True)
    once = [t.grad.clone() for t in (x, *model.parameters())]
    loss.backward()
    assert all_equal([t.grad for t in (x, *model.parameters())], [2 * gradient for gradient in once])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@ANY_BACKEND
@pytest.mark.parametrize("lengths", [None, [2, 3]])
def test_gradgradcheck_with_every_dropout(backend, lengths):
    model, x = build(backend), random_x(backend, T=3, B=2).requires_grad_()
    masks = model.draw_masks(3, 2)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def run(x, *parameters):
        torch.manual_seed(1)  # nn.LSTM's dropout, between the layers
        weights = dict(zip(names, parameters, strict=True))
        options = {"masks": masks, "lengths": lengths}
        return tuple(flat(torch.func.functional_call(model, weights, (x,), options)))

    inputs = (x, *(p.detach().requires_grad_() for p in parameters))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    # Upstream gradients that are missing are test_ops.py's: here they would be most of the time.
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True, check_undefined_grad=False)


@ANY_BACKEND
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_draws_the_same_masks_again(backend, use_reentrant):
    model, x = build(backend), random_x(backend)

    def recomputed(x):
        return checkpoint(lambda x: tuple(flat(model(x))), x, use_reentrant=use_reentrant, preserve_rng_state=True)

    # A reentrant checkpoint forbids autograd.grad, and does not see tensors in a nested tuple.
    def step(run):
        torch.manual_seed(1)
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        output = run(leaf)
        sum(value.sin().sum() for value in output).backward()
        return [*output, leaf.grad, *(p.grad for p in model.parameters())]

    assert all_equal(step(recomputed), step(lambda x: flat(model(x))))


@FUSED
@pytest.mark.parametrize("options", [{}, {"num_layers": 1, "bidirectional": False, "dropout": 0.0}])
def test_a_selective_checkpoint_keeps_what_the_op_returned(backend, options):
    model, x = build(backend, **options), random_x(backend)
    calls = []

    def policy(ctx, op, *args, **kwargs):
        if op is not torch.ops.rnndrop.lstm_layer.default:
            return CheckpointPolicy.PREFER_RECOMPUTE
        calls.append(op)
        return CheckpointPolicy.MUST_SAVE

    def run(x):
        contexts = functools.partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(model, x, use_reentrant=False, context_fn=contexts)

    assert all_equal(training_step(model, x, run=run), training_step(model, x))
    assert calls


@ANY_BACKEND
@pytest.mark.parametrize("options", [{}, {"proj_size": 3}, {"num_layers": 1, "bidirectional": False, "dropout": 0.0}])
def test_every_gradient_has_memory_of_its_own(backend, options):
    """As nn.LSTM's have: clip_grad_norm_ and GradScaler.unscale_ work in place."""
    model, x = build(backend, **options), random_x(backend)
    gradients = torch.autograd.grad(loss_of(model(x)), list(model.parameters()))
    assert len({gradient.data_ptr() for gradient in gradients}) == len(gradients)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    assert abs(norm / 0.01 - 1) < 1e-3


@ANY_BACKEND
def test_functional_call_takes_other_weights(backend):
    model, other, x = build(backend).eval(), build(backend).eval(), random_x(backend)
    weights = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    output = torch.func.functional_call(model, weights, (x,))
    assert all_equal(flat(output), flat(other(x)))
    gradients = torch.autograd.grad(loss_of(output), list(weights.values()))
    assert all_equal(gradients, torch.autograd.grad(loss_of(other(x)), list(other.parameters())))
    assert not torch.equal(model(x)[0], output[0])


@ANY_BACKEND
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_repeats_bit_for_bit(backend, lengths):
    model, x = build(backend, dtype=torch.float32), random_x(backend, dtype=torch.float32)
    first = training_step(model, x, lengths=lengths)
    for _ in range(3):
        assert all_equal(training_step(model, x, lengths=lengths), first)


@pytest.mark.usefixtures("two_threads")
@ANY_BACKEND
def test_repeats_bit_for_bit_where_threads_share_the_work(backend):
    model = LSTM(64, 128, 2, bidirectional=True, **DROPOUT, backend=backend, device=device_of(backend))
    x = torch.randn(10, 65, 64, device=device_of(backend))
    first = training_step(model, x)
    for _ in range(3):
        assert all_equal(training_step(model, x), first)


@ANY_BACKEND
@pytest.mark.parametrize("mask_scope", ["batch", "sample"])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_deterministic_algorithms(backend, mask_scope, lengths, monkeypatch):
    """In this mode torch fills every empty tensor with NaN: what is read before it is written shows."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    model, x = build(backend, mask_scope=mask_scope), random_x(backend)
    expected = training_step(model, x, lengths=lengths)
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        actual = training_step(model, x, lengths=lengths)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all_equal(actual, expected)
