"""This machine: what can run on it, where results can be written, and the facts that belong above them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch

from rnndrop_cuda import functional, ops
from rnndrop_cuda.files import check_writable
from rnndrop_cuda.provenance import facts as run_facts


def usable(device: str, asked: list[str] | None) -> tuple[torch.device, list[str]]:
    """The device and the backends to time. Raises RuntimeError if one cannot run: nothing is left out silently."""
    if importlib.util.find_spec("tqdm") is None:
        raise RuntimeError("tqdm is not installed: from the checkout, pip install '.[demo]'")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("--device cuda: torch sees no CUDA device (`rnndrop info` says more)")
    # On CUDA the Python path launches thousands of kernels a call: its time would dwarf all the others together.
    backends = asked or ([device, "python"] if device == "cpu" else [device])
    for name in backends:
        if name not in (device, "python"):
            raise RuntimeError(f"--backends {name} does not run on --device {device}")
        if why := functional.usable_backends()[name]:
            raise RuntimeError(f"backend {name} cannot run: {why}; `--backends python` leaves it out")
    return torch.device(device, 0) if device == "cuda" else torch.device(device), backends


def check_out(out: Path | None) -> None:
    """Raises OSError if the file cannot be written."""
    if out is None:
        return
    check_writable(out.parent)
    if out.is_dir():
        raise IsADirectoryError(f"--out {out}: expected a file, this is a folder")


def gpu_facts(command: str) -> dict[str, object]:
    """Those of the first GPU, for what runs without the layer."""
    return {**run_facts(torch.device("cuda", 0), command), "cuda": torch.version.cuda}


def machine_facts(device: torch.device, command: str) -> dict[str, object]:
    """Everything that the timings depend on besides the settings."""
    facts = run_facts(device, command)
    del facts["threads"]  # a column
    facts["unusable backends"] = "; ".join(f"{name}: {why}" for name, why in facts["unusable backends"].items())
    if facts["commit"] == "unknown":
        facts["commit"] = os.environ.get("RNNDROP_COMMIT", "unknown")
    facts["cuda"] = torch.version.cuda or "none"
    if not ops.WHY_NOT_LOADED:
        from rnndrop_cuda import _C

        facts["vector code"] = _C.vector_isa()
    if device.type == "cuda":
        # cuBLAS, which the loop and the floor use, has a TF32 switch of its own: it is set as nn.LSTM's is.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        facts["float32 GEMMs on cuda"] = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
        facts["cudnn"] = torch.backends.cudnn.version()
    facts["load at the start"] = load_averages()
    return facts


def load_averages() -> str:
    """Over 1, 5 and 15 minutes: well above the number of threads used, something else was running too."""
    return " ".join(f"{load:.1f}" for load in os.getloadavg())
