"""Intervals of a mean over users: users are drawn again with replacement, whole, so that a paired difference works."""

from dataclasses import dataclass

import numpy as np

from training.arrays import Shares

RESAMPLES = 1_000
LEVEL = 0.95
_DRAWS_AT_ONCE = 1_000_000  # 8 MB of rows at a time, whatever the number of users


@dataclass(frozen=True)
class Figure:
    """A mean over users, and its 95 % interval."""

    mean: float
    low: float
    high: float


def resampled_means(values: Shares, *, seed: int, resamples: int = RESAMPLES) -> Shares:
    """The means of *values* (metrics, users) over users drawn again, (metrics, resamples); one draw for all metrics."""
    users = values.shape[1]
    random = np.random.default_rng(seed)
    means = np.empty((len(values), resamples))
    step = max(1, _DRAWS_AT_ONCE // users)
    for start in range(0, resamples, step):
        drawn = random.integers(0, users, (min(step, resamples - start), users))
        for row, metric in enumerate(values):
            means[row, start : start + step] = metric[drawn].mean(1)
    return means


def figures(values: Shares, *, seed: int, resamples: int = RESAMPLES) -> list[Figure]:
    """Mean and percentile interval of each row of *values* (metrics, users)."""
    spread = resampled_means(values, seed=seed, resamples=resamples)
    return [figure(float(metric.mean()), means) for metric, means in zip(values, spread, strict=True)]


def figure(mean: float, resampled: Shares) -> Figure:
    """*mean* with the middle 95 % of its *resampled* values."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(mean, float(low), float(high))
