"""Monte Carlo dropout: how certain a classifier is, from many passes with dropout left on.

Gal & Ghahramani, "Dropout as a Bayesian Approximation" (arXiv 1506.02142): a pass with fresh masks is a draw from the
approximate posterior of the weights, so the mean of n passes estimates the predictive distribution, and their
disagreement the uncertainty of the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.checks import check_generator, check_module
from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.masks import noises_on


@dataclass(frozen=True)
class MCPrediction:
    """What n stochastic passes say about a batch of B; K classes, or K = 1 for a single binary probability."""

    mean: Tensor
    """``[B, K]``: the predictive distribution."""
    std: Tensor
    """``[B, K]``: the samples' standard deviation about their mean (divided by n)."""
    predictive_entropy: Tensor
    """``[B]``, nats: H[mean], the whole uncertainty, of data and model; at most the log of the number of classes."""
    mutual_information: Tensor
    """``[B]``, nats: H[mean] - mean of H[sample], the model's part; BALD (Houlsby et al., arXiv 1112.5745)."""
    samples: Tensor
    """``[n, B, K]``: what the model returned, pass by pass."""


@torch.no_grad()
def mc_predict(model: nn.Module, x: Any, n: int, generator: torch.Generator | None = None) -> MCPrediction:
    """Predict with n passes, with every dropout of every :class:`rnndrop_cuda.LSTM` on and everything else in eval.

    The modes of the model are restored afterwards, even after an exception. No other thread may use the model
    meanwhile. No gradient is recorded.

    Args:
        model: called as ``model(x)``; returns class probabilities ``[B, K]``, rows adding up to 1, or ``[B, 1]``, the
            probability of the positive class.
        x: whatever the model takes.
        n: passes, at least 1.
        generator: draws every mask, so that the same state of it gives the same samples; on the model's device.
            Torch's own when absent.

    Raises:
        TypeError: model, n or generator is not of its type, or the model returns no tensor.
        ValueError: n is not positive, the model has no LSTM with dropout, or it returns no probabilities.
    """
    check_module("model", model)
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n: expected an int, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n: expected at least one pass, got {n}")
    check_generator(generator)
    layers = [module for module in model.modules() if isinstance(module, LSTM)]
    if not any(map(drops, layers)):
        raise ValueError(f"model: expected an rnndrop_cuda.LSTM with dropout in it, got {len(layers)} LSTM without")

    with _dropout_in_eval(model, layers, generator):
        samples = torch.stack([_checked(model(x)) for _ in range(n)])
    p = samples.to(torch.promote_types(samples.dtype, torch.float32))  # a mean of halves would round
    mean = p.mean(0)
    total = _entropy(mean)
    return MCPrediction(
        mean=mean,
        std=p.std(0, correction=0),
        predictive_entropy=total,
        mutual_information=(total - _entropy(p).mean(0)).clamp_min(0),  # negative only by rounding
        samples=samples,
    )


def drops(layer: LSTM) -> bool:
    """Whether a layer has any dropout; between layers only if there are at least two."""
    return any(layer.num_layers > 1 or not row.between_layers for row, _, _ in noises_on(layer))


@contextmanager
def _dropout_in_eval(model: nn.Module, layers: list[LSTM], generator: torch.Generator | None) -> Iterator[None]:
    """The model in eval, its layers with masks from the generator; at the end everything is as before."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(layer, layer.mc_dropout) for layer in layers]

    def give_generator(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {"generator": generator} | kwargs

    # A subclass' forward may have nn.LSTM's arguments alone.
    given = [] if generator is None else layers
    hooks = [layer.register_forward_pre_hook(give_generator, with_kwargs=True) for layer in given]
    try:
        model.eval()
        for layer in layers:
            layer.mc_dropout = True
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, flag in flags:
            layer.mc_dropout = flag
        for module, mode in modes:
            module.training = mode


def _checked(output: Any) -> Tensor:
    """The model's output, if these are probabilities; the tolerance allows for half precision."""
    expected = "model: expected it to return probabilities [B, K], or [B, 1] of the positive class"
    if not isinstance(output, Tensor):
        raise TypeError(f"{expected}, got {type(output).__name__}")
    if output.dim() != 2 or output.shape[1] == 0 or not output.is_floating_point():
        raise ValueError(f"{expected}, got shape {list(output.shape)} of {output.dtype}")
    p = output.double()
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"{expected}, got values outside [0, 1] (logits want a softmax or a sigmoid first)")
    if p.shape[1] > 1 and not bool(((p.sum(1) - 1).abs() <= 1e-2).all()):
        raise ValueError(f"{expected}, got rows that do not add up to 1")
    return output


def _entropy(p: Tensor) -> Tensor:
    """Of the last dimension's distribution, in nats; 0 log 0 is 0."""
    if p.shape[-1] == 1:
        p = torch.cat([p, 1 - p], dim=-1)
    return torch.special.entr(p).sum(-1)
