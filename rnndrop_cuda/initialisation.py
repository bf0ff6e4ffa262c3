"""How an LSTM's parameters begin."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

INITS = ("default", "orthogonal", "normal", "uniform")


@torch.no_grad()
def initialise(parameters: Iterable[tuple[str, nn.Parameter]], H: int, init: str, forget_bias: float | None) -> None:
    """Change parameters that are drawn as nn.LSTM's into what LSTM's ``init`` and ``forget_bias`` say."""
    for name, parameter in parameters:
        if init == "uniform":
            nn.init.uniform_(parameter, -0.05, 0.05)
        elif init == "normal" and name.startswith("weight_hh"):
            nn.init.normal_(parameter)
        elif init == "orthogonal" and name.startswith("weight_hh"):
            for gate in parameter.split(H):
                exact = torch.promote_types(gate.dtype, torch.float32)  # half precision has no QR
                gate.copy_(nn.init.orthogonal_(torch.empty_like(gate, dtype=exact)))
        if forget_bias is not None and name.startswith("bias"):
            parameter[H : 2 * H] = forget_bias if name.startswith("bias_ih") else 0.0
