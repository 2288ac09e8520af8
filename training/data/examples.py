"""Examples: one basket each, its items joint targets, its history strictly earlier; served as batches.

Nothing here draws randomness of its own; the generator comes in as an argument.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.features import HISTORY_LENGTH, ages
from training.data.log import Ints, Log

PADDING = -1


@dataclass(frozen=True)
class Baskets:
    """Examples: basket k holds the events ``start[k]:end[k]`` and may look back to ``user_start[k]``.

    Where ``user_start[k] == start[k]`` the user has no history.
    """

    start: Ints
    end: Ints
    user_start: Ints

    def __len__(self) -> int:
        """The number of baskets."""
        return len(self.start)

    def take(self, chosen: NDArray[Any]) -> "Baskets":
        """The chosen baskets, in that order."""
        return Baskets(self.start[chosen], self.end[chosen], self.user_start[chosen])


def together(first: Baskets, second: Baskets) -> Baskets:
    """The baskets of both, in the order of the log."""
    start = np.concatenate([first.start, second.start])
    end = np.concatenate([first.end, second.end])
    user_start = np.concatenate([first.user_start, second.user_start])
    return Baskets(start, end, user_start).take(np.argsort(start, kind="stable"))


@dataclass(frozen=True)
class Batch:
    """Histories, newest first, (batch, length); targets as pairs ``(row, item)`` with what each was to its user."""

    items: Ints  # PADDING where there is none
    ages: NDArray[np.float32]
    types: NDArray[np.int32]
    context: Ints  # (batch,), a row of log.contexts
    target_row: Ints
    target_item: Ints
    target_kind: Ints
    target_new: NDArray[np.bool_]
    time_ms: Ints  # of the targets, one for each row


def make_batch(
    log: Log,
    chosen: Baskets,
    *,
    length: int = HISTORY_LENGTH,
    random: np.random.Generator | None = None,
    shorten: float = 0.5,
    lose: float = 0.5,
) -> Batch:
    """The batch of *chosen* baskets with the newest *length* events before each.

    With *random*, a share *shorten* of the histories is cut short and a share *lose* loses newest events (``_cut``).

    Ages count from the newest event that is shown. The context is that of the newest event shown, or, if its user had
    declared nothing by then, that of the first target: it is asked for with the request.
    """
    newest, most = chosen.start, np.full(len(chosen), length)
    if random is not None:
        newest, most = _cut(chosen, length, random, shorten=shorten, lose=lose)
    at = newest[:, None] - 1 - np.arange(length)  # (batch, length), newest first
    known = at >= np.maximum(chosen.user_start, newest - most)[:, None]
    at = np.maximum(at, 0)
    time_ms = log.time_ms[at]
    row, event = event_pairs(chosen)
    return Batch(
        items=np.where(known, log.item[at], PADDING).astype(np.int64),
        ages=np.where(known, ages(time_ms[:, :1] - time_ms), 0).astype(np.float32),
        types=np.where(known, log.kind[at], 0).astype(np.int32),
        context=_contexts(log, chosen, newest),
        target_row=row,
        target_item=log.item[event].astype(np.int64),
        target_kind=log.kind[event].astype(np.int64),
        target_new=np.asarray(log.first_time[event]),
        time_ms=np.asarray(log.time_ms[chosen.start]),
    )


def _cut(
    chosen: Baskets, length: int, random: np.random.Generator, *, shorten: float, lose: float
) -> tuple[Ints, Ints]:
    """Some of the histories keep a random number of newest events, and some lose some of their newest events.

    So the tower also learns from one or two events, and from histories that end in the middle of a basket: that is
    what a live user looks like, whose every click is answered. A history never grows, and keeps one event if it had
    any.
    """
    past = chosen.start - chosen.user_start
    drawn = (random.random(len(chosen)) ** 2 * np.minimum(past, length)).astype(np.int64)
    lost = np.minimum(drawn, np.maximum(past - 1, 0))
    newest = chosen.start - np.where(random.random(len(chosen)) < lose, lost, 0)
    short = random.integers(1, length + 1, len(chosen))
    return newest, np.where(random.random(len(chosen)) < shorten, short, length)


def _contexts(log: Log, chosen: Baskets, newest: Ints) -> Ints:
    before = np.where(newest > chosen.user_start, log.context[np.maximum(newest - 1, 0)], 0)
    return np.where(before > 0, before, log.context[chosen.start]).astype(np.int64)


def event_pairs(chosen: Baskets) -> tuple[Ints, Ints]:
    """For every event of the chosen baskets the basket's row in *chosen* and the event's row in the log."""
    sizes = chosen.end - chosen.start
    row = np.repeat(np.arange(len(chosen)), sizes)
    within = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return row, chosen.start[row] + within


def epoch(
    log: Log, examples: Baskets, *, batch_size: int, random: np.random.Generator, length: int = HISTORY_LENGTH
) -> Iterator[Batch]:
    """Every example once, in random order, in full batches (the last, smaller rest waits for the next epoch)."""
    order = random.permutation(len(examples))
    size = max(1, min(batch_size, len(examples)))
    for start in range(0, len(order) - size + 1, size):
        yield make_batch(log, examples.take(order[start : start + size]), length=length, random=random)


def item_counts(log: Log, events: NDArray[np.bool_]) -> Ints:
    """How often each item occurs among the chosen *events* (for example ``stage.fitted``)."""
    return np.bincount(log.item[events], minlength=len(log.item_ids))
