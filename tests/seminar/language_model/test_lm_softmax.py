"""linear and cross_entropy against F's in float64, and the adaptive head against nn.AdaptiveLogSoftmaxWithLoss's."""

import pytest
import torch
from torch.nn import functional as F

from rnndrop_cuda.seminar.language_model.model import AdaptiveHead
from rnndrop_cuda.seminar.language_model.softmax import cross_entropy, linear

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def gradients(compute, *inputs):
    """What is computed, and what a random upstream gradient gives each of the inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    found = compute(*leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(found.shape, generator=generator, dtype=torch.float64).to(found.dtype)
    return [found.detach(), *torch.autograd.grad(found, leaves, upstream)]


def assert_as_exact(compute, standard, *inputs):
    """The error beside float64 is at most twice that of torch's own function, and a few of float32's last digits."""
    exact = gradients(standard, *(tensor.double() for tensor in inputs))
    for ours, theirs, right in zip(
        gradients(compute, *inputs), gradients(standard, *inputs), exact, strict=True
    ):  # fmt: skip
        assert ours.shape == right.shape
        slack = 1e-6 * right.abs().max()
        assert (ours - right).abs().max() <= 2 * (theirs - right).abs().max() + slack


@pytest.mark.parametrize("N, K, M", [(129, 31, 1025), (257, 300, 65), (70, 129, 257), (1, 1600, 1601)])
def test_linear_equals_f_linear(N, K, M):
    x, weight, bias = torch.randn(N, K), torch.randn(M, K), torch.randn(M)
    if HAS_ONEDNN:
        assert "OneDNN" in type(linear(x.requires_grad_(), weight).grad_fn).__name__, "the shape is none of oneDNN's"
    assert_as_exact(linear, F.linear, x.detach(), weight, bias)
    assert_as_exact(linear, F.linear, x.detach(), weight)
    assert_as_exact(
        lambda x, w: linear(x, w.T, bias), lambda x, w: F.linear(x, w.T, bias.to(w.dtype)), x.detach(), weight.T
    )


def test_linear_leaves_out_gradients_that_nobody_needs():
    x, weight = torch.randn(129, 150), torch.randn(150, 150, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(150, -1), rtol=1e-4, atol=1e-4)


def test_linear_is_torchs_own_where_onednn_does_not_serve():
    x, weight = torch.randn(129, 150), torch.randn(150, 150)
    assert torch.equal(linear(x[:2], weight), F.linear(x[:2], weight)), "small"
    assert torch.equal(linear(x.double(), weight.double()), F.linear(x.double(), weight.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cross_entropy_is_minus_log_p(dtype):
    scores, targets = (4 * torch.randn(57, 131)).to(dtype), torch.randint(0, 131, (57,))
    assert_as_exact(
        lambda s: cross_entropy(s, targets), lambda s: F.cross_entropy(s, targets, reduction="none"), scores
    )


def test_the_loss_of_a_word_that_is_all_but_impossible_is_finite():
    """float32 has no number for e^-200."""
    scores = torch.tensor([[0.0, -200.0, 0.0], [0.0, 1.0, 2.0]])
    losses, dscores = gradients(lambda s: cross_entropy(s, torch.tensor([1, 2])), scores)
    expected = gradients(lambda s: F.cross_entropy(s, torch.tensor([1, 2]), reduction="none"), scores)
    torch.testing.assert_close([losses, dscores], expected)
    assert losses[0] > 200


def test_a_score_that_is_no_number_gives_a_loss_that_is_none():
    scores = torch.tensor([[0.0, float("nan")]], requires_grad=True)
    assert bool(cross_entropy(scores, torch.tensor([0])).isnan().all())


@pytest.mark.parametrize(
    "words", [range(100), range(10), range(10, 40), range(40, 100)], ids=["all", "head", "first tail", "last tail"]
)
@pytest.mark.parametrize("n_hidden", [24, 3])
def test_the_adaptive_head_equals_torchs(words, n_hidden):
    head = AdaptiveHead(n_hidden, 100)
    h = torch.randn(301, n_hidden)
    targets = torch.tensor(words)[torch.randint(0, len(words), (301,))]
    found, expected = h.clone().requires_grad_(), h.clone().requires_grad_()
    losses = head(found, targets)
    losses.square().sum().backward()
    ours = {name: weight.grad for name, weight in head.named_parameters()}
    head.zero_grad()
    theirs = -head.softmax(expected, targets).output
    theirs.square().sum().backward()
    torch.testing.assert_close(losses, theirs)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5)
    for name, weight in head.named_parameters():
        assert (ours[name] is None) == (weight.grad is None), f"{name}: DDP is told which clusters have no word"
        if weight.grad is not None:
            torch.testing.assert_close(ours[name], weight.grad, rtol=1e-4, atol=1e-4)
