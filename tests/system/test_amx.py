"""The CPU's engine as AMX runs it, on a processor that has AVX512_BF16 alone: tiles are arrays (tests/amx_emulation.h).

Where the processor has AMX, the other tests run all of this; where it has not even AVX-512, system/test_avx512.py does.
"""

from __future__ import annotations

import shutil

import pytest
import torch

from build_backend.flags import compiler_flags
from tests.layer_program import REPO, Program, build, check

COMPILER = "g++"
SAYS = "AVX512 and AMX, baseline of 16 bytes and 16 registers"
EMULATION = ["-include", str(REPO / "tests" / "amx_emulation.h"), '-DCAPABILITY="AVX512"']
FLAGS = ["-std=c++17", *compiler_flags(COMPILER), "-DRNNDROP_LIBGOMP", *EMULATION]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cpu._is_amx_tile_supported(), reason="this processor has AMX"),
    pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="needs a processor with AVX512_BF16"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason="needs g++"),
]


def test_outputs_and_gradients() -> None:
    program = build(REPO / "build" / "amx", COMPILER, FLAGS, ["-fopenmp"])
    check(Program(program, SAYS, env={"EMULATES_AMX": "1"}), torch.bfloat16, roundings=3)
