"""Checks of everything that a caller can get wrong, run before any backend, or after the op has refused.

Each raises an exception that names the argument, what was expected and what was given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Complex, Number, Real
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from rnndrop_cuda.noises import CONSTANTS, INPUTS, NOISES, LayerMasks, Shape, Sizes, sizes_by_name

REQUIRED = ("x", "W_ih", "W_hh")
SHAPES: dict[str, tuple[Shape, ...]] = {**{name: (shape,) for name, shape in INPUTS.items()}, **CONSTANTS}
AROUND_THE_LAYER = tuple(row for row in NOISES if row.argument is None)

# ---------------------------------------------------------------- options


def check_probability(name: str, p: float) -> float:
    """``p``, a probability of dropping, as a float.

    Raises:
        ValueError: p is not a number in [0, 1]; NaN and bool are none. The message names the argument.
    """
    # A Decimal, which nn.LSTM's own dropout may be, is a Number and no Real; it refuses to order NaN.
    is_real = isinstance(p, Real) or (isinstance(p, Number) and not isinstance(p, Complex))
    if not is_real or isinstance(p, bool) or p != p or not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability, a number in [0, 1], got {p!r}")
    return float(p)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_shape(shape: Sequence[int]) -> None:
    if not isinstance(shape, Sequence) or not all(hasattr(size, "__index__") for size in shape):
        raise TypeError(f"shape: expected whole numbers, got {shape!r}")


def check_flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return value


def check_module(name: str, value: nn.Module) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: expected an nn.Module, got {type(value).__name__}")
    return value


def check_forget_bias(value: float | None, bias: bool) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"forget_bias: expected a finite number or None, got {value!r}")
    if not bias:
        raise ValueError(f"forget_bias: expected None with bias=False, got {value!r}")
    return float(value)


# ---------------------------------------------------------------- a call of the module


def check_generator(generator: Any) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")


def check_input(input: Tensor) -> None:
    """That it is a tensor of 2 or 3 dimensions; nn.LSTM's own checks see to the sizes."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input: expected a Tensor or a PackedSequence, got {type(input).__name__}")
    if input.dim() not in (2, 3):
        raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")


def check_orders(order: Tensor | None, back: Tensor | None, B: int) -> None:
    """A PackedSequence's sorted_indices and unsorted_indices; their values where no device has to be waited for."""
    if order is None and back is None:
        return
    expected = (
        f"input: expected sorted_indices and unsorted_indices to be permutations of its {B} samples, each the other's "
        "inverse"
    )
    for name, indices in {"sorted_indices": order, "unsorted_indices": back}.items():
        if not isinstance(indices, Tensor):
            raise ValueError(f"{expected}, got {name} {indices}")
        if indices.shape != (B,) or indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{expected}, got {name} of shape {list(indices.shape)} and {indices.dtype}")
    assert order is not None and back is not None
    if not (order.is_cpu and back.is_cpu and type(order) is type(back) is Tensor):
        return
    places = order.clamp(0, B - 1)
    wrong = ((order != places) | (back[places] != torch.arange(B, device="cpu"))).nonzero()
    if len(wrong):
        b = int(wrong[0])
        got, place = f"sorted_indices[{b}] = {order[b]}", int(places[b])
        if place == order[b]:
            got += f" and unsorted_indices[{place}] = {back[place]}"
        raise ValueError(f"{expected}, got {got}")


def check_hx(hx: Any, dim: int) -> None:
    """That hx is a pair of tensors with as many dimensions as the input; nn.LSTM's own checks see to the sizes."""
    if hx is None:
        return
    if not isinstance(hx, (tuple, list)) or len(hx) != 2 or not all(isinstance(state, Tensor) for state in hx):
        raise TypeError(f"hx: expected a pair of tensors (h_0, c_0), got {type(hx).__name__}")
    if any(state.dim() != dim for state in hx):
        kind = "batched 3-D" if dim == 3 else "unbatched 2-D"
        raise RuntimeError(
            f"For {kind} input, hx and cx should also be {dim}-D but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
        )


def refuse_devices(what: str, tensor: Tensor, x: Tensor) -> NoReturn:
    """With nn.LSTM's message."""
    raise RuntimeError(
        f"Input and {what} tensors are not at the same device, found input tensor at {x.device} and {what} tensor at "
        f"{tensor.device}"
    )


def check_masks(given: Sequence[LayerMasks], runs: int, directions: int, sizes: Sizes) -> None:
    """The masks given to a module: all their types, and the shapes of those that it applies itself.

    A product with those would broadcast instead of failing. The shapes of the others are checked by check_tensors.
    """
    if isinstance(given, LayerMasks) or not isinstance(given, Sequence):  # one LayerMasks is a tuple, too
        raise TypeError(f"masks: expected a list of LayerMasks, got {type(given).__name__}")
    if len(given) != runs:
        raise ValueError(f"masks: expected one LayerMasks a layer and direction, that is {runs}, got {len(given)}")
    for k, masks in enumerate(given):
        if not isinstance(masks, LayerMasks):
            raise TypeError(f"masks[{k}]: expected a LayerMasks, got {type(masks).__name__}")
        for name, mask in zip(masks._fields, masks, strict=True):
            if mask is not None and not isinstance(mask, Tensor):
                raise TypeError(f"masks[{k}].{name}: expected a Tensor or None, got {type(mask).__name__}")
        for row in AROUND_THE_LAYER:
            mask = getattr(masks, row.field)
            if mask is None:
                continue
            _check_shape(f"masks[{k}].{row.field}", mask, row.shapes, sizes)
            if row.between_layers and k >= runs - directions:
                raise ValueError(f"masks[{k}].{row.field}: expected None, since there is no layer above")


def check_masks_around(k: int, masks: LayerMasks, x: Tensor, *, cast: bool) -> None:
    """Device and dtype of the masks that a module applies itself; cast: autocast converts them.

    A product with another dtype would be promoted, and the next check would blame what comes out of it.
    """
    for row in AROUND_THE_LAYER:
        mask = getattr(masks, row.field)
        if mask is not None and not cast and mask.dtype != x.dtype:
            raise ValueError(f"masks[{k}].{row.field}: expected dtype {x.dtype} like the input, got {mask.dtype}")
        if mask is not None and mask.device != x.device:
            raise RuntimeError(f"masks[{k}].{row.field}: expected a tensor on {x.device}, got {mask.device}")


def check_drawing(T: Any, B: Any, generator: Any) -> None:
    """What masks are drawn for."""
    for name, size in {"T": T, "B": B}.items():
        if not hasattr(size, "__index__"):
            raise TypeError(f"{name}: expected a whole number, got {type(size).__name__}")
        if size < 0:
            raise ValueError(f"{name}: expected at least 0, got {size}")
    check_generator(generator)


# ---------------------------------------------------------------- tensors of a layer


def check_tensors(tensors: dict[str, Tensor | None]) -> None:
    """All tensor arguments of lstm_layer, by name."""
    for name, tensor in tensors.items():
        if tensor is None and name not in REQUIRED:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(tensor).__name__}")
    x, W_hh, lengths = tensors["x"], tensors["W_hh"], tensors["lengths"]
    assert x is not None and W_hh is not None
    sizes, dtype, device = _sizes(x, W_hh, tensors["W_hr"]), x.dtype, x.device
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        _check_shape(name, tensor, SHAPES[name], sizes)
        if tensor.dtype != (torch.int64 if name == "lengths" else dtype):
            expected = "torch.int64" if name == "lengths" else f"{dtype} like x"
            raise ValueError(f"{name}: expected dtype {expected}, got {tensor.dtype}")
        if tensor.device != device:
            raise RuntimeError(f"{name}: expected a tensor on {device} like x, got {tensor.device}")
        if tensor.layout != torch.strided:
            raise RuntimeError(f"{name}: expected a strided tensor, got layout {tensor.layout}")
    if lengths is not None and sizes["B"] > 0 and _values_can_be_read(lengths):
        low, high, T = int(lengths.min()), int(lengths.max()), sizes["T"]
        if low < 0 or high > T:
            raise ValueError(f"lengths: expected values in [0, {T}], got {low if low < 0 else high}")


def _sizes(x: Tensor, W_hh: Tensor, W_hr: Tensor | None) -> Sizes:
    """The sizes that all other shapes are checked against, read off x and W_hh."""
    if x.dim() != 3:
        raise RuntimeError(f"x: expected shape [T, B, I], got {list(x.shape)}")
    width = "4H, H" if W_hr is None else "4H, P"
    if W_hh.dim() != 2 or 0 in W_hh.shape or W_hh.shape[0] % 4 or (W_hr is None and W_hh.shape[0] != 4 * W_hh.shape[1]):
        raise RuntimeError(f"W_hh: expected shape [{width}] with {width[-1]} >= 1, got {list(W_hh.shape)}")
    T, B, I = x.shape
    if T == 0:
        raise RuntimeError(f"x: expected a sequence of at least one step, got shape {list(x.shape)}")
    if not (x.is_floating_point() or x.is_complex()):
        raise ValueError(f"x: expected a floating-point dtype, got {x.dtype}")
    H, P = W_hh.shape[0] // 4, W_hh.shape[1]
    return sizes_by_name(T, B, I, H, P)


def _check_shape(name: str, tensor: Tensor, shapes: Sequence[Shape], sizes: Sizes) -> None:
    found = list(tensor.shape)
    allowed = [[sizes[size] for size in shape] for shape in shapes]
    for shape in allowed:  # not ``in``, which torch.compile cannot trace where sizes are dynamic
        if found == shape:
            return
    raise RuntimeError(f"{name}: expected shape {' or '.join(map(str, allowed))}, got {found}")


def _values_can_be_read(tensor: Tensor) -> bool:
    """Not on a device, which we would have to wait for, nor in a graph or under torch.func, which have no values."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or tensor.device.type != "cpu":
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor) and not has_no_memory(tensor)


def has_no_memory(tensor: Tensor) -> bool:
    """Whether a tensor is none that kernels can read: a DTensor, a fake one, or one of another layout."""
    return torch._C._dispatch_keys(tensor).has(torch._C.DispatchKey.Python) or tensor.layout != torch.strided
