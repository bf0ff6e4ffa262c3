"""``rnndrop info``: what was built, what can be used here, what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from rnndrop_cuda import engines, functional, ops

BUILD_FACTS_FILE = Path(__file__).with_name("_build_facts.json")


def build_facts() -> dict[str, str] | None:
    """What setup.py recorded when it built this package; None where it never ran.

    Keys: ``torch`` built against, ``compiler``; ``cpu_missing`` and ``cuda_missing``, why the kernels were left out
    ("" where they were built); ``cuda``, torch's CUDA version, and ``cuda_arch_list``, both "" without CUDA kernels.
    """
    facts: dict[str, str]
    if not ops.WHY_NOT_LOADED:
        from rnndrop_cuda import _C

        facts = json.loads(_C.build_facts_json())
    elif BUILD_FACTS_FILE.exists():
        facts = json.loads(BUILD_FACTS_FILE.read_text())
    else:
        return None
    return facts


def report() -> str:
    """Everything about this installation that belongs into a bug report: some 20 lines."""
    facts = build_facts()
    sections = {
        f"rnndrop_cuda {_package_version()}": _environment(),
        "built": _built(facts),
        "usable here": _usable(),
        "missing, and how to get it": _missing(facts) or ["nothing"],
    }
    return "\n".join(f"{title}\n" + "\n".join(f"  {line}" for line in lines) for title, lines in sections.items())


def _package_version() -> str:
    try:
        return importlib.metadata.version("rnndrop-cuda")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed, run from its source folder)"


def _environment() -> list[str]:
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        f"folder   {Path(__file__).parent}",
        f"python   {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch    {torch.__version__}, CUDA {torch.version.cuda or 'none'}",
        f"cpu      {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        *[f"gpu      {gpu.name}, compute capability {gpu.major}.{gpu.minor}" for gpu in gpus],
    ]


def _built(facts: dict[str, str] | None) -> list[str]:
    if facts is None:
        return ["nothing: the source folder was never built"]
    return [
        f"against        torch {facts['torch']}, compiler {facts['compiler'] or 'none'}",
        f"CPU kernels    {'no' if facts['cpu_missing'] else 'yes'}",
        f"CUDA kernels   {'no' if facts['cuda_missing'] else 'yes, for ' + facts['cuda_arch_list']}",
    ]


def _usable() -> list[str]:
    lines = [f"{name:8} {f'no: {why}' if why else 'yes'}" for name, why in functional.usable_backends().items()]
    if not ops.WHY_NOT_LOADED:
        from rnndrop_cuda import _C

        amx = ", and AMX for bfloat16" if _C.uses_amx() else ""
        lines.append(f"the CPU kernels use {_C.vector_isa()} code{amx} on this machine")
    return lines


def _missing(facts: dict[str, str] | None) -> list[str]:
    if facts is None:
        return ["all kernels: run `pip install .` in the source folder"]
    if facts["cpu_missing"]:
        return [f"all kernels: {facts['cpu_missing']}"]
    lines = []
    if ops.WHY_NOT_LOADED and facts["torch"] == torch.__version__:
        lines.append(
            f"all kernels: {ops.WHY_NOT_LOADED}; torch is the one that they were built for, so look to the compiler "
            f"({facts['compiler']}): CXX=g++ in front of the install names another"
        )
    elif ops.WHY_NOT_LOADED:
        lines.append(
            f"all kernels: they were built for torch {facts['torch']} and do not load with torch {torch.__version__}; "
            "install rnndrop_cuda again"
        )
    if facts["cuda_missing"]:
        lines.append(f"CUDA kernels: {facts['cuda_missing']}")
    elif not torch.cuda.is_available():
        lines.append("a GPU: torch sees none; `nvidia-smi` has to list one, and CUDA_VISIBLE_DEVICES not to hide it")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``rnndrop info``."""
    args = parser().parse_args(argv)
    if args.shape is None:
        print(report())
        return 0
    gpu = engines.GPUS[args.gpu] if args.gpu else None
    T, B, I, H = args.shape
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        print(engines.explain_engine(T, B, I, H, dtype=getattr(torch, args.dtype), tf32=tf32, gpu=gpu))
    except RuntimeError as error:
        print(f"rnndrop info --shape: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of ``rnndrop info``."""
    made = argparse.ArgumentParser(
        prog="rnndrop info",
        description="Print what was built of rnndrop_cuda, which backends can be used here, and what is missing, why, "
        "and how to get it. With --shape, print which CUDA engine would run a layer of that shape, and why.",
    )
    made.add_argument("--shape", type=shape, metavar="T,B,I,H", help="steps, batch, input and hidden features")
    made.add_argument("--dtype", choices=engines.DTYPES.values(), default="float32", help="(default: float32)")
    made.add_argument("--gpu", choices=engines.GPUS, help="(default: the GPU of this machine, otherwise an H100)")
    return made


def shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if len(sizes) != 4 or not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"expected four whole numbers of at least 1, T,B,I,H, got {text!r}")
    return tuple(map(int, sizes))
