"""Registration of ``torch.ops.rnndrop``: loads the kernels, tells PyTorch the ops' shapes and derivatives.

``lstm_layer`` is differentiable once through ``lstm_layer_backward``, and to any order by replaying the reference.
Masks and lengths are constants.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import reference


def _load() -> str:
    """Load the compiled ops; "" or why there are none."""
    if importlib.util.find_spec("rnndrop_cuda._C") is None:
        return "the kernels were not built when rnndrop_cuda was installed"
    try:
        importlib.import_module("rnndrop_cuda._C")
    except ImportError as error:
        why = f"the kernels were built but do not load: {error}"
        warnings.warn(
            f"rnndrop_cuda: {why}. Every layer runs on the slow Python path. Most often torch was changed after "
            "the install: install rnndrop_cuda again.",
            RuntimeWarning,
            stacklevel=2,
        )
        return why
    return ""


WHY_NOT_LOADED = _load()


def _has_kernel(dispatch_key: str) -> bool:
    return not WHY_NOT_LOADED and torch._C._dispatch_has_kernel_for_dispatch_key("rnndrop::lstm_layer", dispatch_key)


HAS_CPU_KERNELS = _has_kernel("CPU")
HAS_CUDA_KERNELS = _has_kernel("CUDA")


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that c is kept in and gates are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _lstm_layer_fake(
    x: Tensor, h_0: Tensor, c_0: Tensor, W_ih: Tensor, W_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None,
    mask_x: Tensor | None, mask_h: Tensor | None, mask_g: Tensor | None, lengths: Tensor | None, reverse: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    T, B, _ = x.shape
    H = W_hh.shape[1]
    keeps_h_tilde = lengths is not None or (mask_h is not None and mask_h.dim() == 2)
    return (
        x.new_empty(T, B, H),
        x.new_empty(B, H),
        x.new_empty(B, H),
        x.new_empty(T, B, 4 * H),
        x.new_empty(T + 1, B, H, dtype=acc_dtype(x.dtype)),
        x.new_empty(T, B, H) if keeps_h_tilde else x.new_empty(0),
    )


def _lstm_layer_backward_fake(
    x: Tensor, h_0: Tensor, W_ih: Tensor, W_hh: Tensor, mask_x: Tensor | None, mask_h: Tensor | None,
    mask_g: Tensor | None, lengths: Tensor | None, reverse: bool, y: Tensor, gates: Tensor, c: Tensor, h_tilde: Tensor,
    dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, need_dx: bool, need_dW: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    return (
        x.new_empty(x.shape) if need_dx else x.new_empty(0),
        x.new_empty(h_0.shape),
        x.new_empty(h_0.shape),
        x.new_empty(W_ih.shape) if need_dW else x.new_empty(0),
        x.new_empty(W_hh.shape) if need_dW else x.new_empty(0),
        x.new_empty(W_hh.shape[0]) if need_dW else x.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, reverse = inputs
    y, _, _, gates, c, h_tilde = output
    ctx.reverse = reverse
    ctx.mark_non_differentiable(gates, c, h_tilde)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, y, gates, c, h_tilde)


def _backward(
    ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    *inputs, y, gates, c, h_tilde = ctx.saved_tensors
    needs = ctx.needs_input_grad
    if dy is None and dh_n is None and dc_n is None:
        return (None,) * len(needs)
    if torch.is_grad_enabled():
        return _replayed_backward(inputs, needs, ctx.reverse, (dy, dh_n, dc_n))

    x, h_0, _, W_ih, W_hh, _, _, mask_x, mask_h, mask_g, lengths = inputs
    dx, dh_0, dc_0, dW_ih, dW_hh, db = torch.ops.rnndrop.lstm_layer_backward(
        x, h_0, W_ih, W_hh, mask_x, mask_h, mask_g, lengths, ctx.reverse, y, gates, c, h_tilde,
        dy, dh_n, dc_n, needs[0], any(needs[3:7]),
    )  # fmt: skip
    gradients = (dx, dh_0, dc_0, dW_ih, dW_hh, db, db)
    return *(g if need else None for g, need in zip(gradients, needs, strict=False)), None, None, None, None, None


def _replayed_backward(
    inputs: list[Any], needs: tuple[bool, ...], reverse: bool, upstream: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients as a graph of plain torch operations, for derivatives of higher order."""
    # Aliases, so that a dependence of one input on another outside of this layer is not counted here.
    aliases: list[Any] = [t.view_as(t) if t is not None else None for t in inputs]
    x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, mask_x, mask_h, mask_g, lengths = aliases
    outputs = reference.lstm_layer(
        x, h_0, c_0, W_ih, W_hh, b_ih, b_hh,
        mask_x=mask_x, mask_h=mask_h, mask_g=mask_g, lengths=lengths, reverse=reverse,
    )  # fmt: skip
    reached = [(out, grad) for out, grad in zip(outputs, upstream, strict=True) if grad is not None]
    wanted = [k for k, need in enumerate(needs) if need]
    gradients = torch.autograd.grad(
        [out for out, _ in reached],
        [aliases[k] for k in wanted],
        [grad for _, grad in reached],
        create_graph=True,
        allow_unused=True,
    )
    result: list[Tensor | None] = [None] * len(needs)
    for k, gradient in zip(wanted, gradients, strict=True):
        result[k] = gradient
    return tuple(result)


if not WHY_NOT_LOADED:
    torch.library.register_fake("rnndrop::lstm_layer")(_lstm_layer_fake)
    torch.library.register_fake("rnndrop::lstm_layer_backward")(_lstm_layer_backward_fake)
    torch.library.register_autograd("rnndrop::lstm_layer", _backward, setup_context=_setup_context)
