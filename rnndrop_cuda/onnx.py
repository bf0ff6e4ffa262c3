"""The layer in ONNX: what ``torch.onnx.export`` writes for it, with either exporter, is ONNX's own LSTM node.

An LSTM node has no masks, so those that every sample shares go into the weights, which the exporters fold. It can run
from the last step to the first, begin anywhere, and stop each sample at its length. It has no projection, and nothing
that acts between the gates and the state.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from rnndrop_cuda.noises import MASKS
from rnndrop_cuda.reference import initial_state

IOFC = (0, 3, 1, 2)
"""The gates of an LSTM node, as places among i, f, g, o; its c is g."""
INSTEAD = "with backend='python' the layer is exported step by step instead, for a fixed number of steps"


def is_wanted() -> bool:
    """Whether the graph that is being recorded becomes ONNX.

    Dynamo, which records where torch.export's other tracer could not, would say no for torch.
    """
    return torch.onnx.is_in_onnx_export()


# As torch.compiler.assume_constant_result has it; that one imports Dynamo, which takes as long as importing torch does.
is_wanted._dynamo_marked_constant = True  # type: ignore[attr-defined]


def lstm_layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    W_hr: Tensor | None,
    mask_x: Tensor | None,
    mask_h: Tensor | None,
    mask_g: Tensor | None,
    mask_c: Tensor | None,
    zone_c: Tensor | None,
    zone_h: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, ...]:
    """``rnndrop::lstm_layer`` as an LSTM node, for a graph that becomes ONNX; the tensors in it hold zeros.

    It saves nothing for a backward. A program that ``torch.export`` made before has the op in it; with this as a
    decomposition it has the node: ``program.run_decompositions({torch.ops.rnndrop.lstm_layer.default: lstm_layer})``.

    Raises:
        ValueError: the node cannot do what the call asks for.
    """
    if W_hr is not None:
        raise ValueError(f"proj_size: ONNX's LSTM has no projection; {INSTEAD}")
    for argument, mask in (("mask_g", mask_g), ("mask_c", mask_c), ("zone_c", zone_c), ("zone_h", zone_h)):
        if mask is not None:
            raise ValueError(f"{MASKS[argument].keyword}: ONNX's LSTM has no place for it; {INSTEAD}")
    if mask_x is not None and mask_x.dim() == 2:
        x = x * mask_x
    elif mask_x is not None:
        W_ih = _masked("input_dropout", W_ih, mask_x)
    if mask_h is not None:
        W_hh = _masked("hidden_dropout", W_hh, mask_h)
    h_0, c_0 = initial_state(x, h_0, c_0, W_hh)
    order = _in_onnx_order(_constant(W_hh.shape[1]), x.device)
    biases = [b.index_select(0, order) for b in (b_ih, b_hh) if b is not None]
    y, h_n, c_n = _node(
        "reverse" if reverse else "forward",
        x,
        W_ih.index_select(0, order).unsqueeze(0),
        W_hh.index_select(0, order).unsqueeze(0),
        torch.cat(biases).unsqueeze(0) if biases else None,
        None if lengths is None else lengths.to(torch.int32),
        h_0.unsqueeze(0),
        c_0.unsqueeze(0),
    )
    y, h_n, c_n = y.squeeze(1), h_n.squeeze(0), c_n.squeeze(0)
    if lengths is not None:  # ONNX Runtime has zeros where a sample has no step
        runs = lengths.unsqueeze(1) > 0
        h_n, c_n = torch.where(runs, h_n, h_0), torch.where(runs, c_n, c_0)
    nothing = x.new_zeros(0)
    return y, h_n, c_n, nothing, nothing, nothing


def refuse_drawing() -> None:
    """Where a graph for ONNX is being recorded, refuse to draw masks in it.

    Raises:
        ValueError: that is so.
    """
    if is_wanted():
        raise ValueError(
            "dropout is on, which draws masks that ONNX cannot: call eval(), without mc_dropout, before the export, or "
            "give the masks to export as masks="
        )


def _masked(keyword: str, W: Tensor, mask: Tensor) -> Tensor:
    """``W`` of the gates, its inputs times the mask: [N], or [4, 1, N] for each gate its own."""
    if mask.dim() == 1:
        return W * mask
    if mask.dim() == 2 or mask.shape[1] != 1:
        raise ValueError(f"{keyword}: ONNX's LSTM has one mask for all samples at most; {INSTEAD}")
    return (W.unflatten(0, (4, -1)) * mask).flatten(0, 1)


def _in_onnx_order(hidden_size: int, device: torch.device) -> Tensor:
    """Where each row of an LSTM node's weights is in ours."""
    H = hidden_size
    return torch.cat([torch.arange(gate * H, (gate + 1) * H, device=device) for gate in IOFC])


def _constant(size: int) -> int:
    """A size that is the same at every call, which TorchScript's tracer takes for a variable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return int(size)


def _node(direction: str, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Y [T, 1, B, H], Y_h and Y_c [1, B, H] of an LSTM node, whose inputs are x and the others."""
    if torch._C._get_tracing_state():
        return _ScriptNode.apply(direction, x, *others)
    (T, B, _), H = x.shape, others[-1].shape[-1]
    y, h_n, c_n = torch.onnx.ops.symbolic_multi_out(
        "LSTM",
        (x, *others),
        {"hidden_size": H, "direction": direction},
        dtypes=[x.dtype] * 3,
        shapes=[(T, 1, B, H), (1, B, H), (1, B, H)],
    )
    return y, h_n, c_n


class _ScriptNode(torch.autograd.Function):
    """The node for the exporter that goes by way of TorchScript."""

    @staticmethod
    def forward(ctx: Any, direction: str, x: Tensor, *others: Any) -> tuple[Tensor, ...]:
        h_0, c_0 = others[-2:]
        return x.new_zeros(x.shape[0], *c_0.shape), torch.zeros_like(h_0), torch.zeros_like(c_0)

    @staticmethod
    def symbolic(g: Any, direction: str, *inputs: Any) -> Any:
        W_hh = inputs[2]
        hidden_size = W_hh.type().sizes()[-1]
        absent = g.op("prim::Constant").setType(torch._C.OptionalType.ofTensor())
        inputs = tuple(absent if value is None else value for value in inputs)
        return g.op("LSTM", *inputs, hidden_size_i=hidden_size, direction_s=direction, outputs=3)
