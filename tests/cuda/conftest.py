"""What all tests here share: the layer on the emulated CUDA backend, and float32 that means float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.emulation import toolchain
from tests.problems import CONSTANTS, INPUTS

CSRC = toolchain.REPO / "csrc"
NEEDS_PYTHON = ("module", "by_length", "layer_node", "layer_stack", "permute_samples", "plain_call")
UNITS = {
    "host": [
        *sorted(path for path in CSRC.glob("*.cpp") if path.stem not in NEEDS_PYTHON),
        *sorted(path for path in CSRC.glob("cuda/*.cpp") if path.stem != "register_ops"),
        toolchain.REPO / "tests/cuda/emulated_backend.cpp",
    ],
    "recurrences": sorted(CSRC.glob("cuda/recurrence_*.cu")),
    "masks": [CSRC / "cuda/mask_kernel.cu"],
    "rows": [CSRC / "cuda/masked_rows.cu"],
    "steps": [CSRC / "cuda/step_kernels.cu"],
}


@pytest.fixture(scope="session")
def op():
    """`torch.ops.rnndrop_emulated`: the ops of `torch.ops.rnndrop` on CPU tensors, through the CUDA backend.

    The engine is stepwise until a test asks for another.
    """
    if reason := toolchain.why_unusable():
        pytest.skip(reason)
    return load_op()


def load_op():
    """The ops, built where they are not up to date."""
    fake = Path(__file__).parent / "fake_torch_cuda"
    torch.ops.load_library(toolchain.build_torch_ext("emulated_backend", UNITS, include_dirs=[fake]))
    torch.ops.rnndrop_emulated.set_engine("stepwise")
    return torch.ops.rnndrop_emulated


class EmulatedLayer(torch.autograd.Function):
    """The two ops put together, in the least that a backward takes."""

    @staticmethod
    def forward(ctx, *args):
        y, h_n, c_n, *saved = torch.ops.rnndrop_emulated.lstm_layer(*args, True)
        ctx.set_materialize_grads(False)
        ctx.args, ctx.saved = args, (y.detach(), *saved)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx, dy, dh_n, dc_n):
        inputs, constants = ctx.args[: len(INPUTS) + 1], ctx.args[len(INPUTS) + 1 :]
        gradients = torch.ops.rnndrop_emulated.lstm_layer_backward(*ctx.args, *ctx.saved, dy, dh_n, dc_n, True, True)
        of_given = [None if given is None else gradient for given, gradient in zip(inputs, gradients, strict=True)]
        return *of_given, *[None] * len(constants)


@pytest.fixture(scope="session")
def emulated(op):
    """`functional.lstm_layer` on the emulated backend."""

    def lstm_layer(
        x, h_0, c_0, W_ih, W_hh, b_ih=None, b_hh=None, *,
        W_hr=None, reverse=False, **constants,
    ):  # fmt: skip
        given = [constants.pop(name, None) for name in CONSTANTS]
        assert not constants
        return EmulatedLayer.apply(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr, *given, reverse)

    return lstm_layer


@pytest.fixture(autouse=True)
def exact_float32():
    """TF32 off, by both of torch's switches, for a test and put back behind it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.backends.cuda.matmul.allow_tf32 = before
