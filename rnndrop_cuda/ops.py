"""Registration of ``torch.ops.rnndrop``: loads the kernels and tells PyTorch the ops' shapes and derivatives.

``lstm_layer``'s derivative is ``lstm_layer_backward``; the derivatives of that one, of any order, replay the reference.
Masks and lengths are constants.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda import flops, onnx, reference
from rnndrop_cuda.autodiff import transformable
from rnndrop_cuda.noises import CONSTANTS, INPUTS

KERNEL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
N_INPUTS = len(INPUTS)
N_TENSORS = N_INPUTS + len(CONSTANTS)


def _why_not_built() -> tuple[str, str]:
    """What is missing, and what a user does about it: the clone's own folder may hide an install that has kernels."""
    folder = Path(__file__).parent
    if (folder / "_build_facts.json").exists():
        return (
            "the kernels were not built when rnndrop_cuda was installed",
            "`rnndrop info` says why and how to get them.",
        )
    return (
        f"{folder} is a source folder that was never built",
        "Python takes it before an installed rnndrop_cuda where it is run in the clone (`torchrun -m` too): run it in "
        "another folder, or build here by `pip install -e .`.",
    )


def _load() -> str:
    """Load the compiled ops. Returns "", or why there are none."""
    if importlib.util.find_spec("rnndrop_cuda._C") is None:
        why, cause = _why_not_built()
        warnings.warn(
            f"rnndrop_cuda: {why}. Every layer runs on the slow Python path. {cause}", RuntimeWarning, stacklevel=2
        )
        return why
    try:
        importlib.import_module("rnndrop_cuda._C")
    except ImportError as error:
        why = f"the kernels were built but do not load: {error}"
        warnings.warn(
            f"rnndrop_cuda: {why}. Every layer runs on the slow Python path. Usually torch was changed after "
            "the install; install rnndrop_cuda again.",
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


def have_kernels(device: str, dtype: torch.dtype) -> bool:
    """Whether the ops run on tensors of this type of device and dtype."""
    return (HAS_CPU_KERNELS if device == "cpu" else device == "cuda" and HAS_CUDA_KERNELS) and dtype in KERNEL_DTYPES


def runs_as_written() -> bool:
    """Whether torch runs what is called as it is called: it does not compile, trace or map, and no mode listens."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._get_tracing_state()
    )


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which c is kept and the gates are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _lstm_layer_fake(
    x: Tensor, h_0: Tensor | None, c_0: Tensor | None, W_ih: Tensor, W_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None, W_hr: Tensor | None, *constants_and_flags: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    *constants, _, save = constants_and_flags
    # Tensors on the meta device run this in place of a kernel, others beside them or not.
    for tensor in (h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr, *constants):
        if tensor is not None and tensor.device != x.device:
            raise RuntimeError(f"expected all tensors on {x.device} like x, got one on {tensor.device}")
    T, B, _ = x.shape
    H, P = W_hh.shape[0] // 4, W_hh.shape[1]
    return (
        x.new_empty(T, B, P),
        x.new_empty(B, P),
        x.new_empty(B, H),
        x.new_empty(T, B, 4 * H) if save else x.new_empty(0),
        x.new_empty(*((T + 1, B, H) if save else (0,)), dtype=acc_dtype(x.dtype)),
        x.new_empty(T, B, H) if save and W_hr is not None else x.new_empty(0),
    )


def _lstm_layer_backward_fake(
    x: Tensor, h_0: Tensor | None, c_0: Tensor | None, W_ih: Tensor, W_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None, W_hr: Tensor | None, *constants_saved_and_flags: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    *_, need_dx, need_dW = constants_saved_and_flags

    def of(input: Tensor | None, wanted: bool) -> Tensor:
        return x.new_empty(input.shape if wanted and input is not None else 0)

    weights = (W_ih, W_hh, b_ih, b_hh, W_hr)
    return of(x, need_dx), of(h_0, True), of(c_0, True), *(of(weight, need_dW) for weight in weights)


def _expand_dropout_mask_fake(
    seed: Tensor, shape: Sequence[int], drop: int, dropped: float, kept: float, dtype: torch.dtype
) -> Tensor:
    return seed.new_empty((*seed.shape[:-1], *shape), dtype=dtype)


def _draw_dropout_masks_fake(
    dims: Sequence[int], sizes: Sequence[int], drop: Sequence[int], dropped: Sequence[float], kept: Sequence[float],
    dtype: torch.dtype, device: torch.device | None = None, generator: torch.Generator | None = None,
) -> list[Tensor]:  # fmt: skip
    rest = iter(sizes)
    options: dict[str, Any] = {"dtype": dtype, "device": device or "cpu"}
    return [torch.empty([next(rest) for _ in range(n)], **options) for n in dims]


def _expand_dropout_mask_map(info: Any, in_dims: tuple[int, ...], seed: Tensor, *rest: Any) -> tuple[Tensor, int]:
    """Only the seed can be mapped, and the op takes many seeds at once."""
    return expand_dropout_mask(seed.movedim(in_dims[0], 0), *rest), 0


def _record(op: Any, *args: Any) -> tuple[Tensor, ...]:
    """The layer where a graph is being recorded."""
    if onnx.is_wanted():
        return onnx.lstm_layer(*args)
    if torch._C._get_tracing_state():
        # torch.jit.trace compares with a trace made under no_grad, and what was traced may be trained.
        return op(*args[:-1], torch._C._any_requires_grad(*args[:N_INPUTS]))
    return op(*args)


# ---------------------------------------------------------------- first derivatives


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, reverse, save = inputs
    y, _, _, *saved = output
    ctx.reverse, ctx.save = reverse, save
    ctx.mark_non_differentiable(*saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, y, *saved)


def _backward(
    ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("rnndrop::lstm_layer was called with save=False: it kept nothing for a backward")
    # Read once, since a checkpoint that recomputes saved tensors hands them out only once.
    saved_tensors = ctx.saved_tensors
    inputs, saved = saved_tensors[:N_TENSORS], saved_tensors[N_TENSORS:]
    needs = ctx.needs_input_grad
    if dy is None and dh_n is None and dc_n is None:
        return (None,) * len(needs)
    gradients = lstm_layer_backward(*inputs, ctx.reverse, *saved, dy, dh_n, dc_n, needs[0], any(needs[3:N_INPUTS]))
    wanted = [gradient if need else None for gradient, need in zip(gradients, needs, strict=False)]
    return *wanted, *[None] * (len(needs) - len(wanted))


# ---------------------------------------------------------------- derivatives of the backward, by the reference


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *rest, dy, dh_n, dc_n, _, _ = inputs
    ctx.reverse = rest[N_TENSORS]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*rest[:N_TENSORS], dy, dh_n, dc_n)


def _double_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """Derivatives of the gradients, in the layer's inputs and in dy, dh_n, dc_n: plain torch operations throughout.

    What the forward saved (y, gates, ...) counts as constant; the reference starts again from the inputs.
    """
    saved = ctx.saved_tensors
    differentiable, constants = saved[:N_INPUTS], saved[N_INPUTS:N_TENSORS]
    incoming = saved[N_TENSORS:]
    # The empty tensor in place of what was left out may have a gradient, too.
    wanted = [
        (k, dd)
        for k, (of, dd) in enumerate(zip(differentiable, upstream, strict=True))
        if of is not None and dd is not None and dd.shape == of.shape
    ]
    if not wanted:
        return (None,) * len(ctx.needs_input_grad)

    def layer(*given: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(INPUTS, _filled(differentiable, given), strict=True))
        outputs = reference.lstm_layer(**inputs, **dict(zip(CONSTANTS, constants, strict=True)), reverse=ctx.reverse)
        return tuple(output for output, grad in zip(outputs, incoming, strict=True) if grad is not None)

    n_inputs = sum(t is not None for t in differentiable)

    def first_derivatives(*given: Tensor) -> list[Tensor]:
        pull_back = torch.func.vjp(layer, *given[:n_inputs])[1]
        gradients = _filled(differentiable, pull_back(given[n_inputs:]))
        return [gradients[k] for k, _ in wanted]

    pull_back = torch.func.vjp(first_derivatives, *(t for t in (*differentiable, *incoming) if t is not None))[1]
    second = _filled((*differentiable, *incoming), pull_back([dd for _, dd in wanted]))
    of_inputs, of_incoming = second[:N_INPUTS], second[N_INPUTS:]
    undifferentiated = len(constants) + 1 + 4  # reverse; y, gates, c, h_full
    return *of_inputs, *[None] * undifferentiated, *of_incoming, None, None


def _filled(like: Sequence[Tensor | None], given: Sequence[Tensor]) -> list[Any]:
    """``given`` in the places where ``like`` has a tensor, None in the others."""
    rest = iter(given)
    return [None if t is None else next(rest) for t in like]


if not WHY_NOT_LOADED:
    from rnndrop_cuda import _C

    torch.library.register_fake("rnndrop::lstm_layer")(_lstm_layer_fake)
    torch.library.register_fake("rnndrop::lstm_layer_backward")(_lstm_layer_backward_fake)
    expand_dropout_mask = torch.ops.rnndrop.expand_dropout_mask.default
    torch.library.register_fake("rnndrop::expand_dropout_mask")(_expand_dropout_mask_fake)
    torch.library.register_vmap("rnndrop::expand_dropout_mask", _expand_dropout_mask_map)
    torch.library.register_fake("rnndrop::draw_dropout_masks")(_draw_dropout_masks_fake)
    lstm_layer = transformable("lstm_layer", _backward, _setup_context, eager=_C.lstm_layer, record=_record)
    lstm_layer_both_ways = _C.lstm_layer_both_ways
    plain_call = _C.plain_call
    pack_layers = _C.pack_layers
    draw_dropout_masks = _C.draw_dropout_masks
    longest_first = _C.longest_first
    lstm_layer_backward = transformable("lstm_layer_backward", _double_backward, _backward_setup_context)
    flops.register()
