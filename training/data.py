"""The training set: purchases as arrays, cut by time, served as batches of (history, joint targets).

One example is one basket: the items of an invoice are joint targets, never inputs, and its history is strictly
earlier. Nothing here draws randomness of its own; the generator comes in as an argument.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nearline.features import HISTORY_LENGTH, TYPE_CODES, ages

Ints = NDArray[np.int64]
PADDING = -1


@dataclass(frozen=True)
class Log:
    """Events sorted by user, then time, then event id; all columns of one length.

    ``first_time`` is true where the user met the item for the first time; ``user_start`` and ``basket_start`` give the
    index at which the event's user and basket begin.
    """

    item_ids: tuple[str, ...]
    user: Ints
    item: Ints
    time_ms: Ints
    kind: Ints
    basket_start: Ints
    user_start: Ints
    first_time: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of events."""
        return len(self.item)


@dataclass(frozen=True)
class Baskets:
    """Examples: basket k holds the events ``start[k]:end[k]`` and may look back to ``user_start[k]``."""

    start: Ints
    end: Ints
    user_start: Ints

    def __len__(self) -> int:
        """The number of baskets."""
        return len(self.start)

    def take(self, chosen: NDArray[Any]) -> "Baskets":
        """The chosen baskets, in that order."""
        return Baskets(self.start[chosen], self.end[chosen], self.user_start[chosen])


@dataclass(frozen=True)
class Batch:
    """Histories, newest first, (batch, 50); targets as pairs ``(row, item)``, and whether each was new to its user."""

    items: Ints  # PADDING where there is none
    ages: NDArray[np.float32]
    types: NDArray[np.int32]
    target_row: Ints
    target_item: Ints
    target_new: NDArray[np.bool_]
    time_ms: Ints  # of the targets, one for each row


def make_log(events: pl.DataFrame, item_ids: Sequence[str]) -> Log:
    """The log of *events* (columns as in ``nearline.datasets``) over the catalogue *item_ids*."""
    rows: Mapping[str, int] = {item_id: row for row, item_id in enumerate(item_ids)}
    ordered = events.sort("user_id", "time_ms", "event_id")
    user = _dense(ordered["user_id"])
    item = np.fromiter((rows[i] for i in ordered["item_id"]), dtype=np.int64, count=ordered.height)
    time_ms = ordered["time_ms"].to_numpy().astype(np.int64)
    return Log(
        item_ids=tuple(item_ids),
        user=user,
        item=item,
        time_ms=time_ms,
        kind=np.fromiter((TYPE_CODES[t] for t in ordered["type"]), dtype=np.int64, count=ordered.height),
        user_start=_run_starts(user),
        basket_start=_run_starts(user, time_ms),
        first_time=_first_times(user, item, len(item_ids)),
    )


def _dense(column: pl.Series) -> Ints:
    return np.unique(column.to_numpy(), return_inverse=True)[1].astype(np.int64)


def _run_starts(*keys: Ints) -> Ints:
    """For every row the index of the first row of its run of equal keys."""
    length = len(keys[0])
    changed = np.ones(length, dtype=bool)
    changed[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.maximum.accumulate(np.where(changed, np.arange(length), 0))


def _first_times(user: Ints, item: Ints, items: int) -> NDArray[np.bool_]:
    first = np.zeros(len(user), dtype=bool)
    first[np.unique(user * items + item, return_index=True)[1]] = True
    return first


def baskets(log: Log, *, before_ms: int, from_ms: int = 0) -> Baskets:
    """The baskets in ``[from_ms, before_ms)`` whose users have an earlier one."""
    start = np.unique(log.basket_start)
    end = np.append(start[1:], len(log))
    inside = (log.time_ms[start] >= from_ms) & (log.time_ms[start] < before_ms) & (log.user_start[start] < start)
    return Baskets(start[inside], end[inside], log.user_start[start[inside]])


def first_baskets_after(log: Log, *, from_ms: int, before_ms: int) -> Baskets:
    """Each known user's first basket in ``[from_ms, before_ms)``: known means with a purchase before *from_ms*."""
    found = baskets(log, from_ms=from_ms, before_ms=before_ms)
    known = log.time_ms[found.user_start] < from_ms
    first = np.zeros(len(found), dtype=bool)
    first[np.unique(found.user_start, return_index=True)[1]] = True
    return found.take(known & first)


def make_batch(log: Log, chosen: Baskets, random: np.random.Generator | None = None) -> Batch:
    """The batch of *chosen* baskets; with *random*, histories are cut short (see ``_cut``)."""
    newest, length = chosen.start, np.full(len(chosen), HISTORY_LENGTH)
    if random is not None:
        newest, length = _cut(chosen, random)
    at = newest[:, None] - 1 - np.arange(HISTORY_LENGTH)  # (batch, history), newest first
    oldest = np.maximum(chosen.user_start, newest - length)
    known = at >= oldest[:, None]
    at = np.maximum(at, 0)
    age_ms = log.time_ms[newest - 1][:, None] - log.time_ms[at]
    row, event = _pairs(chosen)
    return Batch(
        items=np.where(known, log.item[at], PADDING),
        ages=np.where(known, ages(age_ms), 0).astype(np.float32),
        types=np.where(known, log.kind[at], 0).astype(np.int32),
        target_row=row,
        target_item=log.item[event],
        target_new=log.first_time[event],
        time_ms=log.time_ms[chosen.start],
    )


def _cut(chosen: Baskets, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Half of the histories keep a random number of newest events, and half lose some of their newest events.

    So the tower also learns from one or two events, and from histories that end in the middle of a basket: that is
    what a live user looks like, whose every click is answered.
    """
    past = chosen.start - chosen.user_start
    lost = (random.random(len(chosen)) ** 2 * np.minimum(past, HISTORY_LENGTH)).astype(np.int64)
    newest = chosen.start - np.where(random.random(len(chosen)) < 0.5, np.minimum(lost, past - 1), 0)
    short = random.integers(1, HISTORY_LENGTH + 1, len(chosen))
    return newest, np.where(random.random(len(chosen)) < 0.5, short, HISTORY_LENGTH)


def _pairs(chosen: Baskets) -> tuple[Ints, Ints]:
    sizes = chosen.end - chosen.start
    row = np.repeat(np.arange(len(chosen)), sizes)
    within = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return row, chosen.start[row] + within


def epoch(log: Log, examples: Baskets, *, batch_size: int, random: np.random.Generator) -> Iterator[Batch]:
    """Every example once, in random order, in full batches (the last, smaller rest waits for the next epoch)."""
    order = random.permutation(len(examples))
    size = min(batch_size, len(examples))
    for start in range(0, len(order) - size + 1, size):
        yield make_batch(log, examples.take(order[start : start + size]), random)


def item_counts(log: Log, *, before_ms: int, from_ms: int = 0) -> Ints:
    """How often each item was bought in ``[from_ms, before_ms)``."""
    inside = (log.time_ms >= from_ms) & (log.time_ms < before_ms)
    return np.bincount(log.item[inside], minlength=len(log.item_ids))
