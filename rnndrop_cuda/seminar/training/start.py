"""What a classifier starts from where its weights are not all drawn: word vectors, or a language model.

The language model's embedding and LSTM become the classifier's (Dai & Le, NeurIPS 2015; Howard & Ruder, ACL 2018); its
softmax is left behind. Words go by their spelling. A word that the language model lacks starts as <unknown>, as which
it was read there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar.data.text import PADDING, SPECIAL_WORDS, UNKNOWN
from rnndrop_cuda.seminar.language_model.pretrained import Pretrained, load_pretrained
from rnndrop_cuda.seminar.layers import lstm_weights
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.settings import ModelSettings

Facts = dict[str, Any]
"""About a language model, as JSON."""


def start(settings: ModelSettings, model: RNNClassifier, words: Sequence[str]) -> Facts | None:
    """Puts the vectors or the language model of the settings, if any, into a model of them.

    words[id] is an id's word. Returns what the language model is, if there is one. Errors as load_vectors',
    load_pretrained's and transfer's.
    """
    settings.load_pretrained(model, words)
    if settings.pretrained is None:
        return None
    return {"folder": settings.pretrained, **transfer(model, words, load_pretrained(settings.pretrained))}


def sizes_of(folder: str) -> Facts:
    """The settings that a classifier takes over from the language model in the folder. Errors as load_pretrained's."""
    settings = load_pretrained(folder).settings
    return {name: getattr(settings, name) for name in ("n_emb", "n_hidden", "num_layers", "contractions")}


def fingerprint(folder: str) -> str:
    """The sha256 that transfer returns, of the language model in the folder. Errors as load_pretrained's."""
    return _hash(load_pretrained(folder))


@torch.no_grad()
def transfer(model: RNNClassifier, words: Sequence[str], found: Pretrained) -> Facts:
    """Gives the model the language model's embedding and LSTM; the padding's row is zero.

    Returns the sha256 of what was taken over and how many words were found. Raises ValueError where the language model
    reads characters and where the sizes are not the classifier's.
    """
    if found.settings.level != "word":
        raise ValueError(f"pretrained: expected a language model of words, got one of {found.settings.level}s")
    weights = _lstm_weights_by_name(model.rec_layer)
    _check_sizes(model, weights, found)
    row_of = {word: row for row, word in enumerate(found.words)}
    known = sum(word in row_of for word in words[len(SPECIAL_WORDS) :])
    if not known:
        raise ValueError(f"pretrained: expected a language model of some of the {len(words)} words, got one of none")
    rows = torch.tensor([row_of.get(word, UNKNOWN) for word in words])
    embedding = model.word_embeddings.weight
    assert isinstance(embedding, Tensor)
    embedding[: len(rows)] = found.embedding[rows]  # ids beyond the words do not occur
    embedding[PADDING] = 0
    for name, weight in weights.items():
        weight.copy_(found.lstm[name])
    return {"sha256": _hash(found), "words found": known, "words not found": len(words) - len(SPECIAL_WORDS) - known}


def _lstm_weights_by_name(layer: nn.Module) -> dict[str, Tensor]:
    """By nn.LSTM's names, whatever the layer calls them."""
    if isinstance(layer, nn.RNNBase):
        return {name: weight for name, weight in layer.named_parameters() if name not in ("h_0", "c_0")}
    return dict(zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), lstm_weights(layer), strict=True))


def _check_sizes(model: RNNClassifier, weights: dict[str, Tensor], found: Pretrained) -> None:
    n_emb = model.word_embeddings.embedding_dim
    if found.embedding.shape[1] != n_emb:
        raise ValueError(f"n_emb: expected the language model's {found.embedding.shape[1]}, got {n_emb}")
    layers, layers_here = (sum(name.startswith("weight_ih") for name in of) for of in (found.lstm, weights))
    if layers != layers_here:
        raise ValueError(f"num_layers: expected the language model's {layers}, got {layers_here}")
    for name, weight in weights.items():
        if name not in found.lstm or found.lstm[name].shape != weight.shape:
            theirs = [found.lstm[name].shape[0] // 4 for name in found.lstm if name.startswith("weight_hh")]
            ours = weights["weight_hh_l0"].shape[1]
            raise ValueError(f"n_hidden: expected the language model's {' and '.join(map(str, theirs))}, got {ours}")


def _hash(found: Pretrained) -> str:
    """Of the words, the embedding and the LSTM's weights, in the order of their names."""
    digest = hashlib.sha256("\n".join(found.words).encode())
    for tensor in (found.embedding, *(found.lstm[name] for name in sorted(found.lstm))):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
