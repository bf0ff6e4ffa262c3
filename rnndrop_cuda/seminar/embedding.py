"""The classifier's embedding, with two kinds of dropout on its vectors."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rnndrop_cuda.masks import dropout_mask

DROPOUT_SCOPES = ("word", "element")


class DroppingEmbedding(nn.Embedding):
    """nn.Embedding with dropout in training: what is not dropped is scaled by 1 / (1 - p).

    scope "word": the embedding dropout of Gal & Ghahramani (arXiv 1512.05287, section 4.2). A word of the vocabulary is
    dropped with probability p: all its vectors of a batch are zeros. One mask [num_embeddings] is drawn a call, so that
    a word is dropped wherever it stands.
    scope "element": each number of each vector is dropped independently, as nn.Dropout does.

    weight: [num_embeddings, embedding_dim] to start from, copied; None draws it from N(0, 1).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        p: float = 0.0,
        *,
        scope: str = "word",
        padding_idx: int | None = None,
        sparse: bool = False,
        weight: Tensor | None = None,
    ) -> None:
        if scope not in DROPOUT_SCOPES:
            raise ValueError(f"scope: expected one of {', '.join(DROPOUT_SCOPES)}, got {scope!r}")
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx=padding_idx,
            sparse=sparse,
            _weight=None if weight is None else weight.clone(),
        )
        self.p, self.scope = p, scope

    def forward(self, ids: Tensor) -> Tensor:
        """Integer ids [...] -> [..., embedding_dim]."""
        x = super().forward(ids)
        if not self.p or not self.training:
            return x
        if self.scope == "element":
            return F.dropout(x, self.p)
        mask = dropout_mask((self.num_embeddings,), self.p, dtype=x.dtype, device=x.device)
        return x * mask[ids].unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}, scope={self.scope!r}"
