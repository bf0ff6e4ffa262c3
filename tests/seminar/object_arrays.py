"""The arrays that Keras' imdb.npz holds."""

import numpy as np


def object_array(items: list) -> np.ndarray:
    """A one-dimensional object array of the items, even where they are lists of one length."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
