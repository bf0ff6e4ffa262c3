"""Checkpoints to predict with and to look into, made without training, and one that is damaged."""

from pathlib import Path

import torch

from rnndrop_cuda.seminar import load_reviews
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training import checkpoint


def save_checkpoint(folder: Path, data: Path, layer: str = "GalLSTM:0.5", **options: object) -> Path:
    """A checkpoint in the folder: random weights, and the vocabulary of the npz `data`, of 20 ids."""
    sizes = {"n_emb": 6, "n_hidden": 20, "vocab_size": 20}
    settings = TrainSettings(data=str(data), unverified_data=True, layer=layer, **{**sizes, **options})
    torch.manual_seed(1)
    tensors = {checkpoint.MODEL + name: 3 * torch.randn_like(t) for name, t in settings.build().state_dict().items()}
    vocabulary = load_reviews(str(data), settings.vocab_size, sha256=None).words
    checkpoint.save(folder, checkpoint.Checkpoint(settings, vocabulary, tensors, {}))
    return folder


def cut_tensors(folder: Path) -> None:
    """Damages a checkpoint."""
    file = next(folder.glob("tensors-*"))
    file.write_bytes(file.read_bytes()[:100])
