"""What a run leaves behind: results.json, with its figures and all that they depend on.

The file is written whole or not at all, after every epoch. It says whether a later run is the same one, so that a
run cut short goes on where it was and figures of different settings, code or machines never share a file.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnndrop_cuda import functional

Results = dict[str, Any]

FILE_NAME = "results.json"
# Facts without which two runs are not the same; the others (date, command ...) may differ.
SAME_RUN_FACTS = ("machine", "device", "threads", "torch", "rnndrop_cuda", "unusable backends", "commit")


def facts(device: torch.device, command: str) -> dict[str, Any]:
    """The machine, the versions and the code that a run's figures depend on, besides its settings."""
    return {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "rnndrop_cuda": version(),
        "unusable backends": {name: why for name, why in functional.usable_backends().items() if why},
        "commit": _commit(),
    }


def check_writable(out: Path) -> None:
    """Makes the folder; OSError naming it when it cannot be made or written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"out must be a folder that can be written, {out} is not: {error.strerror}") from error


def open_results(out: Path, results: Results, *, fresh: bool) -> str:
    """Starts out/results.json with `results`: {"facts", "settings", "data", "layers": {}}, none trained yet.

    Where the folder has results of the same run already, their finished layers are taken over; other results are
    renamed, never lost. Returns what was done with them, in words; "" where there were none.
    """
    file = out / FILE_NAME
    done = ""
    if file.exists():
        earlier = _read(file)
        different = ["everything"] if earlier is None else _differences(earlier, results)
        if fresh or earlier is None or different:
            aside = next(path for n in range(1, 10**6) if not (path := out / f"results.{n}.json").exists())
            file.rename(aside)
            done = f"earlier results are kept as {aside}" + (f" (other {', '.join(different)})" if different else "")
        else:
            epochs = results["settings"]["epochs"]
            results["layers"] = {
                name: layer for name, layer in earlier["layers"].items() if len(layer["epochs"]) == epochs
            }
            done = f"taken over from {file}: {', '.join(results['layers']) or 'no finished layer'}"
    save(results, out)
    return done


def save(results: Results, out: Path) -> None:
    """Whole or not at all: a kill while writing leaves the results of the epoch before."""
    partial = out / (FILE_NAME + ".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, out / FILE_NAME)


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
    before, now = _identity(earlier), _identity(results)
    return [name for name in now if name not in before or before[name] != now[name]]


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def version() -> str:
    try:
        return metadata.version("rnndrop-cuda")
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The checkout's commit, "-dirty" where it has changes; "unknown" outside of this project's checkout."""
    here = Path(__file__).resolve()

    def git(*command: str) -> str:
        run = subprocess.run(["git", "-C", str(here.parent), *command], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        root = Path(git("rev-parse", "--show-toplevel"))
        if (root / "rnndrop_cuda" / "seminar" / here.name).is_file():
            return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository around the package
        pass
    return "unknown"
