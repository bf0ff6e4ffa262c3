"""An nn.LSTM in ONNX Runtime: the model written node by node, so that nothing but the LSTM is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Blocks of nn.LSTM's weights, which has i, f, g, o, in ONNX's order: i, o, f, c.
IOFC = (0, 3, 1, 2)


def session(lstm: nn.LSTM, threads: int) -> Any:
    """An onnxruntime.InferenceSession for one layer in one direction with biases, on that many threads.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model(lstm), options, providers=["CPUExecutionProvider"])


def model(lstm: nn.LSTM) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    I, H = lstm.input_size, lstm.hidden_size
    W_ih, W_hh, b_ih, b_hh = (in_onnx_order(parameter.detach()) for parameter in lstm.parameters())
    weights = {"W": W_ih[None], "R": W_hh[None], "bias": torch.cat([b_ih, b_hh])[None]}
    node = helper.make_node("LSTM", ["x", "W", "R", "bias", "", "h_0", "c_0"], ["y", "h_n", "c_n"], hidden_size=H)

    def floats(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "lstm",
        [floats("x", "T", "B", I), floats("h_0", 1, "B", H), floats("c_0", 1, "B", H)],
        [floats("y", "T", 1, "B", H), floats("h_n", 1, "B", H), floats("c_n", 1, "B", H)],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made.SerializeToString()


def in_onnx_order(parameter: Tensor) -> Tensor:
    blocks = parameter.chunk(4)
    return torch.cat([blocks[k] for k in IOFC])


def layer(session: Any, x: Tensor) -> Callable[[Any], tuple[Any, Any]]:
    """From (h_0, c_0) to y [T, 1, B, H] and (h_n, c_n), all but x as numpy arrays."""
    in_numpy = x.numpy()

    def run(hx: Any) -> tuple[Any, Any]:
        y, h_n, c_n = session.run(None, {"x": in_numpy, "h_0": hx[0], "c_0": hx[1]})
        return y, (h_n, c_n)

    return run
