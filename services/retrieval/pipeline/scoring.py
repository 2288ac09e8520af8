"""Scores that sources' candidates are chosen by: brought to 0-1 within a source, less a discount for popularity."""

import numpy as np

from services.retrieval.items.interface import Scores


def normalized(scores: Scores) -> Scores:
    """*scores* (n,) of one source moved to 0-1: 1 the best of them, 0 the last; all 1 if they are equal.

    So a share of discount or diversity means the same for inner products, popularity and listing times.
    """
    if not len(scores):
        return np.zeros(0)
    worst, best = float(scores.min()), float(scores.max())
    if best == worst:
        return np.ones(len(scores))
    return (scores - worst) / (best - worst)


def less_popularity(scores: Scores, popularity: Scores, discount: float) -> Scores:
    """*scores* (n,) less *discount* times *popularity* (n,), 0-1; never less than 0.

    With a discount of 1 the most popular item scores 0.
    """
    return np.maximum(scores - discount * popularity, 0.0)
