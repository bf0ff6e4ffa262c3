"""Emulated kernels as torch operators, in this process and, with AddressSanitizer, in one that preloads its runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.emulation import toolchain

HERE = Path(__file__).parent


def load() -> Any:
    library = toolchain.build_torch_ext(
        "toy_ops", {"kernels": [HERE / "toy_kernels.cu"], "ops": [HERE / "toy_ops.cpp"]}
    )
    torch.ops.load_library(library)
    return torch.ops.toy


@pytest.fixture(scope="module")
def toy() -> Any:
    return load()


@pytest.fixture(params=toolchain.SCHEDULES)
def schedule(request: pytest.FixtureRequest, toy: Any) -> None:
    toy.set_schedule(request.param)


@pytest.fixture
def plant(toy: Any) -> Iterator[Callable[[int], None]]:
    yield toy.plant
    toy.plant(0)


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 16), (37, 45, 50), (1, 1, 1)])
def test_matmul(toy: Any, m: int, n: int, k: int) -> None:
    a, b = torch.randn(m, k), torch.randn(k, n)
    torch.testing.assert_close(toy.matmul(a, b), a @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("schedule")
def test_rnn(toy: Any) -> None:
    w, x = torch.randn(64, 64) * 0.1, torch.randn(8, 64)
    h, expected = torch.zeros(64), []
    for x_t in x:
        h = torch.tanh(x_t + w @ h)
        expected.append(h)
    torch.testing.assert_close(toy.rnn(w, x, 8), torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_errors_are_python_exceptions(toy: Any, plant: Callable[[int], None]) -> None:
    plant(8)
    with pytest.raises(RuntimeError, match=r"CUDA emulation: matmul_kernel.*divergent __syncthreads"):
        toy.matmul(torch.zeros(16, 16), torch.zeros(16, 16))
    with pytest.raises(ValueError, match="expected fifo, lifo or rand<seed>, got 'sideways'"):
        toy.set_schedule("sideways")


def test_sanitized_kernels_pass() -> None:
    done = toolchain.run_python("-m", "pytest", "-q", __file__, "-k", "test_matmul or test_rnn", sanitize=True)
    assert done.returncode == 0, done.stdout
    assert "16 passed" in done.stdout


def test_sanitizer_sees_the_end_of_a_tensor() -> None:
    script = (
        "import torch\n"
        "from tests.emulation.test_toy_ops import load\n"
        "toy = load()\n"
        "toy.plant(4)\n"
        "toy.matmul(torch.randn(37, 50), torch.randn(50, 45))\n"
    )
    done = toolchain.run_python("-c", script, sanitize=True)
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in done.stdout
    assert "in matmul_kernel<16>" in done.stdout
