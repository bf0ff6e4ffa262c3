"""Language models to start a classifier from, made without training."""

from pathlib import Path

import torch

from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.training import checkpoint

RANKS = [f"#{rank}" for rank in range(1, 14)]
"""Words of the npz of tests, which has ranks only."""


def save_language_model(folder: Path, words: list[str] = RANKS, scale: float = 1.0, **settings: object) -> Path:
    """One with random weights in the folder, of 6 numbers a word and 4 units."""
    made = LanguageModelSettings(**{"n_emb": 6, "n_hidden": 4, **settings})
    words = [*SPECIAL_WORDS, *words]
    torch.manual_seed(1)
    weights = made.build(len(words)).state_dict()
    tensors = {checkpoint.MODEL + name: scale * torch.randn_like(weight) for name, weight in weights.items()}
    checkpoint.save(folder, checkpoint.Checkpoint(made, words, tensors, {}))
    return folder
