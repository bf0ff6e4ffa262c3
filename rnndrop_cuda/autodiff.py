"""``torch.func`` over the ops: how grad and vjp nest in them, and how a mapped dimension goes through them.

``torch.func`` cannot use the derivative that ``torch.library.register_autograd`` gives an op, so under its transforms
an op is called through an autograd Function with the same derivative. There is no derivative in forward mode: asking
for one raises an error, since torch would silently take some tangents for zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from rnndrop_cuda.noises import INPUTS, MASKS

SHARED = {name for name, shape in INPUTS.items() if "B" not in shape}
"""What the batch shares: weights and biases."""
PER_GATE = {name for name, row in MASKS.items() if row.per_gate}
Op = Callable[..., tuple[Tensor, ...]]


def transformable(
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    eager: Op | None = None,
    record: Callable[..., tuple[Tensor, ...]] = lambda op, *args: op(*args),
) -> Op:
    """Give ``rnndrop::name`` its derivative and its vmap rule; returns the function to call so that torch.func works.

    ``backward`` and ``setup_context`` are those of ``torch.library.register_autograd``; ``eager(*args)`` is the op with
    the same derivative in C++, and ``record(op, *args)`` calls the op where a graph is being recorded.
    """
    op = getattr(torch.ops.rnndrop, name).default
    names = [argument.name for argument in op._schema.arguments]

    def call(*args: Any) -> tuple[Tensor, ...]:
        if torch._C._are_functorch_transforms_active():
            innermost = retrieve_current_functorch_interpreter()
            if not torch.compiler.is_compiling():
                # Of an autograd Function torch cannot functionalize; the op needs no more than its derivative here.
                is_alone = innermost.key() == TransformType.Functionalize and innermost.level() == 1
                return op(*args) if is_alone else Function.apply(*args)
            # torch.compile traces through torch.func itself, down to the op: vmap it can compile, grad it cannot.
            if innermost.key() != TransformType.Vmap or innermost.level() > 1:
                torch._dynamo.graph_break()
        if forward_ad._current_level >= 0 and any(map(_has_tangent, args)):
            _refuse_forward_mode()
        if torch.compiler.is_compiling() or torch._C._get_tracing_state():
            return record(op, *args)
        # The kernel that register_autograd makes does the same, but takes as long about it as a short sequence. A
        # subclass hands out views of what it is given, which a node of its own would let nobody change in place.
        return op(*args) if eager is None or has_torch_function(args) else eager(*args)

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        return _map(call, names, info.batch_size, in_dims, args)

    members = {
        "forward": staticmethod(lambda *args: op(*args)),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "jvp": staticmethod(_refuse_forward_mode),
        "vmap": staticmethod(rule),
    }
    Function: Any = type(name, (torch.autograd.Function,), members)
    torch.library.register_autograd(f"rnndrop::{name}", backward, setup_context=setup_context)
    torch.library.register_vmap(f"rnndrop::{name}", rule)
    return call


def _has_tangent(arg: Any) -> bool:
    return isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None


def _refuse_forward_mode(*_: Any) -> NoReturn:
    raise NotImplementedError(
        "forward-mode derivatives (torch.func.jvp, jacfwd and hessian, torch.autograd.forward_ad) run with "
        "backend='python' only; the fused kernels have derivatives in reverse mode (torch.func.vjp, jacrev)"
    )


def _map(
    call: Op, names: list[str], N: int, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """``call`` for each of N entries of a mapped dimension: the outputs, and where in each that dimension is.

    The dimension joins the batch if nothing that the batch shares is mapped (weights, biases, masks without a batch)
    and no sum over the batch is wanted. Otherwise the op runs once for each entry.
    """
    batch_dims = list(map(_batch_dim, names, args, in_dims))
    sums_over_batch = "need_dW" in names and args[names.index("need_dW")]
    joins = all(mapped is None or batch is not None for mapped, batch in zip(in_dims, batch_dims, strict=True))
    if joins and not sums_over_batch:
        outputs = call(*map(_join, args, in_dims, batch_dims, [N] * len(args)))
        # An op returns an empty tensor of one dimension for what it leaves out.
        out_dims = tuple(output.dim() - 2 if output.dim() > 1 else None for output in outputs)
        B = _batch_size(args, in_dims, batch_dims)
        return tuple(map(_part, outputs, out_dims, [(N, B)] * len(outputs))), out_dims
    if N == 0:
        raise ValueError("vmap over an LSTM layer's weights or their gradients: expected at least one entry, got 0")
    entries = [
        call(*[arg if mapped is None else arg.select(mapped, n) for arg, mapped in zip(args, in_dims, strict=True)])
        for n in range(N)
    ]
    return tuple(torch.stack(of_entries) for of_entries in zip(*entries, strict=True)), (0,) * len(entries[0])


def _batch_dim(name: str, arg: Any, mapped: int | None) -> int | None:
    """The dimension of B in an argument, not counting the mapped one; None where the batch shares the argument."""
    if not isinstance(arg, Tensor) or name in SHARED:
        return None
    shape = [size for dim, size in enumerate(arg.shape) if dim != mapped]
    if name == "lengths":
        return 0
    if name in PER_GATE and len(shape) == 3 and shape[1] == 1:  # [4, 1, I or P], one a gate
        return None
    return len(shape) - 2 if len(shape) > 1 else None


def _join(arg: Any, mapped: int | None, batch: int | None, N: int) -> Any:
    """The mapped dimension (expanded where there is none) and the batch as one dimension, the batch inside."""
    if batch is None:
        return arg
    if mapped is None:
        arg = arg.unsqueeze(batch).expand(*arg.shape[:batch], N, *arg.shape[batch:])
    else:
        arg = arg.movedim(mapped, batch)
    return arg.flatten(batch, batch + 1)


def _batch_size(args: tuple[Any, ...], in_dims: tuple[int | None, ...], batch_dims: list[int | None]) -> int:
    """B, without the mapped dimension."""
    for arg, mapped, batch in zip(args, in_dims, batch_dims, strict=True):
        if batch is not None:
            return [size for dim, size in enumerate(arg.shape) if dim != mapped][batch]
    raise AssertionError("an op without a batch")


def _part(output: Tensor, dim: int | None, sizes: tuple[int, int]) -> Tensor:
    """The inverse of _join."""
    return output if dim is None else output.unflatten(dim, sizes)
