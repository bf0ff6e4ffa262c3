"""DP-SGD (Abadi et al., arXiv 1607.00133) without another package: per-sample gradients by torch.func.

Each sample's gradient is cut to a norm, the sum gets Gaussian noise, and the step follows its mean. vmap goes through
the layer, and draws masks for each sample. The accounting of the privacy that is spent is not part of this; Opacus has
accountants that need the noise, the rate of sampling and the number of steps.

python examples/private_training.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from rnndrop_cuda import LSTM

FEATURES = 6
Parameters = dict[str, Tensor]


class Classifier(nn.Module):
    """The probability, as a logit, that a sequence has the label."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = LSTM(FEATURES, 16, batch_first=True, hidden_dropout=0.1)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x)[1][0][-1]).squeeze(-1)
        return logits


def gradients_of_samples(model: nn.Module, x: Tensor, labels: Tensor) -> Parameters:
    """For each parameter ``[B, ...]``: the gradient of each sample's own loss, with masks of its own."""

    def loss(parameters: Parameters, x: Tensor, label: Tensor) -> Tensor:
        logit = functional_call(model, parameters, (x.unsqueeze(0),))
        return nn.functional.binary_cross_entropy_with_logits(logit, label.unsqueeze(0))

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, x, labels)


def set_private_gradients(model: nn.Module, samples: Parameters, max_norm: float, noise: float) -> None:
    """The mean of the samples' gradients, each of norm max_norm at most, plus noise of max_norm * noise in the sum."""
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in samples.values()]).norm(dim=0)
    weights = (max_norm / norms.clamp_min(1e-12)).clamp_max(1)
    for name, parameter in model.named_parameters():
        total = torch.einsum("b,b...->...", weights, samples[name])
        parameter.grad = (total + max_norm * noise * torch.randn_like(total)) / len(weights)


def main(steps: int = 60) -> tuple[float, float]:
    """The loss on other sequences before and after."""
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def sequences(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 8, FEATURES)
        return x, (x[..., 0].sum(1) > 0).float()

    def loss_of(x: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            return float(nn.functional.binary_cross_entropy_with_logits(model.eval()(x), labels))

    others = sequences(256)
    before = loss_of(*others)
    for _ in range(steps):
        samples = gradients_of_samples(model.train(), *sequences(64))
        set_private_gradients(model, samples, max_norm=1.0, noise=0.5)
        optimizer.step()
    return before, loss_of(*others)


if __name__ == "__main__":
    before, after = main()
    print(f"loss on other sequences: {before:.3f} before, {after:.3f} after")
