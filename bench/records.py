"""What a benchmark leaves behind: a CSV of timings below a header of facts, `# key: value` a line.

    pandas.read_csv(path, comment="#")

reads the timings; `read` here gives the facts too, and refuses what is not such a file.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NN_LSTM = "nn.LSTM"
GEMMS = "GEMMs alone"
FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"


@dataclass(frozen=True)
class Timing:
    """One contender at one size, in milliseconds a call: the median, both quartiles, the extremes."""

    T: int
    B: int
    I: int
    H: int
    dtype: str
    threads: int
    phase: str
    """FORWARD, with everything saved that the backward needs, or FORWARD_BACKWARD."""
    contender: str
    backend: str
    """Ours: "cpu", "cuda" or "python". The GEMMs': the library. "" for the others."""
    dropout: str
    p: float
    """Probability of dropping in mask_x and mask_h, 0 where there are none."""
    p_g: float
    """Probability of dropping in mask_g, 0 where there is none."""
    repeats: int
    calls: int
    """Calls that one of the repeats timed together."""
    median_ms: float
    q1_ms: float
    q3_ms: float
    min_ms: float
    max_ms: float


COLUMNS = {
    field.name: {"int": int, "float": float, "str": str}[str(field.type)] for field in dataclasses.fields(Timing)
}


def write(path: Path, facts: Mapping[str, object], timings: Sequence[Timing]) -> None:
    """Writes the file, whole or not at all. Raises ValueError for a fact that does not fit on one header line."""
    text = io.StringIO()
    for key, value in facts.items():
        if ":" in key or len(f"{key}{value}".splitlines()) > 1:
            raise ValueError(f"facts: expected a key without a colon and one line of text, got {key!r}: {value!r}")
        text.write(f"# {key}: {value}\n")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(timing) for timing in timings)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text.getvalue(), encoding="utf-8")
    os.replace(partial, path)


def read(path: Path) -> tuple[dict[str, str], list[Timing]]:
    """The facts and the timings of a file that `write` wrote. Raises ValueError, with the line, for any other."""
    lines = path.read_text(encoding="utf-8").splitlines()
    n_facts = next((n for n, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    facts = {key: value for key, _, value in (line[2:].partition(": ") for line in lines[:n_facts])}
    table = csv.DictReader(lines[n_facts:])
    if table.fieldnames != list(COLUMNS):
        raise ValueError(f"{path}:{n_facts + 1}: expected the columns {','.join(COLUMNS)}, got {table.fieldnames}")
    timings = []
    for row in table:
        try:
            timings.append(Timing(**{name: kind(row[name]) for name, kind in COLUMNS.items()}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{n_facts + table.line_num}: not a timing: {error}") from error
    return facts, timings
