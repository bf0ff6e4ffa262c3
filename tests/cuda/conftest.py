"""The emulated op, built once for all tests here."""

from __future__ import annotations

import pytest
import torch

from tests.emulation import toolchain

SOURCES = ("csrc/lstm_layer.cpp", "csrc/cuda/step_kernels.cu", "tests/cuda/emulated_backend.cpp")


@pytest.fixture(scope="session")
def op():
    """`torch.ops.rnndrop_emulated`: the ops of `torch.ops.rnndrop` on CPU tensors, through the CUDA kernels."""
    if reason := toolchain.why_unusable():
        pytest.skip(reason)
    torch.ops.load_library(toolchain.build_torch_ext("step_kernels", [toolchain.REPO / s for s in SOURCES]))
    return torch.ops.rnndrop_emulated
