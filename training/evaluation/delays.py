"""Delayed answers: a user's history as known some time before a query, and what a ranking from it loses.

A query is one moment of one user, and its targets are all the user's items of that moment. With a delay, the history
holds the events that are older than the query by more than the delay; without one, all strictly earlier events.
Every delay is judged on the same queries, targets and candidates.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.errors import Misconfigured
from training.arrays import Bools, Ints, Shares
from training.data.examples import Baskets, Batch, make_batch
from training.data.log import Log, chunks
from training.data.splits import every_basket
from training.evaluation.bootstrap import RESAMPLES, Figure, figure

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
NEVER_MS = 2**62  # since a user's newest event, where there is none; as a delay: an answer that needs no history
UNITS_MS: Mapping[str, int] = {"s": SECOND_MS, "min": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_GRAINS_MS = (DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS)


def parse_delays(text: str) -> tuple[int, ...]:
    """The delays that ``0,1min,1h,24h,7d`` lists, in milliseconds, from the shortest on; 0 is always among them."""
    return tuple(sorted({0, *(_delay_ms(part.strip()) for part in text.split(",") if part.strip())}))


def _delay_ms(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(\D*)", text)
    if match is None or not (match[2] in UNITS_MS or int(match[1]) == 0 == len(match[2])):
        raise Misconfigured(f"a delay is a number and one of {', '.join(UNITS_MS)}, such as 24h, came {text!r:.40}")
    return int(match[1]) * UNITS_MS.get(match[2], 0)


def spoken(delay_ms: int) -> str:
    """A delay in words, in the largest unit that it is two or more of: ``24 h``, ``7 d``."""
    if delay_ms == NEVER_MS:
        return "popular"
    for name, unit_ms in reversed(list(UNITS_MS.items())):
        if delay_ms % unit_ms == 0 and (delay_ms >= 2 * unit_ms or (delay_ms == unit_ms and name != "d")):
            return f"{delay_ms // unit_ms} {name}"
    return f"{delay_ms / SECOND_MS:g} s" if delay_ms else "0"


def granularity_ms(log: Log) -> int:
    """The coarsest of day, hour, minute and second that all times are whole multiples of, in any time zone; else 1."""
    first_ms = int(log.time_ms[0])
    apart = np.gcd.reduce([np.gcd.reduce(np.abs(log.time_ms[rows] - first_ms)) for rows in chunks(len(log))])
    return next((grain_ms for grain_ms in _GRAINS_MS if int(apart) % grain_ms == 0), 1)


def moments(log: Log, *, from_ms: int) -> Baskets:
    """Every query from *from_ms* on: all that one user did at one time, also where the log's baskets are single events.

    So what lies before a query in the log is strictly earlier. Users without a history are among them.
    """
    every = every_basket(log)
    time_ms = log.time_ms[every.start]
    begins = np.ones(len(every), dtype=bool)
    begins[1:] = (time_ms[1:] != time_ms[:-1]) | (every.user_start[1:] != every.user_start[:-1])
    start = every.start[begins]
    asked = Baskets(start, np.append(start[1:], len(log))[: len(start)], every.user_start[begins])
    return asked.take(time_ms[begins] >= from_ms)


def known_until(log: Log, asked: Baskets, delay_ms: int) -> Ints:
    """Of each query the row after the newest event that is known *delay_ms* later, (queries,); by bisection.

    Events at the query's own time, or exactly *delay_ms* before it, are not known.
    """
    limit_ms = log.time_ms[asked.start] - delay_ms
    low, high = np.array(asked.user_start), np.array(asked.start)
    while (low < high).any():
        middle = (low + high) // 2
        known = log.time_ms[middle] < limit_ms
        low, high = np.where((low < high) & known, middle + 1, low), np.where((low < high) & ~known, middle, high)
    return low


def since_newest_ms(log: Log, asked: Baskets) -> Ints:
    """Of each query the time since its user's newest earlier event, (queries,); ``NEVER_MS`` where there is none.

    A delay hides something from a query if this is not more than the delay.
    """
    before = log.time_ms[np.maximum(asked.start - 1, 0)]
    since: Ints = np.where(asked.start > asked.user_start, log.time_ms[asked.start] - before, NEVER_MS)
    return since


def delayed_batch(log: Log, asked: Baskets, delay_ms: int, *, length: int) -> Batch:
    """The histories of *asked* as they were known *delay_ms* later; it holds no targets.

    Ages count from the newest event that is known. The context is what was declared by then, else what the query tells.
    """
    until = known_until(log, asked, delay_ms)
    batch = make_batch(log, Baskets(until, until, asked.user_start), length=length)
    told = np.where(until > asked.user_start, log.context[np.maximum(until - 1, 0)], 0)
    return replace(batch, context=np.where(told > 0, told, log.context[asked.start]).astype(np.int64))


@dataclass(frozen=True)
class Judged:
    """Some queries judged at each delay; every value is (delays, queries)."""

    delays_ms: tuple[int, ...]  # the first is 0; NEVER_MS is what is popular, shown to everyone
    user: NDArray[Any]  # (queries,)
    recall: Shares
    ndcg: Shares
    hits: Shares

    def only(self, kept: Bools) -> "Judged":
        """The queries that *kept* (queries,) marks."""
        parts = (values[:, kept] for values in (self.recall, self.ndcg, self.hits))
        return Judged(self.delays_ms, self.user[kept], *parts)

    def at(self, delay: int) -> "Judged":
        """Without delay and at the *delay*-th one alone."""
        parts = (values[[0, delay]] for values in (self.recall, self.ndcg, self.hits))
        return Judged((0, self.delays_ms[delay]), self.user, *parts)


@dataclass(frozen=True)
class Point:
    """One delay: means over queries, and what the delay costs the same queries (paired)."""

    delay_ms: int
    recall: Figure
    ndcg: Figure
    recall_change: Figure
    ndcg_change: Figure
    hits_lost: Figure  # a share of the hits without delay; 0 where there were none


@dataclass(frozen=True)
class Curve:
    """A point for each delay, over the same queries."""

    queries: int
    users: int
    hits: int  # without delay
    points: tuple[Point, ...]

    @property
    def delayed(self) -> tuple[Point, ...]:
        """The points without that of an answer that needs no history."""
        return tuple(point for point in self.points if point.delay_ms != NEVER_MS)

    @property
    def popular(self) -> Point | None:
        """The point of an answer that needs no history, if that was judged."""
        return next((point for point in self.points if point.delay_ms == NEVER_MS), None)


def curve(judged: Judged, *, seed: int, resamples: int = RESAMPLES) -> Curve | None:
    """The curve of *judged*, 95 % intervals over users; ``None`` where there is no query."""
    if not len(judged.user):
        return None
    values = np.stack([judged.recall, judged.ndcg, judged.hits])  # (3, delays, queries)
    mean = values.mean(2)[:, :, None]
    drawn = _drawn_again(values, judged.user, seed=seed, resamples=resamples)
    points = [_point(delay_ms, mean, drawn, at) for at, delay_ms in enumerate(judged.delays_ms)]
    return Curve(len(judged.user), len(np.unique(judged.user)), int(judged.hits[0].sum()), tuple(points))


def _drawn_again(values: Shares, user: NDArray[Any], *, seed: int, resamples: int) -> Shares:
    """Means over the queries of users who are drawn again, each with all of his queries, (3, delays, resamples)."""
    number = np.unique(user, return_inverse=True)[1]
    flat = values.reshape(-1, values.shape[2])
    sums, counts = np.stack([np.bincount(number, row) for row in flat]), np.bincount(number)
    random = np.random.default_rng(seed)
    means = np.empty((len(flat), resamples))
    for at in range(resamples):
        times = np.bincount(random.integers(0, len(counts), len(counts)), minlength=len(counts))
        means[:, at] = sums @ times / (counts @ times)
    return means.reshape(*values.shape[:2], resamples)


def _point(delay_ms: int, mean: Shares, drawn: Shares, at: int) -> Point:
    def of(values: Sequence[Shares]) -> Figure:
        return figure(float(values[0][0]), values[1])

    recall, ndcg, hits = ([each[metric] for each in (mean, drawn)] for metric in range(3))
    return Point(
        delay_ms,
        recall=of([each[at] for each in recall]),
        ndcg=of([each[at] for each in ndcg]),
        recall_change=of([each[at] - each[0] for each in recall]),
        ndcg_change=of([each[at] - each[0] for each in ndcg]),
        hits_lost=of([_share_lost(each[at], each[0]) for each in hits]),
    )


def _share_lost(now: Shares, before: Shares) -> Shares:
    share: Shares = 1 - np.divide(now, before, out=np.ones_like(now), where=before > 0)
    return share
