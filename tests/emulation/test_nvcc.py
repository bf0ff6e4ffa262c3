"""The toy kernels are CUDA: nvcc compiles the same files for sm_80 and sm_90. Needs no GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emulation import toolchain

HERE = Path(__file__).parent
NVCC = shutil.which("nvcc")


@pytest.mark.skipif(not NVCC, reason="nvcc is not on PATH")
# ptxas advises 90a for a multicast.
@pytest.mark.parametrize(
    ("source", "hopper"), [("toy_kernels.cu", "90"), ("vocabulary.cu", "90"), ("async_toys.cu", "90a")]
)
def test_nvcc_compiles(source: str, hopper: str, tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ("80", hopper)]
    command = [str(NVCC), *targets, "--threads=2", f"-I{toolchain.REPO}/csrc/cuda", "-c", str(HERE / source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "kernels.o")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
