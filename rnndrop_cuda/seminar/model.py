"""The seminar's classifier: embedding, one recurrent layer of any make, a linear layer on its last output.

With lengths the last output is that of each review's own last word, however far it is padded. Beside the last output
the linear layer may read the mean and the maximum of all: concat pooling.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.seminar.pooling import POOLINGS, pool


class RNNClassifier(nn.Module):
    """Probability of each label from a review's word ids: sigmoid(linear(rec_layer(embedding(ids))[-1])).

    Args:
        embedding_dim, hidden_dim, vocab_size, label_size: sizes of the embedding E, the state H, the ids and
            the output L.
        batch_size: kept as an attribute, for the seminar's signature; any batch size works.
        rec_layer: called as rec_layer(E, H), or rec_layer(E, H, dropout=dropout) where dropout is given; returns
            what nn.LSTM returns, out [T, B, H] and (h_n, c_n).
        embedding: called as embedding(vocab_size, E).
        dropout: handed to rec_layer, None leaves it out.
        pooling: what the linear layer reads: "last", the last output, or "concat", that with the mean and the maximum
            of all outputs. Of a padded review without lengths the padding's outputs count, too.
    """

    def __init__(
        self,
        embedding_dim: int,
        hidden_dim: int,
        vocab_size: int,
        label_size: int,
        batch_size: int,
        rec_layer: Callable[..., nn.Module] = nn.LSTM,
        embedding: Callable[..., nn.Module] = nn.Embedding,
        dropout: float | None = None,
        pooling: str = "last",
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.batch_size, self.pooling = batch_size, pooling
        self.word_embeddings = embedding(vocab_size, embedding_dim)
        options = {} if dropout is None else {"dropout": dropout}
        self.rec_layer = rec_layer(embedding_dim, hidden_dim, **options)
        self.output = nn.Linear(POOLINGS[pooling] * hidden_dim, label_size)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ids [T, B] of an integer dtype, time first -> probabilities [B, label_size].

        lengths: int64 [B], each in [1, T]: the first so many ids of a review count, what follows is padding. Raises
        TypeError where rec_layer is neither of torch's nn.LSTM nor of this package's LSTM, which know lengths.
        """
        x = self.word_embeddings(ids)
        if lengths is None:
            out, _ = self.rec_layer(x)
            return torch.sigmoid(self.output(pool(out, self.pooling)))
        if isinstance(self.rec_layer, LSTM):
            out, (h_n, _) = self.rec_layer(x, lengths=lengths)
        elif isinstance(self.rec_layer, nn.LSTM):
            packed, (h_n, _) = self.rec_layer(pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False))
            out = packed if self.pooling == "last" else pad_packed_sequence(packed)[0]
        else:
            raise TypeError(f"lengths: expected none with a {type(self.rec_layer).__name__}, which knows no lengths")
        read = h_n[-1] if self.pooling == "last" else pool(out, self.pooling, lengths)
        return torch.sigmoid(self.output(read))
