"""The options of `rnndrop language-model`'s three actions; those of `train` as flags or in a TOML or YAML file."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from rnndrop_cuda.noises import NOISES
from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.data.csv_reviews import CSV_SOURCES
from rnndrop_cuda.seminar.data.text import CONTRACTIONS
from rnndrop_cuda.seminar.dropout import MASKS
from rnndrop_cuda.seminar.language_model.model import HEADS
from rnndrop_cuda.seminar.language_model.presets import PRESETS
from rnndrop_cuda.seminar.language_model.settings import (
    LAYERS,
    LEVELS,
    MASK_OPTIONS,
    OPTIMIZERS,
    REDUCTIONS,
    LanguageModelSettings,
)
from rnndrop_cuda.seminar.language_model.text import HELD_OUT, NAMES, REVIEWS_VOCABULARY

NAME = LanguageModelSettings.COMMAND
OUT = "results/language-model"
DEFAULT = LanguageModelSettings()
_number = functools.partial(options.add_number, DEFAULT)
_choice = functools.partial(options.add_choice, DEFAULT)
INSIDE = {
    "input_dropout": "each layer's input, the same mask at every step (Gal & Ghahramani)",
    "hidden_dropout": "h on its way into the next step, the same mask at every step (Gal & Ghahramani)",
    "candidate_dropout": "the candidate g (Semeniuta et al.)",
    "weight_dropout": "the entries of W_hh (DropConnect, AWD-LSTM)",
    "cell_dropout": "cells, for the whole piece of text (RNNDrop, Moon et al.)",
    "hidden_zoneout": "keeping a unit of h as it was (zoneout, Krueger et al.)",
    "cell_zoneout": "keeping a unit of c as it was (zoneout)",
}


def given_options(argv: list[str]) -> dict[str, Any]:
    """The options of `train` that were given, by flags or in the file that --config names; a preset's where not."""
    given = options.given(train_parser(), argv)
    if "text" in given:
        given["text"] = tuple(given["text"])
    preset = given.pop("preset", None)
    return {**(PRESETS[preset].settings if preset else {}), **given}


def main_parser() -> argparse.ArgumentParser:
    """Of the action alone."""
    parser = argparse.ArgumentParser(
        prog=f"rnndrop {NAME}",
        description="Trains a language model with the package's LSTM, tells its perplexity, and writes text with it.",
        epilog="actions:\n"
        "  train      train one, with checkpoints to resume from\n"
        "  evaluate   its perplexity on a text, without dropout and averaged over passes with it\n"
        "  generate   text, and how far passes with dropout agree on each word\n\n"
        f"`rnndrop {NAME} ACTION --help` tells more about each. `rnndrop lm` is the same command.\n\n" + _all_flags(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action", choices=("train", "evaluate", "generate"), metavar="ACTION", help="one of those below"
    )
    return parser


def train_parser() -> options.Parser:
    """To be parsed without defaults, so that what was given can be told from what was not."""
    presets = "\n".join(f"  {name:<16}{preset.paper}" for name, preset in PRESETS.items())
    parser = options.Parser(
        prog=f"rnndrop {NAME} train",
        description=(
            "Trains a language model on the training reviews, whose test part it never sees, or on files with a\n"
            "sentence a line. Writes a checkpoint after every epoch. A run that was killed is resumed from it and\n"
            "ends with the same weights, bit for bit, as one that was left alone."
        ),
        epilog=(
            "examples:\n"
            f"  rnndrop {NAME} train --reviews 2600 --input-dropout 0.3 --hidden-dropout 0.3\n"
            f"  rnndrop {NAME} train --text ptb.train.txt --valid ptb.valid.txt --test ptb.test.txt \\\n"
            "      --preset gal-medium\n"
            f"  rnndrop {NAME} train --resume {OUT} --epochs 40\n"
            f"  torchrun --nproc-per-node 2 -m rnndrop_cuda {NAME} train --out runs/two\n\n"
            f"presets, which other flags win over:\n{presets}\n\n"
            "The same command again resumes where the last one was cut short. best/ is the epoch with the lowest loss\n"
            "on the validation text; the test text is read by `evaluate` alone."
        ),
    )
    _add_run(parser.add_argument_group("the run"))
    _add_text(parser.add_argument_group("text"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    return parser


def evaluate_parser() -> options.Parser:
    parser = options.Parser(
        prog=f"rnndrop {NAME} evaluate",
        description="Tells a trained model's perplexity: with dropout off, and averaged over passes with it on.",
    )
    _add_checkpoint(parser)
    add = parser.add_argument
    add("--text", type=str, metavar="FILE", help="a text, a sentence a line (default: one of those of the run)")
    add("--part", choices=tuple(NAMES), default="test", help="which text of the run (default: test)")
    add("--samples", type=options.whole, default=10, metavar="N", help="passes with dropout, 0: none (default: 10)")
    add("--batch-size", type=options.positive, default=32, metavar="N", help="rows of text at once (default: 32)")
    add("--json", action="store_true", help="print a JSON object")
    return parser


def generate_parser() -> options.Parser:
    parser = options.Parser(
        prog=f"rnndrop {NAME} generate",
        description="Writes text with a trained model; with --samples, how sure it is of each word.",
    )
    _add_checkpoint(parser)
    add = parser.add_argument
    add("--prompt", type=str, default="", help="what the text begins with")
    add("--tokens", type=options.positive, default=40, metavar="N", help="words or characters to write (default: 40)")
    add("--temperature", type=options.above_0, default=0.8, metavar="X", help="below 1: likelier words (default: 0.8)")
    add(
        "--samples", type=options.whole, default=0, metavar="N",
        help="print each word with its probability and its deviation over N passes with dropout",
    )  # fmt: skip
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _all_flags() -> str:
    """For the documentation's test of flags, and for whoever looks one up."""
    flags = sorted(
        {
            flag
            for parser in (train_parser(), evaluate_parser(), generate_parser())
            for action in parser._actions
            for flag in action.option_strings
            if flag.startswith("--") and not flag.startswith("--no-")
        }
    )
    lines, line = [], " "
    for flag in flags:
        if len(line) + len(flag) > 100:
            lines.append(line)
            line = " "
        line += " " + flag
    return "options of one or several of them:\n" + "\n".join([*lines, line])


def _add_checkpoint(parser: options.Parser) -> None:
    options.add_checkpoint(parser, OUT)
    parser.add_argument(
        "--seed", type=options.seed, default=0, metavar="N", help="seed of the masks and the text (default: 0)"
    )
    options.add_device(parser)


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    options.add_config(group)
    add("--preset", choices=tuple(PRESETS), help="a paper's model and training, see below")
    options.add_run_folder(group, OUT)
    _number(group, "epochs", options.positive, "N", "passes over the training text")
    _number(group, "patience", options.positive, "N", "stop after N epochs without a lower validation loss")
    _number(group, "checkpoint_every", options.positive, "N", "write a checkpoint after every N batches, too")
    _number(group, "seed", options.seed, "N", "of weights and dropout")


def _add_text(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", choices=tuple(CSV_SOURCES), help=f"the reviews to train on (default: {DEFAULT.data})")
    _number(group, "reviews", options.positive, "N", "train on the first N reviews, validate and test on N/8 each")
    add("--text", type=str, nargs="+", metavar="FILE", help="train on files instead, a sentence a line")
    add(
        "--valid",
        type=str,
        metavar="FILE",
        help=f"validate on it (default: the last {100 * HELD_OUT:.0f} %% of --text's lines)",
    )
    add("--test", type=str, metavar="FILE", help="the text that evaluate reads")
    _choice(group, "level", LEVELS, "what a token is")
    _choice(group, "contractions", CONTRACTIONS, "of reviews: as for rnndrop train")
    add(
        "--vocab-size", type=options.vocab_size, metavar="N",
        help=f"ids: the most frequent tokens and four more (default: {REVIEWS_VOCABULARY:,} of reviews, of files all)",
    )  # fmt: skip


def _add_model(group: argparse._ArgumentGroup) -> None:
    _choice(group, "layer", LAYERS, "this package's or torch's, which has no dropout inside")
    _number(group, "num_layers", options.num_layers, "N", "stacked layers")
    _number(group, "n_emb", options.positive, "N", "numbers per word")
    _number(group, "n_hidden", options.positive, "N", "units per layer")
    _choice(group, "head", HEADS, "softmax over all words, the same with the embedding's weights, or adaptive")
    _number(group, "init_range", options.above_0, "X", "draw every weight from U(-X, X)")
    _number(group, "embedding_dropout", options.probability, "P", "drop words of the vocabulary")
    _number(group, "dropout_in", options.probability, "P", "drop on the way into the first layer")
    _number(group, "dropout_between", options.probability, "P", "drop between the layers")
    _number(group, "dropout_out", options.probability, "P", "drop on the way into the softmax")
    _choice(group, "dropout_mask", MASKS, "whether the three above draw a mask for each step or one for all")
    for row in NOISES:
        if not row.between_layers:
            what = INSIDE[row.keyword]
            verb = "" if "zoneout" in row.keyword else "dropping "
            _number(group, row.keyword, options.probability, "P", f"inside the recurrence, {verb}{what}")
    for name, choices in MASK_OPTIONS.items():
        _choice(group, name, choices, f"as rnndrop_cuda.LSTM's {name}")


def _add_training(group: argparse._ArgumentGroup) -> None:
    at_least_0 = options.number(float, "a finite number of at least 0", lambda value: 0 <= value < float("inf"))
    at_least_1 = options.number(float, "a finite number of at least 1", lambda value: 1 <= value < float("inf"))
    _number(group, "batch_size", options.positive, "N", "rows of text at once, of all processes together")
    _number(group, "bptt", options.positive, "N", "steps through which the gradient goes back")
    _choice(group, "optimizer", OPTIMIZERS, "nt-asgd is AWD-LSTM's, which averages the weights in the end")
    _number(group, "learning_rate", options.above_0, "X", "of the optimizer")
    _number(group, "decay", at_least_1, "X", "divide the learning rate by X before each epoch after --decay-after")
    _number(group, "decay_after", options.whole, "N", "epochs with the whole learning rate")
    _number(group, "anneal", at_least_1, "X", "divide the learning rate by X after each epoch without a lower loss")
    _number(group, "anneal_after", options.whole, "N", "first epochs that --anneal leaves out")
    _number(group, "nonmono", options.positive, "N", "of nt-asgd: epochs without a lower validation loss that it bears")
    _choice(group, "loss_over", REDUCTIONS, "minimise the tokens' mean loss, or its sum over the steps")
    _number(group, "activation", at_least_0, "X", "penalty on the last layer's output (AWD-LSTM's alpha)")
    _number(group, "slowness", at_least_0, "X", "penalty on its change from step to step (AWD-LSTM's beta)")
    _number(group, "weight_decay", at_least_0, "X", "of the optimizer")
    _number(group, "clip", options.above_0, "X", "scale the gradients down to a joint norm of at most X")
