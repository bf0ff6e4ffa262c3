"""The tables of language models: `rnndrop study language-model`'s, and bench.language_model's."""

from __future__ import annotations

import json
from pathlib import Path

from bench.markdown import markdown, provenance

NN_LSTM, HEAD = "nn.LSTM, no dropout inside", "no recurrent layer"


def perplexities_table(file: Path) -> str:
    """Of a study.json: a row for each kind of dropout, and what the study says."""
    from rnndrop_cuda.seminar.reports import language_model as report  # comes with the demo extra only

    results = report.read(file)
    table = markdown(list(report.COLUMNS), [results.cells(kind) for kind in results.kinds])
    says = "\n".join(report.findings(results))
    return f"{table}\n\n{says}\n\nPerplexities, mean ± deviation over the seeds. {provenance(results.facts)}"


def text_table(file: Path) -> str:
    """Of what `rnndrop language-model generate --samples --json` wrote: each word and how sure the model is of it."""
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = [[of["token"], f"{of['probability']:.4f}", f"{of['std']:.4f}"] for of in found["tokens"]]
    quoted = f"> {found['text']}"
    shown = markdown(["word", "probability", "deviation"], rows[:12])
    return (
        f"{quoted}\n\n{shown}\n\nThe first words; mean and deviation over {found['samples']} passes with dropout. "
        f"{found['model']}. `{found['command']}`."
    )


def beside_table(file: Path) -> str:
    """Of bench.language_model's results: tokens a second, how many times nn.LSTM's, and perplexity."""
    found = json.loads(file.read_text(encoding="utf-8"))
    tokens, seconds = found["tokens a step"], {name: of["median"] for name, of in found["seconds"].items()}
    rows = []
    columns, note = ["recurrent layer", "tokens/s", "times nn.LSTM's", "its share"], ""
    if found["epochs"]:
        columns, note = [*columns, "perplexity"], f"Perplexity: on the validation text after {found['epochs']} epochs. "
    for name, perplexities in found["perplexity"].items():
        ratio, share = seconds[NN_LSTM] / seconds[name], 1 - seconds[HEAD] / seconds[name]
        shown = [f"{perplexity:.1f}" for perplexity in perplexities[-1:]]
        rows.append([name, f"{tokens / seconds[name]:,.0f}", f"{ratio:.2f}", f"{share:.0%}", *shown])
    settings = found["settings"]
    layers = "one layer" if settings["num_layers"] == 1 else f"{settings['num_layers']} layers"
    size = f"{layers} of E = H = {settings['n_emb']}, {settings['batch_size']} rows of {settings['bptt']} steps"
    return (
        f"{markdown(columns, rows)}\n\nTraining steps in turn, medians, with {size} and an adaptive softmax over "
        f"{found['data']['ids']:,} words. Its share: of the step, what the recurrent layers take beside the rest. "
        f"{note}Threads: {found['facts']['threads']}. {provenance(found['facts'])}"
    )
