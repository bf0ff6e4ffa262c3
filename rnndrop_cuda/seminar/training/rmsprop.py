"""torch's RMSprop for an embedding with sparse=True: a step reads and writes only the rows of the words it met.

    v_k = alpha * v_{k-1} + (1 - alpha) * g_k^2,    w_k = w_{k-1} - lr * g_k / (sqrt(v_k) + eps)

A row without gradient keeps its w, and its v only shrinks by alpha a step. Shrunk by alpha^n when the row is met
again, n steps later, it is what the dense optimizer holds, up to rounding. A batch of 128 x 32 words holds some 1,300
of 20,000 rows: the dense step takes eight times as long, a fifth of the whole training step with nn.LSTM (one Zen 1
core).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROW_STEP = "row_step"
"""In the state of a parameter whose gradients are sparse: the step up to which a row's v is shrunk."""


class LazyRMSprop(torch.optim.RMSprop):
    """torch.optim.RMSprop, and the same steps for parameters whose gradients are sparse in their rows.

    Such parameters are of float32 or float64; momentum, weight_decay, centered, maximize and differentiable are not
    served for them, the first three because they move rows without gradient: ValueError.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; closure as torch.optim.Optimizer.step takes it."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        by_rows: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for param in group["params"]:
                # Once by rows, always by rows: a dense step would take rows for up to date that are not.
                if param.grad is not None and (param.grad.is_sparse or ROW_STEP in self.state[param]):
                    self._step_rows(param, group)
                    by_rows.append((param, param.grad))
        for param, _ in by_rows:
            param.grad = None  # torch's step refuses sparse gradients and passes over parameters without one
        _without_hooks(torch.optim.RMSprop.step)(self)
        for param, grad in by_rows:
            param.grad = grad
        return loss

    def _step_rows(self, param: Tensor, group: dict[str, Any]) -> None:
        assert param.grad is not None
        grad = (param.grad if param.grad.is_sparse else param.grad.to_sparse(1)).coalesce()
        unserved = ("momentum", "weight_decay", "centered", "maximize", "differentiable")
        if grad.sparse_dim() != 1 or any(group[option] for option in unserved):
            raise ValueError(f"a sparse gradient must be sparse in its rows only, and go without {', '.join(unserved)}")
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros(())
            state["square_avg"] = torch.zeros_like(param)
        if ROW_STEP not in state:  # float32 counts to 2^24
            state[ROW_STEP] = torch.full((len(param), 1), state["step"].item(), device=param.device)
        state["step"] += 1

        rows, g = grad.indices()[0], grad.values()
        n = state["step"].to(param.device) - state[ROW_STEP].index_select(0, rows)
        v = state["square_avg"].index_select(0, rows)
        v.mul_(group["alpha"] ** n.to(v.dtype)).addcmul_(g, g, value=1 - group["alpha"])
        state["square_avg"].index_copy_(0, rows, v)
        state[ROW_STEP].index_fill_(0, rows, state["step"].item())
        param.index_add_(0, rows, g / v.sqrt_().add_(group["eps"]), alpha=-float(group["lr"]))


def _without_hooks(step: Any) -> Callable[..., Any]:
    """The step of an optimizer's class without the hooks that torch lets it run once one of that class was made.

    A subclass's step runs them already.
    """
    plain: Callable[..., Any] = step.__wrapped__ if getattr(step, "hooked", False) else step
    return plain
