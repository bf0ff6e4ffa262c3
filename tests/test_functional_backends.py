"""Which backend a call of the function takes, and what it says of one that cannot take it."""

import re

import numpy as np
import pytest
import torch

from rnndrop_cuda import ops
from rnndrop_cuda.functional import lstm_layer, usable_backends
from tests.problems import random_problem
from tests.wrong_arguments import good_arguments, wrong


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
@pytest.mark.parametrize("name", ["mask_x", "mask_h", "mask_g"])
def test_mask_that_requires_a_gradient(name):
    with pytest.raises(ValueError, match=f"{name}: the fused kernels give masks no gradient"):
        lstm_layer(**wrong(name, lambda m: m.requires_grad_()))
    mask = torch.full((6,), 2.0, dtype=torch.float64, requires_grad=True)
    y, _, _ = lstm_layer(**good_arguments() | {"mask_g": mask, "backend": "python"})
    y.sum().backward()
    assert mask.grad.any()


def test_backend_that_cannot_run_says_why():
    reasons = usable_backends()
    assert reasons["python"] == ""
    for backend, why in reasons.items():
        if why:
            with pytest.raises(RuntimeError, match=re.escape(f"backend='{backend}' cannot run here: {why}")):
                lstm_layer(**good_arguments(), backend=backend)


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_dtype_without_a_kernel():
    arguments = {
        k: v.to(torch.complex64) if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in good_arguments().items()
    }
    with pytest.raises(ValueError, match=r"backend='cpu' has no kernel for dtype torch\.complex64"):
        lstm_layer(**arguments, backend="cpu")
    y, _, _ = lstm_layer(**arguments)  # auto takes the Python path
    assert y.dtype == torch.complex64


@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("reverse", [np.True_, 1, torch.tensor(True)])
def test_what_is_true_reverses(reverse, backend):
    problem = random_problem()
    inputs = problem.inputs.values()
    expected = lstm_layer(*inputs, reverse=True, backend=backend)
    actual = lstm_layer(*inputs, reverse=reverse, backend=backend)
    assert all(map(torch.equal, actual, expected))
