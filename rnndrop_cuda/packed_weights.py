"""``pack_weights``: layers that run a few rows at a time, over and over, with weights packed once."""

from __future__ import annotations

import functools
import weakref
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from rnndrop_cuda import ops
from rnndrop_cuda.checks import check_module, has_no_memory
from rnndrop_cuda.lstm import LSTM

packed_layers: weakref.WeakSet[LSTM] = weakref.WeakSet()
"""Those that have been packed, of which some may not be any more."""


class Packed:
    """A layer's W_ih and W_hh, packed. They are of the very tensors that the layer has."""

    def __init__(self, layer: LSTM) -> None:
        self.layers = ops.pack_layers([weight for of_run in layer._weights() for weight in of_run[:2]])


def pack_weights(model: nn.Module) -> None:
    """Pack the weights of every :class:`rnndrop_cuda.LSTM` in a model once, for its calls in eval on the CPU.

    For a model that runs a step or a few at a time with the same weights: streaming, generation, reinforcement
    learning. The kernels lay a weight out anew at every call, or read it where it lies, which takes longer than to
    multiply a few rows with it. From here on, calls without a gradient, masks, zoneout, lengths or a PackedSequence
    find it laid out, and differ from what they gave before by rounding.

    They do until a weight changes, is moved or is replaced, by an optimiser or by ``load_state_dict``, say; a layer
    then runs as it did before, until pack_weights is called again. What torch does not count goes unseen: changes by
    way of ``.data``, of NumPy, of a collective of ``torch.distributed``, or of another process that shares the memory;
    call pack_weights again after them. Copies
    of the model, and those in files, have nothing packed. The memory is that of the weights once more, twice that of
    16-bit weights where the processor does not multiply these.

    Raises:
        TypeError: model is not an nn.Module.
        ValueError: there is no such layer in the model, or one that cannot run like this: its parameters are not on
            the CPU, of a dtype without kernels, made under inference_mode, parametrized or without memory of their own
            (DTensors, say), or it has a projection, zoneout, a learned initial state or ``backend="python"``. The error
            names the layer.
        RuntimeError: the kernels were not built.
    """
    if ops.WHY_NOT_LOADED:
        raise RuntimeError(f"pack_weights needs the CPU kernels: {ops.WHY_NOT_LOADED}")
    layers = _layers_in(model)
    if not layers:
        raise ValueError(f"model: expected an rnndrop_cuda.LSTM or a module that has one, got {type(model).__name__}")
    for name, layer in layers:
        if why := _why_not(layer):
            raise ValueError(f"pack_weights: {name or 'the model itself'} {why}")
    _watch_fused_optimizers()
    for _, layer in layers:
        layer._packed = Packed(layer)
        packed_layers.add(layer)


def unpack_weights(model: nn.Module) -> None:
    """Free what :func:`pack_weights` has packed in a model. Its layers run as they did before.

    Raises:
        TypeError: model is not an nn.Module.
    """
    for _, layer in _layers_in(model):
        layer._packed = None


@functools.cache
def _watch_fused_optimizers() -> None:
    """torch's fused optimisers change weights without counting it."""

    def unpack_changed(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        fused = [group["params"] for group in optimizer.param_groups if group.get("fused")]
        changed = {id(parameter) for parameters in fused for parameter in parameters}
        for layer in tuple(packed_layers) if changed else ():
            if any(id(parameter) in changed for parameter in layer.parameters()):
                layer._packed = None

    register_optimizer_step_post_hook(unpack_changed)


def _layers_in(model: nn.Module) -> list[tuple[str, LSTM]]:
    modules = check_module("model", model).named_modules()
    return [(name, module) for name, module in modules if isinstance(module, LSTM)]


def _why_not(layer: LSTM) -> str:
    """What keeps a layer from running with packed weights; "" where nothing does."""
    for weight in (weight for of_run in layer._weights() for weight in of_run):
        if why := _why_not_weight(weight):
            return f"has {why}"
    if layer.proj_size:
        return "has a projection"
    if layer.hidden_zoneout or layer.cell_zoneout:
        return "has zoneout, which acts in eval, too"
    if layer.learn_initial_state:
        return "learns its initial state"
    return f"has backend={layer.backend!r}" if layer.backend not in ("auto", "cpu") else ""


def _why_not_weight(weight: Tensor) -> str:
    if not isinstance(weight, nn.Parameter):
        return "parametrized weights, which are made anew at every call"
    if has_no_memory(weight):
        return f"parameters of type {type(weight).__name__}; expected dense tensors"
    if weight.device.type != "cpu":
        return f"parameters on {weight.device}; expected them on the CPU"
    if weight.dtype not in ops.KERNEL_DTYPES:
        return f"parameters of dtype {weight.dtype}, which no kernel knows"
    return "parameters made under inference_mode, whose changes torch does not count" if weight.is_inference() else ""
