"""Nothing is timed before it was checked: outputs and gradients against the reference in float64."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bench.contenders import LayerContender
from bench.correctness import relative_error, tolerance
from bench.problems import Dropout, Masks, Problem
from bench.records import INFERENCE


class VerificationError(Exception):
    """A contender does not compute what the reference does."""


def verify(problem: Problem, contenders: Iterable[LayerContender]) -> None:
    """Compares the outputs and gradients of each with the reference in float64, given the same masks.

    Raises:
        VerificationError: one of them differs by more than its dtype allows. The message says which one, where
            and by how much.
    """
    allowed = tolerance(problem.dtype, problem.device)
    names = ("y", "h_n", "c_n", *(f"the gradient of {name}" for name in problem.leaves))
    past_the_end = torch.arange(problem.size.T, device=problem.device).unsqueeze(1) >= problem.lengths
    expectations: dict[tuple[Dropout, bool], tuple[Masks, list[Tensor]]] = {}
    for contender in contenders:
        lengths = problem.lengths if contender.knows_lengths else None
        key = (contender.dropout, contender.knows_lengths)
        if key not in expectations:
            masks = problem.draw(contender.dropout)
            expectations[key] = masks, problem.expected(masks, lengths)
        masks, expected = expectations[key]
        problem.modules.train()
        with contender.running():
            output = contender.layer(problem, masks)
            results = dict(zip(names, (*output, *contender.gradients_to_check(output)), strict=True))
        if lengths is not None:
            for name in ("y", "the gradient of x"):
                if results[name][past_the_end].any():
                    raise wrong(contender, f"{name} is not zero past the end of a sequence")
        if INFERENCE in contender.calls:
            problem.modules.eval()
            with contender.running():
                in_eval = contender.inference()
            results |= dict(zip(("y in eval", "h_n in eval", "c_n in eval"), in_eval, strict=True))
            expected = [*expected, *expected[:3]]
        for (name, result), wanted in zip(results.items(), expected, strict=True):
            if (error := relative_error(result, wanted)) > allowed:
                raise wrong(contender, f"{name} is off by {error:.2e} of its norm, {allowed:.0e} is allowed")


def wrong(contender: LayerContender, how: str) -> VerificationError:
    problem = contender.problem
    return VerificationError(f"{contender} ({problem.size}, {problem.dtype}) is wrong and was not timed: {how}")
