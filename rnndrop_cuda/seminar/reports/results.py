"""What `rnndrop compare` leaves behind: results.json, with its figures and all that they depend on.

The file is written whole or not at all, after every epoch. It tells whether a later run is the same one, so that a
run cut short is resumed and figures of different settings, code or machines never share a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.training.batches import PART_NAMES, TEST, scored_on

Results = dict[str, Any]

FILE_NAME = "results.json"
# Facts without which two runs are not the same; the others (date, command ...) may differ.
SAME_RUN_FACTS = ("machine", "device", "threads", "torch", "rnndrop_cuda", "unusable backends", "commit")


def open_results(out: Path, results: Results, *, fresh: bool) -> str:
    """Starts out/results.json with `results`: {"facts", "settings", "data", "layers": {}}, none trained yet.

    Where the folder has results of the same run already, their finished layers are kept; other results are
    kept under another name, never lost. Returns what was done with them, in words; "" where there were none.
    """
    file = out / FILE_NAME
    done = ""
    earlier = _read(file) if file.exists() else results
    if earlier is None or any(layer["epochs"] for layer in earlier["layers"].values()):  # a run may fail before
        different = ["everything"] if earlier is None else _differences(earlier, results)
        if fresh or earlier is None or different:
            aside = next(path for n in range(1, 10**6) if not (path := out / f"results.{n}.json").exists())
            file.rename(aside)
            why = f" (different: {', '.join(different)})" if different else ""
            done = f"earlier results are kept as {aside}{why}"
        else:
            epochs = results["settings"]["epochs"]
            results["layers"] = {
                name: layer
                for name, layer in earlier["layers"].items()
                if len(layer["epochs"]) == epochs and "train_accuracy" in layer  # which comes last
            }
            done = f"finished already, in {file}: {', '.join(results['layers']) or 'no layer'}"
    save(results, out)
    return done


def reviews_scored(settings: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[int, str]:
    """How many reviews a model of these settings was judged by, and what they are called in sentences."""
    part = scored_on(settings)
    return (data["test reviews"] if part == TEST else settings["validation"]), PART_NAMES[part]


def save(results: Results, out: Path) -> None:
    """Whole or not at all: a kill while writing leaves the results of the epoch before."""
    write_whole(out / FILE_NAME, (json.dumps(results, indent=1) + "\n").encode())


def _read(file: Path) -> Results | None:
    """The results in the file, None where it does not hold any."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        for layer in results["layers"].values():
            for epoch in layer["epochs"]:
                float(epoch["seconds"])
        _identity(results)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return results


def _identity(results: Results) -> dict[str, Any]:
    return {
        **results["settings"],
        **results["data"],
        **{name: results["facts"][name] for name in SAME_RUN_FACTS},
    }


def _differences(earlier: Results, results: Results) -> list[str]:
    before, now = _identity(earlier), _identity(json.loads(json.dumps(results)))  # which has no tuples
    return [name for name in now if name not in before or before[name] != now[name]]
