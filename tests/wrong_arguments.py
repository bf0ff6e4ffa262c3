"""Calls of the function that are right, and what makes each wrong."""

import torch

from tests.modules import B, H, I, T
from tests.problems import random_problem


def good_arguments():
    problem = random_problem(T, B, I, H, masks="both", lengths=True)
    return problem.inputs | problem.options


def wrong(name, change):
    arguments = good_arguments()
    arguments[name] = change(arguments[name]) if callable(change) else change
    return arguments


# argument, what is done to it, the error, and what its message must say
BAD = [
    ("x", "text", TypeError, "expected a Tensor, got str"),
    ("x", None, TypeError, "expected a Tensor, got NoneType"),
    ("c_0", [1.0], TypeError, "expected a Tensor, got list"),
    ("mask_x", 0.5, TypeError, "expected a Tensor, got float"),
    ("x", lambda x: x[0], RuntimeError, "expected shape [T, B, I], got [3, 4]"),
    ("x", lambda x: x[:0], RuntimeError, "expected a sequence of at least one step, got shape [0, 3, 4]"),
    ("x", lambda x: x.int(), ValueError, "expected a floating-point dtype, got torch.int32"),
    ("h_0", lambda h: h[:2], RuntimeError, "expected shape [3, 6], got [2, 6]"),
    ("h_0", lambda h: h[None], RuntimeError, "expected shape [3, 6], got [1, 3, 6]"),
    ("c_0", lambda c: c[:, :5], RuntimeError, "expected shape [3, 6], got [3, 5]"),
    ("c_0", lambda c: c.float(), ValueError, "expected dtype torch.float64 like x, got torch.float32"),
    ("W_ih", lambda w: w.T, RuntimeError, "expected shape [24, 4], got [4, 24]"),
    ("W_ih", lambda w: w.half(), ValueError, "expected dtype torch.float64 like x, got torch.float16"),
    ("W_hh", lambda w: w[:23], RuntimeError, "expected shape [4H, H] with H >= 1, got [23, 6]"),
    ("W_hh", lambda w: w[0], RuntimeError, "expected shape [4H, H] with H >= 1, got [6]"),
    ("W_hh", lambda w: w[:0, :0], RuntimeError, "expected shape [4H, H] with H >= 1, got [0, 0]"),
    ("W_hh", lambda w: w.to("meta"), RuntimeError, "expected a tensor on cpu like x, got meta"),
    ("W_hh", lambda w: w.to_sparse(), RuntimeError, "expected a strided tensor, got layout torch.sparse_coo"),
    ("W_hr", "text", TypeError, "expected a Tensor, got str"),
    ("W_hr", torch.zeros(6, 5).double(), RuntimeError, "expected shape [6, 6], got [6, 5]"),
    ("W_hr", torch.zeros(6, 6), ValueError, "expected dtype torch.float64 like x, got torch.float32"),
    ("b_ih", lambda b: b[:6], RuntimeError, "expected shape [24], got [6]"),
    ("b_hh", lambda b: b[None], RuntimeError, "expected shape [24], got [1, 24]"),
    ("mask_x", lambda m: m[:3], RuntimeError, "expected shape [4] or [3, 4] or [4, 1, 4] or [4, 3, 4], got [3]"),
    ("mask_x", lambda m: m.expand(T, B, I), RuntimeError, "[4] or [3, 4] or [4, 1, 4] or [4, 3, 4], got [5, 3, 4]"),
    ("mask_h", lambda m: m[:1], RuntimeError, "expected shape [6] or [3, 6] or [4, 1, 6] or [4, 3, 6], got [1, 6]"),
    ("mask_h", lambda m: m.bool(), ValueError, "expected dtype torch.float64 like x, got torch.bool"),
    ("mask_g", lambda m: m[:4], RuntimeError, "expected shape [6] or [3, 6] or [5, 3, 6], got [4, 3, 6]"),
    ("mask_c", torch.ones(5, 3, 6).double(), RuntimeError, "expected shape [6] or [3, 6], got [5, 3, 6]"),
    ("zone_c", torch.ones(3, 5).double(), RuntimeError, "expected shape [6] or [3, 6] or [5, 3, 6], got [3, 5]"),
    ("zone_h", torch.ones(6), ValueError, "expected dtype torch.float64 like x, got torch.float32"),
    ("zone_h", 0.1, TypeError, "expected a Tensor, got float"),
    ("mask_g", lambda m: m.to("meta"), RuntimeError, "expected a tensor on cpu like x, got meta"),
    ("lengths", lambda n: n[:2], RuntimeError, "expected shape [3], got [2]"),
    ("lengths", lambda n: n.int(), ValueError, "expected dtype torch.int64, got torch.int32"),
    ("lengths", lambda n: n + 5, ValueError, "expected values in [0, 5], got 10"),
    ("lengths", lambda n: n - 1, ValueError, "expected values in [0, 5], got -1"),
    ("backend", "fastest", ValueError, "expected one of auto, cuda, cpu, python, got 'fastest'"),
]  # fmt: skip
