"""Other LSTMs on CUDA: the nn.LSTMCell loop captured or compiled, and the libraries Haste and FlashRNN.

None of them needs to be installed or to support every size and dtype: one that cannot run, or is wrong, is left out
with a line that says why, and the others are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contenders import LayerContender
from bench.layers import CellLoops
from bench.problems import NO_DROPOUT, Masks, Output, Problem
from bench.records import COMPILED_LOOP, FLASHRNN, GRAPHED_LOOP, HASTE, INFERENCE, name_of
from bench.verification import verify

MOST_COMPILED_STEPS = 64


def running(problem: Problem) -> list[LayerContender]:
    """Those that run this problem correctly; `problem.left_out` gets a line for each of the others."""
    contenders = []
    for name, build in RIVALS.items():
        try:
            contender = build(problem)
            verify(problem, [contender])
        except Exception as error:  # whatever another library may raise: it is printed
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            problem.left_out.append(f"{name}: {reason}")
        else:
            contenders.append(contender)
    return contenders


@dataclass(frozen=True)
class TrainingContender(LayerContender):
    """One without a forward of its own for inference."""

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        return {phase: call for phase, call in super().calls.items() if phase != INFERENCE}


def graphed_loop(problem: Problem) -> LayerContender:
    if not has_graphs(problem.device):
        raise RuntimeError("needs CUDA")
    loop = CellLoops(problem)
    graphed = torch.cuda.make_graphed_callables(loop, (problem.x, problem.h_0, problem.c_0))

    def layer(problem: Problem, masks: Masks) -> Output:
        return graphed(problem.x, problem.h_0, problem.c_0)

    return TrainingContender(GRAPHED_LOOP, "", NO_DROPOUT, layer, problem)


def has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def compiled_loop(problem: Problem) -> LayerContender:
    if problem.size.T > MOST_COMPILED_STEPS:
        raise RuntimeError(f"unrolls the loop: more than {MOST_COMPILED_STEPS} steps would take too long to compile")
    compiled: Callable[..., Output] = torch.compile(CellLoops(problem), mode="reduce-overhead")

    def layer(problem: Problem, masks: Masks) -> Output:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(problem.x, problem.h_0, problem.c_0)

    return TrainingContender(COMPILED_LOOP, "", NO_DROPOUT, layer, problem)


@dataclass(frozen=True, kw_only=True)
class HasteContender(TrainingContender):
    """Haste has a parameter layout of its own: gates in the order i, g, f, o, weights transposed, one bias."""

    leaves: list[Tensor]

    def gradients(self, output: Output) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, self.leaves, self.problem.upstream)

    def gradients_to_check(self, output: Output) -> tuple[Tensor, ...]:
        dx, *of_parameters = self.gradients(output)
        kernel, recurrent_kernel, bias = (
            torch.cat([i, f, g, o], dim=-1) for i, g, f, o in (d.chunk(4, dim=-1) for d in of_parameters)
        )
        return dx, kernel.t(), recurrent_kernel.t(), bias, bias


def haste(problem: Problem) -> LayerContender:
    import haste_pytorch

    if problem.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"has no kernels for {problem.dtype}")
    _, _, I, H = problem.size
    module = haste_pytorch.LSTM(I, H).to(problem.device, problem.dtype)
    module.from_native_weights(*(weight.detach() for weight in problem.lstm.parameters()))

    def layer(problem: Problem, masks: Masks) -> Output:
        y, (h_n, c_n) = module(problem.x, problem.hx)
        return y, h_n.squeeze(0), c_n.squeeze(0)

    leaves = [problem.x, module.kernel, module.recurrent_kernel, module.bias]
    return HasteContender(HASTE, "", NO_DROPOUT, layer, problem, leaves=leaves)


def flashrnn(problem: Problem) -> LayerContender:
    """With one head. torch projects its x; its layouts are views of ours."""
    from flashrnn import flashrnn as run

    T, B, _, H = problem.size
    W_ih, W_hh, b_ih, b_hh = problem.lstm.parameters()
    dtype = name_of(problem.dtype)

    def layer(problem: Problem, masks: Masks) -> Output:
        from_x = F.linear(problem.x, W_ih).view(T, B, 4, 1, H).transpose(0, 1)
        states = torch.stack([problem.h_0, problem.c_0]).view(2, B, 1, 1, H)
        R, b = W_hh.view(4, 1, H, H), (b_ih + b_hh).view(4, 1, H)
        of_steps, _ = run(from_x, R, b, states=states, function="lstm", backend="cuda_fused", dtype=dtype)
        h, c = of_steps.squeeze(3)
        return h.transpose(0, 1), h[:, -1], c[:, -1]

    return TrainingContender(FLASHRNN, "", NO_DROPOUT, layer, problem)


RIVALS: dict[str, Callable[[Problem], LayerContender]] = {
    GRAPHED_LOOP: graphed_loop,
    COMPILED_LOOP: compiled_loop,
    HASTE: haste,
    FLASHRNN: flashrnn,
}
