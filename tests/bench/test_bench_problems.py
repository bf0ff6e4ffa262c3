"""What contenders are given: masks, weights and lengths."""

from __future__ import annotations

import pytest
import torch

from bench import layers, problems
from bench.problems import Problem
from bench.records import Size
from tests.bench.samples import CPU, OURS, SMALL


@pytest.mark.parametrize("kind", problems.dropouts([0.5], [0.75]), ids=str)
def test_masks_are_drawn_as_the_name_says(kind: problems.Dropout) -> None:
    T, B, I, H = 20, 10, 30, 40
    shapes = {
        "none": (None, None, None),
        "Gal batch": ((I,), (H,), None),
        "Gal sample": ((B, I), (B, H), None),
        "Semeniuta step": (None, None, (T, B, H)),
        "Semeniuta sequence": (None, None, (H,)),
        "both": ((I,), (H,), (T, B, H)),
    }
    drawn = kind.draw(Size(T, B, I, H), torch.float32, CPU)
    masks = (drawn.x, drawn.h, drawn.g)
    assert tuple(mask if mask is None else tuple(mask.shape) for mask in masks) == shapes[kind.name]
    for mask, kept in zip(masks, (2.0, 2.0, 4.0), strict=True):
        assert mask is None or set(mask.unique().tolist()) == {0.0, kept}


def test_modules_have_the_weights_of_the_problem_themselves() -> None:
    problem = Problem(SMALL, torch.float32, CPU)
    module = problem.module(OURS[0], problems.NO_DROPOUT)
    assert all(ours is theirs for ours, theirs in zip(module.parameters(), problem.lstm.parameters(), strict=True))
    problem.gradients(layers.as_module(module, "full")(problem, problems.NO_MASKS))  # of all that is asked for


@pytest.mark.parametrize("B", [1, 2, 5, 64])
def test_random_lengths_are_from_1_to_t_with_half_of_it_on_average(B: int) -> None:
    lengths = problems.random_lengths(200, B)
    assert lengths.shape == (B,) and lengths.max() == 200 and lengths.min() >= 1
    if B % 2 == 0:
        assert lengths.min() == 1
        assert lengths.double().mean() == 100.5
