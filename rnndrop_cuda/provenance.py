"""The machine, the versions and the code that measured figures depend on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnndrop_cuda import functional


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
        if (root / "rnndrop_cuda" / here.name).is_file():
            return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository around the package
        pass
    return "unknown"
