"""The seminar on recurrent networks for sentiment analysis: its layers, data, model and training.

`load_checkpoint` is here, too, but imported when it is asked for, since it needs the extra `demo`.
"""

from typing import TYPE_CHECKING, Any

from rnndrop_cuda.seminar.data.reviews import Reviews, load_matrix_imdb, load_reviews
from rnndrop_cuda.seminar.data.vectors import Vectors, embedding_of, load_vectors
from rnndrop_cuda.seminar.layers import FastRNNLayer, MyLSTM, RNNLayer, gen_dropout_mask, init_h0_c0
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.batches import LengthBatches
from rnndrop_cuda.seminar.training.loop import evaluate, train, train_epoch
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop

if TYPE_CHECKING:
    from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint as load_checkpoint

__all__ = [
    "FastRNNLayer",
    "LazyRMSprop",
    "LengthBatches",
    "MyLSTM",
    "RNNClassifier",
    "RNNLayer",
    "Reviews",
    "Vectors",
    "embedding_of",
    "evaluate",
    "gen_dropout_mask",
    "init_h0_c0",
    "load_matrix_imdb",
    "load_reviews",
    "load_vectors",
    "train",
    "train_epoch",
]


def __getattr__(name: str) -> Any:
    if name == "load_checkpoint":
        from rnndrop_cuda.seminar.training.checkpoint import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
