"""How two trees compare over some rounds: the median ratio, an interval around it, and the verdict on a cost."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MOST = 1.03  # a median ratio of processor time up to this is no higher cost
_WANTED_COVERAGE = 0.9


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true median lies with a probability of *coverage*, whatever the distribution of the values is."""

    low: float
    high: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """This tree over the other one: the median of the rounds' ratios and its interval."""

    median: float
    interval: Interval
    rounds: int

    @property
    def costs_more(self) -> bool:
        """Whether a cost is higher: the median is above 1.03 and the interval lies above 1."""
        return self.median > MOST and self.interval.low > 1.0


def ratio(these: Sequence[float], those: Sequence[float]) -> Ratio | None:
    """Compare round by round, each value with the one of the same round; ``None`` where the other tree has a zero."""
    if not these or min(those) <= 0:
        return None
    each = [this / that for this, that in zip(these, those, strict=True)]
    return Ratio(statistics.median(each), median_interval(each), len(each))


def median_interval(values: Sequence[float]) -> Interval:
    """The interval of the sign test: from the k-th lowest to the k-th highest value.

    k is the largest with a coverage of at least 0.9; with fewer than five values the interval is the whole range and
    covers less. Of five values it is the range, at 0.94; of nine it leaves out one at each end, at 0.96.
    """
    ordered = sorted(values)
    k = 1
    while k < (len(ordered) + 1) // 2 and coverage(len(ordered), k + 1) >= _WANTED_COVERAGE:
        k += 1
    return Interval(ordered[k - 1], ordered[-k], coverage(len(ordered), k))


def coverage(count: int, k: int) -> float:
    """The chance that the median lies between the *k*-th lowest and the *k*-th highest of *count* values."""
    outside: float = sum(math.comb(count, below) for below in range(k)) / 2**count
    return max(0.0, 1.0 - 2.0 * outside)
