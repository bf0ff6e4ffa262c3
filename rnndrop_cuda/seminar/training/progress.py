"""Whether what a checkpoint says of a run's progress can be one: JSON that somebody has changed need not be."""

from __future__ import annotations

from typing import Any


def check_progress(found: dict[str, Any]) -> None:
    """ValueError where counts, sums and rows of the history are of another kind, or do not fit one another.

    found: of a checkpoint, with "progress" and "device". KeyError where a part is missing.
    """
    at = found["progress"]
    if not isinstance(at, dict) or not isinstance(found["device"], str):
        raise ValueError("expected the progress of a run and the name of its device")
    for name in ("epochs", "batches"):
        if type(at[name]) is not int or at[name] < 0:
            raise ValueError(f"{name}: expected a whole number of at least 0, got {at[name]!r}")
    if not _is_number(at["seconds"]) or not isinstance(at["sums"], list) or not all(map(_is_number, at["sums"])):
        raise ValueError("seconds and sums: expected numbers")
    history, best = at["history"], at["best"]
    if not isinstance(history, list) or len(history) != at["epochs"] or (best is None) != (history == []):
        raise ValueError(f"history and best: expected those of {at['epochs']} epochs")
    rows = [*history, *([] if best is None else [best])]
    if not all(isinstance(row, dict) and "epoch" in row and all(map(_is_number, row.values())) for row in rows):
        raise ValueError("history and best: expected numbers by their names, epoch among them")
    if len({frozenset(row) for row in rows}) > 1:
        raise ValueError("history and best: expected the same figures of every epoch")


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)  # larger ones are no floats
