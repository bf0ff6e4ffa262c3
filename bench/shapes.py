"""Shapes drawn at random from a seed, for bench.sweep.

Each of T, B, I and H is mostly one of the sizes that people choose, and in a quarter of the cases any number of the
same range, drawn evenly on a logarithmic scale: most of those are no multiple of a vector or a tile.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from bench.records import FORWARD_BACKWARD, Shape

CHOICES = {
    "T": (1, 4, 16, 32, 64, 128, 256, 512),
    "B": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "I": (1, 8, 32, 64, 100, 128, 256, 300, 512, 1024),
    "H": (8, 20, 32, 50, 64, 100, 128, 200, 256, 400, 512, 650, 1024),
}
ODD = 0.25
BOTH_DIRECTIONS = 1 / 3
RARE = 0.1
"""Of the shapes have h projected; as many have lengths, as many batch_first, as many no bias."""
SMALLEST_BOUND = 1e-3
"""In GFLOP: below it there are too few shapes to draw from."""


def draw(seed: int, n: int, max_gflop: float) -> list[Shape]:
    """n different shapes, none of which takes more than max_gflop in training. A longer list begins as a shorter one.

    Raises:
        ValueError: max_gflop is below SMALLEST_BOUND.
    """
    if not max_gflop >= SMALLEST_BOUND:
        raise ValueError(f"max_gflop: expected at least {SMALLEST_BOUND}, got {max_gflop}")
    drawn: dict[Shape, None] = {}
    for shape in endless(random.Random(seed)):
        if len(drawn) == n:
            break
        if shape.gflop(FORWARD_BACKWARD) <= max_gflop:
            drawn[shape] = None
    return list(drawn)


def endless(rng: random.Random) -> Iterator[Shape]:
    while True:
        T, B, I, H = (size(rng, choices) for choices in CHOICES.values())
        layers, directions = rng.randint(1, 3), 2 if rng.random() < BOTH_DIRECTIONS else 1
        projected, lengths, batch_first, no_bias = (int(rng.random() < RARE) for _ in range(4))
        P = H // rng.choice((2, 3, 4)) if projected else 0
        yield Shape(T, B, I, H, layers, directions, P, lengths, batch_first, 1 - no_bias)


def size(rng: random.Random, choices: tuple[int, ...]) -> int:
    if rng.random() < ODD:
        return round(math.exp(rng.uniform(math.log(choices[0]), math.log(choices[-1]))))
    return rng.choice(choices)
