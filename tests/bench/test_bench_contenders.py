"""What a contender computes in each phase."""

from __future__ import annotations

import pytest
import torch

from bench import contenders, layers, problems
from bench.problems import Problem
from bench.records import INFERENCE, MASKS
from rnndrop_cuda import reference
from tests.bench.samples import CPU, SMALL


@pytest.mark.parametrize("kind", problems.dropouts([0.5], [0.75]), ids=str)
def test_the_module_draws_the_masks_that_its_dropout_says(
    kind: problems.Dropout, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(SMALL, torch.float32, CPU)
    module = problem.module("python", kind)
    contender = contenders.ModuleContender(
        "LSTM module", "python", kind, layers.as_module(module, "full"), problem, module=module
    )
    used = []
    real = reference.lstm_steps
    monkeypatch.setattr(reference, "lstm_steps", lambda **given: used.append(given) or real(**given))
    contender.forward()
    contender.forward()
    drawn = kind.draw(SMALL, torch.float32, CPU)
    for given in used:
        for name, like in (("mask_x", drawn.x), ("mask_h", drawn.h), ("mask_g", drawn.g)):
            assert (given[name] is None) == (like is None)
            assert like is None or given[name].shape == like.shape
    for phase in (MASKS,) if kind.p or kind.p_g else ():
        [masks] = contender.calls[phase]()
        assert [mask is None for mask in masks[:3]] == [mask is None for mask in drawn[:3]]
    assert (INFERENCE in contender.calls) == (not kind.p and not kind.p_g)
