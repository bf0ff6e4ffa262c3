"""The CPU's engine as AVX-512 runs it, on a processor without: the compiler makes two vectors of each.

SIMDe has the intrinsics (tests/avx512_emulation.h). Where the processor has AVX-512, the other tests run all of this.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from build_backend.flags import compiler_flags
from tests.layer_program import DTYPES, REPO, Program, build, check

COMPILER = "g++"
SAYS = "AVX512, baseline of 16 bytes and 16 registers"
SAYS_AMX = SAYS.replace(",", " and AMX,", 1)
SIMDE = Path("/usr/include/simde/x86/avx512.h")
# A 64-byte vector that is passed by value has no calling convention here; all of these functions are inlined.
OF_THIS_PROCESSOR = ["-mavx2", "-mfma", "-mf16c", "-Wno-psabi"]
EMULATION = ["-include", str(REPO / "tests" / "avx512_emulation.h"), '-DCAPABILITY="AVX512"']
FLAGS = ["-std=c++17", *compiler_flags(COMPILER), *OF_THIS_PROCESSOR, "-DRNNDROP_LIBGOMP", *EMULATION]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cpu._is_avx512_supported(), reason="this processor has AVX-512"),
    pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="needs a processor with AVX2"),
    pytest.mark.skipif(shutil.which(COMPILER) is None or not SIMDE.exists(), reason="needs g++ and libsimde-dev"),
]


@pytest.fixture(scope="module")
def program() -> Path:
    return build(REPO / "build" / "avx512", COMPILER, FLAGS, ["-fopenmp"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_and_gradients(program: Path, dtype: torch.dtype) -> None:
    check(Program(program, SAYS), dtype)


def test_bfloat16_multiplied_as_it_is(program: Path) -> None:
    emulated = Program(program, SAYS, env={"EMULATES_AVX512_BF16": "1"})
    check(emulated, torch.bfloat16, roundings=3)


def test_bfloat16_multiplied_by_tiles(program: Path) -> None:
    emulated = Program(program, SAYS_AMX, env={"EMULATES_AVX512_BF16": "1", "EMULATES_AMX": "1"})
    check(emulated, torch.bfloat16, roundings=3)
