"""The seminar's tables, from the results that `rnndrop compare` and `rnndrop study` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

from bench.markdown import markdown, provenance


def comparison_table(file: Path) -> str:
    """The table that `rnndrop compare` printed."""
    report, _ = reports()
    results = json.loads(file.read_text(encoding="utf-8"))
    header = [column.replace("\n", " ").strip() for column in report.COLUMNS]
    table = markdown(header, [row.cells() for row in report.rows(results)])
    return f"{table}\n\n{provenance(results['facts'])}"


def study_table(file: Path) -> str:
    """The study's table, and what it says about all its variants together."""
    _, study_report = reports()
    study = study_report.read(file)
    header = [" ".join(column.split()) for column in study.columns]
    in_short = [sentence for sentence in study_report.findings(study) if sentence.startswith(("In short", "Expected"))]
    return (
        f"{markdown(header, [study.cells(variant) for variant in study.runs])}\n\n"
        + "\n".join(in_short)
        + f"\n\nAccuracies in percent, mean ± deviation over the seeds. {provenance(study.facts)}"
    )


def reports() -> tuple[ModuleType, ModuleType]:
    """Imported on demand: their libraries come with the demo extra only."""
    from rnndrop_cuda.seminar.reports import compare, study

    return compare, study
