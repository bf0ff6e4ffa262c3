"""`rnndrop language-model`: trains a language model, tells its perplexity on a text, and writes text with it."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rnndrop_cuda.provenance import facts
from rnndrop_cuda.seminar.commands import options, runs
from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line
from rnndrop_cuda.seminar.commands.language_model_options import (
    NAME,
    OUT,
    evaluate_parser,
    generate_parser,
    given_options,
    main_parser,
    train_parser,
)
from rnndrop_cuda.seminar.commands.output import print_json
from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS, UNKNOWN
from rnndrop_cuda.seminar.language_model.evaluate import has_dropout, mc_score, score
from rnndrop_cuda.seminar.language_model.generate import as_text, generate, spread
from rnndrop_cuda.seminar.language_model.pieces import Pieces
from rnndrop_cuda.seminar.language_model.pretrained import load_language_model
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.language_model.text import NAMES, encode, ids_of, lines_of, load_text, read_lines, tokens_of
from rnndrop_cuda.seminar.language_model.trainer import LanguageModelTrainer
from rnndrop_cuda.seminar.training import tensorboard
from rnndrop_cuda.seminar.training.processes import Processes
from rnndrop_cuda.seminar.training.run import LAST

# As train's; where the files lie decides nothing, what is in them is compared.
MAY_CHANGE = {"epochs", "patience", "checkpoint_every", "text", "valid", "test"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop language-model argv...`; 0 done, 1 the loss is not finite, 2 wrong input, 130 Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    action = main_parser().parse_args(argv[:1]).action
    return ACTIONS[action](argv[1:])


def _train(argv: list[str]) -> int:
    processes = Processes()
    try:
        given = given_options(argv)
        trainer = _prepared(argv, given, processes)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        processes.stop()
        return runs.fail_once(processes, NAME, one_line(error, flags_of(train_parser())))
    status = runs.train_to_the_end(trainer, given.get("tensorboard", False), "perplexity")
    if status == 0 and trainer.processes.first:
        part = " --part val" if trainer.settings.text and trainer.settings.test is None else ""
        print(f"next: rnndrop {NAME} evaluate --checkpoint {trainer.out}{part}, or generate")
    return status


def _prepared(argv: list[str], given: dict[str, Any], processes: Processes) -> LanguageModelTrainer:
    """All that can be wrong is found here, before training."""
    device = options.usable_device(runs.device_name(given.get("device", "auto"), processes))
    if given.get("tensorboard"):
        tensorboard.check_installed()
    processes.start(device)
    settings, out, resumed_from = processes.from_first(
        lambda: runs.open_run(given, LanguageModelSettings, OUT, MAY_CHANGE, processes.restarted)
    )
    text = load_text(settings)
    data = text.described()
    if resumed_from is not None and (resumed_from.words != text.words or resumed_from.progress.get("data") != data):
        raise ValueError(f"the text is no longer what the checkpoint in {out / LAST} was trained on")
    command = shlex.join(["rnndrop", NAME, "train", *argv])
    about = {**facts(device, command), "processes": processes.ranks, "data": data}
    trainer = LanguageModelTrainer(settings, text, device, processes, out, about, resumed_from)
    if resumed_from is not None and processes.first:
        runs.say_resumed(trainer, resumed_from)
    return trainer


def _evaluate(argv: list[str]) -> int:
    parser = evaluate_parser()
    args = parser.parse_args(argv)
    try:
        device = options.usable_device(args.device)
        model, words, settings = load_language_model(args.checkpoint)
        model.to(device)
        if args.text is None:
            part = args.part
            text = load_text(settings)
            if text.words != words:
                raise ValueError(f"the text is no longer what the checkpoint {args.checkpoint} was trained on")
            if part not in text.parts:
                raise ValueError(f"part: expected one of {', '.join(text.parts)}, got {part}: there is no such text")
            ids, source = text.parts[part], f"the {NAMES[part]} text"
        else:
            ids, source = encode(read_lines(args.text, settings), words), args.text
            if not bool((ids >= len(SPECIAL_WORDS)).any()):
                raise ValueError(f"text: expected tokens that the model knows, got none in {args.text}")
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return fail(NAME, one_line(error, flags_of(parser)))
    pieces = Pieces(ids, args.batch_size, settings.bptt, device)
    found: dict[str, Any] = {"tokens": pieces.tokens, "perplexity": score(model, pieces).perplexity}
    if not math.isfinite(found["perplexity"]):
        return fail(NAME, f"the perplexity is {found['perplexity']}: the model was not trained to a finite one", 1)
    if args.samples and has_dropout(model):
        found |= {"mc_perplexity": mc_score(model, pieces, args.samples, args.seed).perplexity, "samples": args.samples}
    if args.json:
        print_json(found, indent=1)
        return 0
    averaged = "this model has no dropout to average over"
    if "mc_perplexity" in found:
        averaged = f"{found['mc_perplexity']:.2f} as an average over {args.samples} passes with it"
    print(f"perplexity on {source}, {pieces.tokens:,} tokens: {found['perplexity']:.2f} without dropout; {averaged}")
    return 0


def _generate(argv: list[str]) -> int:
    parser = generate_parser()
    args = parser.parse_args(argv)
    try:
        device = options.usable_device(args.device)
        model, words, settings = load_language_model(args.checkpoint)
        model.to(device)
        lines = [tokens_of(line, settings) for line in lines_of(args.prompt) or [""]]
        prompt = encode(lines, words)[:-1].tolist()
        if lacking := sorted({token for line in lines for token in line} - ids_of(words).keys()):
            said = ", ".join(lacking)
            print(f"rnndrop {NAME}: the model does not know {said}: read as {words[UNKNOWN]}", file=sys.stderr)
        ids = generate(model, prompt, args.tokens, args.temperature, args.seed)
    except FloatingPointError as error:
        return fail(NAME, one_line(error, {}), 1)
    except (OSError, ValueError) as error:
        return fail(NAME, one_line(error, flags_of(parser)))
    if not args.samples:
        text = as_text(ids, words, settings.level)
        if args.json:
            print_json({"text": text})
        else:
            print(text)
        return 0
    if not has_dropout(model):
        print(f"rnndrop {NAME}: this model has no dropout: every pass is the same", file=sys.stderr)
    found = spread(model, ids, args.samples, args.seed)
    rows = [
        {"token": words[k], "probability": mean, "std": std}
        for k, mean, std in zip(ids[1:], found.mean, found.std, strict=True)
    ]
    if args.json:
        print_json({"text": as_text(ids, words, settings.level), "tokens": rows}, indent=1)
    else:
        print("\n".join(f"{row['probability']:.4f} ± {row['std']:.4f}  {row['token']}" for row in rows))
    return 0


ACTIONS: dict[str, Callable[[list[str]], int]] = {"train": _train, "evaluate": _evaluate, "generate": _generate}
