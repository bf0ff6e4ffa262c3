"""One LSTM layer with dropout inside the recurrence, as a function of tensors: checks, and the choice of a backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from rnndrop_cuda import ops, reference
from rnndrop_cuda.checks import check_tensors
from rnndrop_cuda.noises import CONSTANTS, INPUTS
from rnndrop_cuda.onnx import INSTEAD, is_wanted
from rnndrop_cuda.ops import KERNEL_DTYPES

if TYPE_CHECKING:
    from typing_extensions import Unpack

BACKENDS = ("auto", "cuda", "cpu", "python")
NAMES = (*INPUTS, *CONSTANTS)
Result = tuple[Tensor, Tensor, Tensor]


class LayerStates(NamedTuple):
    """Everything that a layer computed at each step, in the order of t; detached, and 0 past a sample's length."""

    h: Tensor
    """``[T, B, P]``: the output."""
    c: Tensor
    """``[T, B, H]``, as the next four."""
    i: Tensor
    """The activated input gate."""
    f: Tensor
    """The activated forget gate."""
    g: Tensor
    """The candidate, before any mask."""
    o: Tensor
    """The activated output gate."""


def usable_backends() -> dict[str, str]:
    """For every backend but ``auto``: "" if it can run on this machine, otherwise why it cannot."""
    no_cpu = ops.WHY_NOT_LOADED
    no_cuda = ops.WHY_NOT_LOADED
    if not no_cuda and not ops.HAS_CUDA_KERNELS:
        no_cuda = "rnndrop_cuda was built without CUDA kernels"
    if not no_cuda and not torch.cuda.is_available():
        no_cuda = "torch sees no CUDA device"
    return {"cuda": no_cuda, "cpu": no_cpu, "python": ""}


class LayerOptions(TypedDict, total=False):
    """Keywords of :func:`lstm_layer` in its overloads, all but return_states."""

    W_hr: Tensor | None
    mask_x: Tensor | None
    mask_h: Tensor | None
    mask_g: Tensor | None
    mask_c: Tensor | None
    zone_c: Tensor | None
    zone_h: Tensor | None
    lengths: Tensor | None
    reverse: bool
    backend: str


@overload
def lstm_layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    return_states: Literal[False] = False,
    **options: Unpack[LayerOptions],
) -> Result: ...


@overload
def lstm_layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    return_states: bool,
    **options: Unpack[LayerOptions],
) -> tuple[Any, ...]: ...


def lstm_layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    W_ih: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    W_hr: Tensor | None = None,
    mask_x: Tensor | None = None,
    mask_h: Tensor | None = None,
    mask_g: Tensor | None = None,
    mask_c: Tensor | None = None,
    zone_c: Tensor | None = None,
    zone_h: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    backend: str = "auto",
    return_states: bool = False,
) -> Any:
    r"""One layer, one direction of an LSTM, with multiplicative masks inside the recurrence.

    .. math::
        \tilde x_t &= m_x \odot x_t \qquad \tilde h = m_h \odot h_{t-1} \\
        i, f, o &= \sigma(W_{ih} \tilde x_t + b_{ih} + W_{hh} \tilde h + b_{hh}) \qquad g = \tanh(\ldots) \\
        \hat c_t &= m_c \odot (f \odot c_{t-1} + i \odot (m_g \odot g)) \\
        \hat h_t &= o \odot \tanh(\hat c_t)
            \qquad\text{or, with a projection,}\quad W_{hr}\,(o \odot \tanh(\hat c_t)) \\
        c_t &= z_c \odot c_{t-1} + (1 - z_c) \odot \hat c_t \qquad
        h_t = z_h \odot h_{t-1} + (1 - z_h) \odot \hat h_t

    ``mask_x`` and ``mask_h`` are the variational dropout of Gal & Ghahramani, "A Theoretically Grounded Application
    of Dropout in Recurrent Neural Networks" (arXiv 1512.05287): d(x_t) and d(h_{t-1}), the same d at every step.
    ``mask_g`` is the recurrent dropout of Semeniuta, Severyn & Barth, "Recurrent Dropout without Memory Loss"
    (COLING 2016, C16-1165): c_t = f * c_{t-1} + i * d(g). ``mask_c`` is RNNDrop, Moon et al., "RNNDrop: A Novel
    Dropout for RNNs in ASR" (ASRU 2015): one mask on the cell for all steps. ``zone_c`` and ``zone_h`` are zoneout,
    Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations" (arXiv 1606.01305): how much
    of c and h stays as it was. A mask holds 0 or 1/(1-p), or any other multiplicative noise; a mask_c 0 or 1, since it
    multiplies c anew at every step; zoneout 0 or 1, or in eval its expectation p. The fused kernels treat all of them
    as constants; ``backend="python"`` differentiates through them, too.

    Args:
        x: ``[T, B, I]``, time first; T >= 1, B may be 0.
        h_0, c_0: ``[B, P]`` and ``[B, H]``, the initial state; zeros where None, which costs less. P, the width of h,
            is H without a projection.
        W_ih, W_hh: ``[4H, I]`` and ``[4H, P]``, rows in the gate order i, f, g, o, as nn.LSTM's ``weight_ih_l0`` ...
        b_ih, b_hh: ``[4H]`` or None.
        W_hr: ``[P, H]`` or None: the projection of h, as nn.LSTM's ``weight_hr_l0`` (Sak et al., arXiv 1402.1128).
        mask_x: ``[I]`` (shared by the batch) or ``[B, I]``; the same at every step. Untied, one for each of the gates
            i, f, g, o: ``[4, 1, I]`` or ``[4, B, I]``.
        mask_h: ``[P]`` or ``[B, P]``; untied ``[4, 1, P]`` or ``[4, B, P]``. The same at every step. Applied where h
            is used: the returned h is not masked.
        mask_g: ``[H]`` or ``[B, H]`` (kept for the sequence), or ``[T, B, H]`` (fresh at every step).
        mask_c: ``[H]`` or ``[B, H]``; the same at every step.
        zone_c: ``[H]``, ``[B, H]`` or ``[T, B, H]``; zone_h: the same with P for H.
        lengths: int64 ``[B]`` on x's device, each in [0, T]. At ``t >= lengths[b]`` the state is carried unchanged
            and y is 0, in both directions. On CUDA lengths are not checked, since that would wait for the device: one
            out of range is clamped to 0 or T.
        reverse: run from the last step to the first. ``y[t]`` stays the output of step t.
        backend: ``"cuda"``, ``"cpu"``, ``"python"``, or ``"auto"`` for the fastest that can run.
        return_states: whether to return all states and gates too, as :class:`LayerStates`.

    Returns:
        ``(y [T, B, P], h_n [B, P], c_n [B, H])`` in x's dtype, and the states if asked for.
        Differentiable in x, h_0, c_0, the weights and the biases; derivatives above the first run on the Python path.

    Raises:
        TypeError: an argument is not a tensor where one is expected.
        ValueError: a dtype differs from x's or has no kernel, a length is out of range, a mask requires a gradient
            (unless backend is ``"python"``), or the backend's name is unknown.
        RuntimeError: a shape or a device does not fit, or the named backend cannot run here.
    """
    tensors = (
        x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr, mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths
    )  # fmt: skip
    return run_layer(tensors, reverse, backend, return_states)


Tensors = dict[str, Any]
Run = Callable[[Tensors, Tensors, bool, bool], tuple[Tensor, Tensor, Tensor, Callable[[], LayerStates]]]


def run_layer(tensors: tuple[Any, ...], reverse: bool, backend: str, return_states: bool) -> tuple[Any, ...]:
    """:func:`lstm_layer` of its tensors in the order of INPUTS and CONSTANTS; h_n and c_n are no views."""
    if not return_states and tensors[-1] is None and _op_checks_all(tensors, backend):
        save = torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors)
        y, h_n, c_n, *_ = _checked_by_the_op(lambda: ops.lstm_layer(*tensors, reverse, save), tensors)
        return y, h_n, c_n
    inputs = dict(zip(INPUTS, tensors, strict=False))
    constants = dict(zip(CONSTANTS, tensors[len(INPUTS) :], strict=True))
    check_tensors({**inputs, **constants})
    run = _choose(backend, tensors[0], constants)
    y, h_n, c_n, states = run(inputs, constants, reverse, return_states)
    return (y, h_n, c_n, states()) if return_states else (y, h_n, c_n)


def run_both_ways(
    forwards: tuple[Any, ...], backwards: tuple[Any, ...], backend: str, return_states: bool
) -> list[tuple[Any, ...]]:
    """:func:`run_layer` of both directions of a layer, which may run at once. They share x and lengths."""
    both = forwards, backwards
    at_once = (
        not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and not return_states
        and forward_ad._current_level < 0
        and all(_op_checks_all(tensors, backend) and not has_torch_function(tensors) for tensors in both)
    )
    if not at_once:
        return run_in_turn(forwards, backwards, backend, return_states)
    if forwards[-1] is not None:
        for tensors in both:
            check_tensors(dict(zip(NAMES, tensors, strict=True)))
    save = torch.is_grad_enabled() and torch._C._any_requires_grad(*forwards, *backwards)
    results = _checked_by_the_op(lambda: ops.lstm_layer_both_ways(forwards, backwards, save), *both)
    return [of_direction[:3] for of_direction in results]


def run_in_turn(
    forwards: tuple[Any, ...], backwards: tuple[Any, ...], backend: str, return_states: bool
) -> list[tuple[Any, ...]]:
    """:func:`run_both_ways`, one direction after the other."""
    return [run_layer(forwards, False, backend, return_states), run_layer(backwards, True, backend, return_states)]


def _checked_by_the_op(call: Callable[[], tuple[Any, ...]], *layers: tuple[Any, ...]) -> tuple[Any, ...]:
    """``call()``, which runs the op on these layers' tensors, and check_tensors' words for what it refuses.

    One check is enough, and Python's takes as long as a short sequence; but it has more words than the op's.
    """
    try:
        return call()
    except Exception:
        try:
            for tensors in layers:
                check_tensors(dict(zip(NAMES, tensors, strict=True)))
        except Exception as named:
            raise named from None
        raise


def _op_checks_all(tensors: tuple[Any, ...], backend: str) -> bool:
    """Whether this call runs the op, and the op sees to all that check_tensors does but the values of lengths.

    It sees no shapes where torch traces, maps, or has a say in what an op does.
    """
    x = tensors[0]
    return (
        type(x) is Tensor
        and backend in ("auto", x.device.type)
        and ops.have_kernels(x.device.type, x.dtype)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._any_requires_grad(*tensors[len(INPUTS) :])
    )


def _fused(inputs: Tensors, constants: Tensors, reverse: bool, keep_states: bool) -> Any:
    if keep_states and is_wanted():
        raise ValueError(f"return_states: ONNX's LSTM gives no gates; {INSTEAD}")
    save = keep_states or _may_be_differentiated(inputs)
    mask_g = constants["mask_g"]
    if keep_states and mask_g is not None and mask_g.dim() == 1:  # the CPU engine skips i and g where they are dropped
        constants = {**constants, "mask_g": mask_g.expand(inputs["x"].shape[1], -1)}
    y, h_n, c_n, gates, c, *_ = ops.lstm_layer(
        *[inputs[name] for name in INPUTS], *[constants[name] for name in CONSTANTS], reverse, save
    )

    def states() -> LayerStates:
        T, lengths = y.shape[0], constants["lengths"]
        of_steps = (c[:T] if reverse else c[1:]).to(y.dtype)
        if lengths is not None:  # where c is carried on
            t = torch.arange(T, device=y.device)[:, None, None]
            of_steps = torch.where(t < lengths[:, None], of_steps, torch.zeros_like(of_steps))
        return LayerStates(*(state.detach() for state in (y, of_steps, *gates.chunk(4, dim=-1))))

    return y, h_n, c_n, states


def _may_be_differentiated(inputs: Tensors) -> bool:
    """Whether a backward may follow; under torch.func and torch.compile the tensors cannot tell."""
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    if torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs.values())


def _plain(inputs: Tensors, constants: Tensors, reverse: bool, keep_states: bool) -> Any:
    steps, h_n, c_n = reference.lstm_steps(**inputs, **constants, reverse=reverse)

    def states() -> LayerStates:
        return LayerStates(*(torch.stack(of_steps).detach() for of_steps in zip(*steps, strict=True)))

    return torch.stack([step.h for step in steps]), h_n.clone(), c_n.clone(), states


def _choose(backend: str, x: Tensor, constants: Tensors) -> Run:
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "python":
        return _plain
    for name, constant in constants.items():
        if constant is not None and constant.requires_grad:
            raise ValueError(
                f"{name}: the fused kernels give masks no gradient, but this one requires it; detach it, or use "
                "backend='python'"
            )
    device = x.device.type
    if backend == "auto":
        return _fused if ops.have_kernels(device, x.dtype) else _plain
    if why := usable_backends()[backend]:
        raise RuntimeError(f"backend='{backend}' cannot run here: {why} (`rnndrop info` says how to get it)")
    if device != backend:
        raise RuntimeError(f"backend='{backend}' needs tensors on {backend}, x is on {x.device}")
    if x.dtype not in KERNEL_DTYPES:
        raise ValueError(f"backend='{backend}' has no kernel for dtype {x.dtype}; use backend='python'")
    return _fused
