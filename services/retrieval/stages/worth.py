"""What a candidate is worth beside the others of its source: its score, brought to 0-1, less what is taken off."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]


def worth_of(scores: Numbers) -> Numbers:
    """*scores* (n,) of one source moved to 0-1: 1 the best of them, 0 the last; all 1 if they are equal.

    So a share of discount or diversity means the same for inner products, popularity and listing times.
    """
    if not len(scores):
        return np.zeros(0)
    worst, best = float(scores.min()), float(scores.max())
    if best == worst:
        return np.ones(len(scores))
    return (scores - worst) / (best - worst)


def discounted(worth: Numbers, popularity: Numbers, discount: float) -> Numbers:
    """*worth* (n,) less *discount* times *popularity* (n,), 0-1; never less than 0, so that a factor keeps its sense.

    With a discount of 1 the most popular item of all is worth nothing.
    """
    return np.maximum(worth - discount * popularity, 0.0)
