"""The scores by which candidates are selected: normalised to 0-1 within a source, less a popularity discount."""

import numpy as np

from services.retrieval.items.interface import Scores


def normalized(scores: Scores) -> Scores:
    """*scores* (n,) of one source, scaled to 0-1: the best is 1, the worst 0; all are 1 if they are equal.

    So a discount or diversity has the same effect on inner products, popularity and listing times.
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
