"""The classifier as it is trained and scored, in bfloat16 where that is wanted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Forward(nn.Module):
    """The classifier under bfloat16 autocast, its sigmoid in float32: in bfloat16 it is 1 from 0.998 on."""

    def __init__(self, classifier: nn.Module, device_type: str, autocast: bool) -> None:
        super().__init__()
        self.classifier, self.device_type, self.autocast = classifier, device_type, autocast
        if autocast:
            assert isinstance(classifier.output, nn.Module)
            classifier.output.register_forward_hook(_to_float32)

    def forward(self, ids: Tensor, *lengths: Tensor) -> Tensor:
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.autocast):
            probabilities: Tensor = self.classifier(ids, *lengths)
        return probabilities


def _to_float32(_: nn.Module, args: Any, logits: Tensor) -> Tensor:
    return logits.float()
