"""One LSTM layer with dropout inside the recurrence, as a function of tensors.

The checks of everything a caller can get wrong are here, in front of every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import ops, reference

BACKENDS = ("auto", "cuda", "cpu", "python")
Result = tuple[Tensor, Tensor, Tensor]
KERNEL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def usable_backends() -> dict[str, str]:
    """For every backend but ``auto``: "" where it can run on this machine, else why it cannot."""
    no_cpu = ops.WHY_NOT_LOADED
    no_cuda = ops.WHY_NOT_LOADED
    if not no_cuda and not ops.HAS_CUDA_KERNELS:
        no_cuda = "rnndrop_cuda was built without CUDA kernels"
    if not no_cuda and not torch.cuda.is_available():
        no_cuda = "torch sees no CUDA device"
    return {"cuda": no_cuda, "cpu": no_cpu, "python": ""}


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    W_hr: Tensor | None = None,
    mask_x: Tensor | None = None,
    mask_h: Tensor | None = None,
    mask_g: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Result:
    r"""One layer, one direction of an LSTM, with multiplicative masks inside the recurrence.

    .. math::
        \tilde x_t &= m_x \odot x_t \qquad \tilde h = m_h \odot h_{t-1} \\
        i, f, o &= \sigma(W_{ih} \tilde x_t + b_{ih} + W_{hh} \tilde h + b_{hh}) \qquad g = \tanh(\ldots) \\
        c_t &= f \odot c_{t-1} + i \odot (m_g \odot g) \\
        h_t &= o \odot \tanh(c_t) \qquad\text{or, with a projection,}\quad W_{hr}\,(o \odot \tanh(c_t))

    ``mask_x`` and ``mask_h`` are the variational dropout of Gal & Ghahramani, "A Theoretically Grounded Application
    of Dropout in Recurrent Neural Networks" (arXiv 1512.05287): d(x_t) and d(h_{t-1}), the same d at every step.
    ``mask_g`` is the recurrent dropout of Semeniuta, Severyn & Barth, "Recurrent Dropout without Memory Loss"
    (COLING 2016, C16-1165): c_t = f * c_{t-1} + i * d(g). A mask holds 0 or 1/(1-p), or any other multiplicative
    noise. Masks are constants: no gradient flows to them.

    Args:
        x: ``[T, B, I]``, time first; T >= 1, B may be 0.
        h_0, c_0: ``[B, P]`` and ``[B, H]``, the initial state. P, the width of h, is H without a projection.
        W_ih, W_hh: ``[4H, I]`` and ``[4H, P]``, rows in the gate order i, f, g, o, as nn.LSTM's ``weight_ih_l0`` ...
        b_ih, b_hh: ``[4H]`` or None.
        W_hr: ``[P, H]`` or None: the projection of h, as nn.LSTM's ``weight_hr_l0`` (Sak et al., arXiv 1402.1128).
        mask_x: ``[I]`` (shared by the batch) or ``[B, I]``; the same at every step.
        mask_h: ``[P]`` or ``[B, P]``; the same at every step. Applied where h is used: the returned h is not masked.
        mask_g: ``[H]`` or ``[B, H]`` (kept for the sequence), or ``[T, B, H]`` (fresh at every step).
        lengths: int64 ``[B]`` on x's device, each in [0, T]. At ``t >= lengths[b]`` the state is carried unchanged
            and y is 0, in both directions. On CUDA a length out of range is not looked for, since that would wait
            for the device: it is taken as the nearest of 0 and T.
        reverse: run from the last step to the first. ``y[t]`` stays the output of step t.
        backend: ``"cuda"``, ``"cpu"``, ``"python"``, or ``"auto"`` for the fastest that can run.

    Returns:
        ``(y [T, B, P], h_n [B, P], c_n [B, H])`` in x's dtype. Differentiable in x, h_0, c_0, the weights and the
        biases; derivatives above the first run on the Python path.

    Raises:
        TypeError: an argument is not a tensor where one is expected.
        ValueError: a dtype differs from x's or has no kernel, a length is out of range, a mask requires a gradient,
            or the backend's name is unknown.
        RuntimeError: a shape or a device does not fit, or the named backend cannot run here.
    """
    tensors = {
        "x": x, "h_0": h_0, "c_0": c_0, "W_ih": W_ih, "W_hh": W_hh, "b_ih": b_ih, "b_hh": b_hh, "W_hr": W_hr,
        "mask_x": mask_x, "mask_h": mask_h, "mask_g": mask_g, "lengths": lengths,
    }  # fmt: skip
    _check_tensors(tensors)
    return _choose(backend, x, tensors)(
        x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr=W_hr,
        mask_x=mask_x, mask_h=mask_h, mask_g=mask_g, lengths=lengths, reverse=reverse,
    )  # fmt: skip


def _fused(
    *tensors: Tensor | None, W_hr: Any, mask_x: Any, mask_h: Any, mask_g: Any, lengths: Any, reverse: bool
) -> Result:
    y, h_n, c_n, *_ = ops.lstm_layer(*tensors, W_hr, mask_x, mask_h, mask_g, lengths, reverse)
    return y, h_n, c_n


def _choose(backend: str, x: Tensor, tensors: dict[str, Tensor | None]) -> Callable[..., Result]:
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "python":
        return reference.lstm_layer
    for name in ("mask_x", "mask_h", "mask_g"):
        mask = tensors[name]
        if mask is not None and mask.requires_grad:
            raise ValueError(
                f"{name}: the fused kernels give masks no gradient, but this one requires it; detach it, or use "
                "backend='python'"
            )
    device, kernels = x.device.type, {"cpu": ops.HAS_CPU_KERNELS, "cuda": ops.HAS_CUDA_KERNELS}
    if backend == "auto":
        return _fused if kernels.get(device) and x.dtype in KERNEL_DTYPES else reference.lstm_layer
    if why := usable_backends()[backend]:
        raise RuntimeError(f"backend='{backend}' cannot run here: {why} (`rnndrop info` says how to get it)")
    if device != backend:
        raise RuntimeError(f"backend='{backend}' needs tensors on {backend}, x is on {x.device}")
    if x.dtype not in KERNEL_DTYPES:
        raise ValueError(f"backend='{backend}' has no kernel for dtype {x.dtype}; use backend='python'")
    return _fused


# ---------------------------------------------------------------- checks


def _check_tensors(tensors: dict[str, Tensor | None]) -> None:
    optional = ("b_ih", "b_hh", "W_hr", "mask_x", "mask_h", "mask_g", "lengths")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) and not (tensor is None and name in optional):
            raise TypeError(f"{name}: expected a Tensor, got {type(tensor).__name__}")
    x, W_hh, W_hr, lengths = tensors["x"], tensors["W_hh"], tensors["W_hr"], tensors["lengths"]
    assert x is not None and W_hh is not None
    if x.dim() != 3:
        raise RuntimeError(f"x: expected shape [T, B, I], got {list(x.shape)}")
    width = "4H, H" if W_hr is None else "4H, P"
    if W_hh.dim() != 2 or 0 in W_hh.shape or W_hh.shape[0] % 4 or (W_hr is None and W_hh.shape[0] != 4 * W_hh.shape[1]):
        raise RuntimeError(f"W_hh: expected shape [{width}] with {width[-1]} >= 1, got {list(W_hh.shape)}")
    T, B, I = x.shape
    H, P = W_hh.shape[0] // 4, W_hh.shape[1]
    if T == 0:
        raise RuntimeError(f"x: expected a sequence of at least one step, got shape {list(x.shape)}")
    if not (x.is_floating_point() or x.is_complex()):
        raise ValueError(f"x: expected a floating-point dtype, got {x.dtype}")
    shapes: dict[str, list[list[int]]] = {
        "x": [[T, B, I]],
        "h_0": [[B, P]],
        "c_0": [[B, H]],
        "W_ih": [[4 * H, I]],
        "W_hh": [[4 * H, P]],
        "b_ih": [[4 * H]],
        "b_hh": [[4 * H]],
        "W_hr": [[P, H]],
        "mask_x": [[I], [B, I]],
        "mask_h": [[P], [B, P]],
        "mask_g": [[H], [B, H], [T, B, H]],
        "lengths": [[B]],
    }
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        dtype = torch.int64 if name == "lengths" else x.dtype
        if not any(list(tensor.shape) == shape for shape in shapes[name]):
            allowed = " or ".join(map(str, shapes[name]))
            raise RuntimeError(f"{name}: expected shape {allowed}, got {list(tensor.shape)}")
        if tensor.dtype != dtype:
            like_x = "" if name == "lengths" else " like x"
            raise ValueError(f"{name}: expected dtype {dtype}{like_x}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise RuntimeError(f"{name}: expected a tensor on {x.device} like x, got {tensor.device}")
        if tensor.layout != torch.strided:
            raise RuntimeError(f"{name}: expected a strided tensor, got layout {tensor.layout}")
    if lengths is not None and B > 0 and _values_can_be_read(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > T:
            raise ValueError(f"lengths: expected values in [0, {T}], got {low if low < 0 else high}")


def _values_can_be_read(tensor: Tensor) -> bool:
    """Not on a device, which would have to be waited for, nor where torch.compile or torch.func have no values."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
