"""The stack of layers and directions as a function of tensors: autocast, the masks outside of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnndrop_cuda import checks, ops
from rnndrop_cuda.functional import LayerStates, run_both_ways, run_layer
from rnndrop_cuda.noises import MASKS, LayerMasks

State = tuple[Tensor, Tensor]
InitialStates = tuple[Sequence[Tensor | None], Sequence[Tensor | None]]
"""h_0 and c_0 of each layer and direction, ``[B, P]`` and ``[B, H]``; zeros where None."""
PLACES = [LayerMasks._fields.index(row.field) for row in MASKS.values()]


def plain_call(layer: Any, input: Any, hx: Any, lengths: Any) -> tuple[Any, State] | None:
    """An LSTM's forward on plain tensors where nothing listens; None if this is not one.

    They may be packed. All but the drawing of masks is in C++ (csrc/plain_call.h): Python takes longer over a small
    layer than the kernels. It keeps nothing from call to call but what pack_weights did; what does not fit it goes the
    way of every other call.
    """
    draws = layer.training or layer.mc_dropout
    if (
        torch.compiler.is_compiling()
        or (not draws and (layer.cell_zoneout or layer.hidden_zoneout))
        or layer.learn_initial_state
        or layer.backend == "python"
        or ops.WHY_NOT_LOADED
    ):
        return None
    is_packed = type(input) is PackedSequence
    dtype = None
    if torch._C._is_any_autocast_enabled():
        x = input.data if is_packed else input
        dtype = _autocast_dtype(x, layer.proj_size > 0, is_packed) if isinstance(x, Tensor) else None
    result = ops.plain_call(
        input, is_packed, hx, lengths, layer, layer._parameters, layer._all_weights, layer._flat_weights,
        layer.input_size, layer.hidden_size, layer.proj_size, layer.bidirectional, layer.batch_first,
        layer.draw_masks if draws else None,
        layer._packed and layer._packed.layers,
        layer.backend, dtype,
    )  # fmt: skip
    if is_packed and result is not None:
        return input._replace(data=result[0]), result[1]
    return result


def run_stack(
    x: Tensor, hx: InitialStates, lengths: Tensor | None,
    all_weights: Sequence[Sequence[Tensor]], masks: Sequence[LayerMasks],
    *, directions: int, projected: bool, backend: str, return_states: bool, packed: bool = False,
) -> tuple[Tensor, State, list[LayerStates]]:  # fmt: skip
    """The stack over x [T, B, I]: output, final states, and every state where asked for.

    There are initial states, weights and masks for each layer and direction. Under autocast everything is computed in
    its dtype, but on the CPU what nn.LSTM does not compute in it.
    """
    dtype = _autocast_dtype(x, projected, packed)

    def given(k: int, x: Tensor) -> tuple[Any, ...]:
        tensors: tuple[Any, ...] = (x, hx[0][k], hx[1][k], *all_weights[k])
        m = masks[k]
        if m.w is not None or m.y is not None:
            checks.check_masks_around(k, m, x, cast=dtype is not None)
        if dtype is not None:
            tensors = tuple(_cast(tensor, dtype) for tensor in tensors)
            m = LayerMasks(*(_cast(mask, dtype) for mask in m))
        x, h_0, c_0, W_ih, W_hh, *others = tensors
        W_hr = others.pop() if projected else None
        b_ih, b_hh = others or (None, None)
        if m.w is not None:
            W_hh = m.w * W_hh
        return x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr, *(m[place] for place in PLACES), lengths

    of_zeros = x.dtype
    final_h: list[Tensor] = []
    final_c: list[Tensor] = []
    states: list[LayerStates] = []
    for first in range(0, len(all_weights), directions):
        if directions == 2:
            results = run_both_ways(given(first, x), given(first + 1, x), backend, return_states)
        else:
            results = [run_layer(given(first, x), False, backend, return_states)]
        outputs = []
        for k, (y, h_n, c_n, *of_layer) in enumerate(results, first):
            if projected and dtype is not None and x.is_cpu:  # nn.LSTM's c comes of a sum with c_0
                c_0 = hx[1][k]
                c_n = c_n.to(torch.promote_types(of_zeros if c_0 is None else c_0.dtype, dtype))
            mask = masks[k].y
            outputs.append(y if mask is None else mask.to(y.dtype) * y)
            final_h.append(h_n)
            final_c.append(c_n)
            states += of_layer
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
    # It may be changed in place before the backward, as nn.LSTM's in these cases. A trace may be trained later.
    alone = directions == 1 and (projected or x.dtype is torch.float64)
    if alone and (x.requires_grad or torch._C._get_tracing_state()):
        x = x.clone()
    return x, (_stacked(final_h), _stacked(final_c)), states


def _autocast_dtype(x: Tensor, projected: bool, packed: bool) -> torch.dtype | None:
    """None where autocast is off, leaves x as it is, or does not exist, as on the meta device."""
    if not torch._C._is_any_autocast_enabled() or not _is_cast(x):
        return None
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    dtype = torch.get_autocast_dtype(device)
    if projected or not x.is_cpu:
        return dtype
    # nn.LSTM's own rules on the CPU: packed sequences stay as they are, the other 16-bit type is widened.
    if x.dtype not in (torch.float32, dtype):
        return torch.float32
    return x.dtype if packed else dtype


def _is_cast(tensor: Tensor) -> bool:
    """Whether autocast has a say in it."""
    return tensor.is_floating_point() and tensor.dtype is not torch.float64


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor.to(dtype) if tensor is not None and _is_cast(tensor) else tensor


def _stacked(states: list[Tensor]) -> Tensor:
    """[layers and directions, B, ...]; no view, which detach_() refuses.

    A single plain tensor is not copied, but where a mode listens: a checkpoint's, say, may have kept it.
    """
    nobody_listens = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() == 0
    in_place = len(states) == 1 and type(states[0]) is Tensor and nobody_listens
    return states[0].unsqueeze_(0) if in_place else torch.stack(states)
