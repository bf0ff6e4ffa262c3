"""Reviews of lengths of their own, made up."""

import numpy as np

SENTENCES = "rotten-tomatoes"
V = 40  # ids


def some_rows(lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(1, V, size=n) for n in lengths]
