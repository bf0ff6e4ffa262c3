"""What other models may start from: the vocabulary, the embedding and the LSTM of a trained language model."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import Tensor

from rnndrop_cuda.seminar.language_model.model import LanguageModel
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.training.checkpoint import find, read_of


@dataclass(frozen=True)
class Pretrained:
    """words[id] is an id's token; embedding [V, E]; lstm: weights by nn.LSTM's names, of num_layers layers."""

    words: list[str]
    embedding: Tensor
    lstm: dict[str, Tensor]
    settings: LanguageModelSettings


def load_pretrained(folder: str | os.PathLike[str]) -> Pretrained:
    """Of a run of `rnndrop language-model train` (its best checkpoint) or of a checkpoint. Errors as read_of's."""
    model, words, settings = load_language_model(folder)
    lstm = {
        name.replace("_l0", f"_l{k}"): weight.detach()
        for k, layer in enumerate(model.rec)
        for name, weight in layer.named_parameters()
    }
    return Pretrained(words, model.embedding.weight.detach(), lstm, settings)


def load_language_model(folder: str | os.PathLike[str]) -> tuple[LanguageModel, list[str], LanguageModelSettings]:
    """The model (on the CPU, in eval), its vocabulary and its settings. Errors as read_of's."""
    found = read_of(find(folder, "language-model train"), LanguageModelSettings)
    return found.load_into(found.settings.build(len(found.words))).eval(), found.words, found.settings
