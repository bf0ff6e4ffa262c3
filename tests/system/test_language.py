"""The C++ that needs torch in the oldest language that a supported torch compiles it in: 2.11 as C++17, 2.13 as C++20.

test_aarch64.py compiles the rest of the CPU's engine so, and tests/cuda the CUDA backend. From 2.14 on torch's own
headers are C++20.
"""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from build_backend.flags import compiler_flags

CSRC = Path(__file__).resolve().parents[2] / "csrc"
INCLUDES = [f"-I{CSRC}", *(f"-isystem{path}" for path in cpp_extension.include_paths())]
COMMAND = ["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", *INCLUDES]

pytestmark = [pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"), pytest.mark.slow]


needs_cpp17_headers = pytest.mark.skipif(torch.__version__ >= (2, 14), reason="this torch's headers are C++20")


def compile_as_cpp17(source: str, *flags: str) -> None:
    command = [*COMMAND, *flags, "-x", "c++", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_cpp17_headers
def test_what_needs_torch_is_cpp17(tmp_path):
    (tmp_path / "build_facts.h").write_text('#define RNNDROP_BUILD_FACTS ""\n')
    flags = [f"-I{tmp_path}", f"-isystem{sysconfig.get_path('include')}", "-DTORCH_EXTENSION_NAME=_C"]
    engine = [CSRC / "cpu" / f"{name}.cpp" for name in ("backend", "dropout_mask", "from_torch")]
    together = "".join(f'#include "{source}"\n' for source in [*sorted(CSRC.glob("*.cpp")), *engine])
    compile_as_cpp17(together, "-DRNNDROP_LIBGOMP", *flags)


@needs_cpp17_headers
def test_threads_of_torchs_pool_are_cpp17():
    """What is built where torch has no libgomp, and so never here."""
    compile_as_cpp17((CSRC / "cpu" / "threads.cpp").read_text())


@pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++: apt install clang")
def test_the_engine_compiles_with_clang():
    """The rest of the tests' compilers are GCC. Clang checks more of inline assembly and of vectors."""
    banner = subprocess.run(["clang++", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    for source in sorted(CSRC.glob("cpu/*.cpp")):
        command = ["clang++", "-std=c++20", "-fsyntax-only", *compiler_flags(banner), *INCLUDES, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
