"""The CPU's engine with NEON's vectors: cross-compiled for aarch64, run under qemu.

There is no torch for aarch64 here, and the engine needs none (tests/layer_program.py).
"""

from __future__ import annotations

import shutil

import pytest
import torch

from build_backend.flags import compiler_flags
from tests.layer_program import DTYPES, REPO, Program, build, check

COMPILER, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64"
FLAGS = ["-std=c++17", *compiler_flags(COMPILER), "-Werror=aggressive-loop-optimizations", "-DRNNDROP_LIBGOMP"]

pytestmark = [
    pytest.mark.slow,
    *[
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}: apt install {package}")
        for tool, package in ((COMPILER, "g++-aarch64-linux-gnu"), (QEMU, "qemu-user"))
    ],
]


@pytest.fixture(scope="module")
def program() -> Program:
    path = build(REPO / "build" / "aarch64", COMPILER, FLAGS, ["-static", "-lgomp"])
    return Program(path, "baseline, baseline of 16 bytes and 32 registers", [QEMU])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_and_gradients(program: Program, dtype: torch.dtype) -> None:
    check(program, dtype)
