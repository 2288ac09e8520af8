"""Training examples: each is one basket, whose items are joint targets, with a strictly earlier history; in batches.

Random numbers come only from the generator in the arguments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.features import HISTORY_LENGTH, ages
from training.arrays import Ints
from training.data.log import Log

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
    """Histories, newest first, (batch, length); targets as pairs ``(row, item)`` with their type and value."""

    items: Ints  # PADDING for missing ones
    ages: NDArray[np.float32]
    types: NDArray[np.int32]
    context: Ints  # (batch,), a row of log.contexts
    target_row: Ints
    target_item: Ints
    target_kind: Ints
    target_new: NDArray[np.bool_]
    time_ms: Ints  # of the targets, one for each row
    chosen: Baskets  # the examples

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Which rows are shown any event."""
        return self.types[:, 0] > 0


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

    With *random*, a share *shorten* of the histories is shortened and a share *lose* loses newest events (``_cut``).

    Ages count from the newest shown event. The context is that event's, or, if its user had declared nothing by then,
    the first target's: in serving it comes with the request.
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
        chosen=chosen,
    )


def _cut(
    chosen: Baskets, length: int, random: np.random.Generator, *, shorten: float, lose: float
) -> tuple[Ints, Ints]:
    """Shorten some histories to a random number of newest events, and drop newest events from others.

    So the tower also learns from one or two events, and from histories that end in the middle of a basket, as in
    serving, where every click gets an answer. A history never grows, and keeps one event if it had any.
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


@dataclass(frozen=True)
class Windows:
    """Runs of consecutive examples of one user that one pass can encode: window w is ``first[w]:last[w]``.

    Each example's newest event is in its window; the window's events begin at ``begin[w]``.
    """

    first: Ints
    last: Ints
    begin: Ints
    events: Ints  # how many it shows

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.first)

    def take(self, chosen: NDArray[Any]) -> "Windows":
        """The chosen windows, in that order."""
        return Windows(self.first[chosen], self.last[chosen], self.begin[chosen], self.events[chosen])


def make_windows(examples: Baskets, *, length: int, random: np.random.Generator | None = None) -> Windows:
    """Every one of *examples* (in the order of the log) in one window of at most *length* events before its last.

    Users with more events than that are cut into several windows, from the newest event back; with *random* the first
    cut is drawn, so that another epoch cuts elsewhere.
    """
    if not len(examples):
        nothing = np.zeros(0, np.int64)
        return Windows(nothing, nothing, nothing, nothing)
    same = examples.user_start[1:] == examples.user_start[:-1]
    ends = np.append(np.flatnonzero(~same), len(examples) - 1)
    of = np.cumsum(np.append(0, ~same))  # which user's it is
    back = examples.start[ends][of] - examples.start  # events from the user's last example back
    drawn = np.zeros(len(ends), np.int64) if random is None else random.integers(0, length, len(ends))
    drawn = np.where(examples.start[ends] - examples.user_start[ends] > length, drawn, 0)
    part = (back + drawn[of]) // length
    begins = np.append(True, ~same | (part[1:] != part[:-1]))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(examples))
    newest = examples.start[last - 1]
    begin = np.maximum(examples.user_start[first], newest - length)
    return Windows(first, last, begin, newest - begin)


def in_batches(windows: Windows, steps: int, random: np.random.Generator) -> list[Windows]:
    """*windows* in *steps* batches of about as many examples each, of like lengths and in random order."""
    sizes = windows.last - windows.first
    order = np.lexsort((random.random(len(windows)), windows.events))
    before = np.cumsum(sizes[order]) - sizes[order]
    batch = before * steps // max(1, int(sizes.sum()))
    return [windows.take(order[batch == number]) for number in random.permutation(steps)]


@dataclass(frozen=True)
class Packed:
    """Windows as rows, newest event first, (batch, length); each example is at the place of its newest event.

    Without one its place is just beyond the window's oldest event. Targets are pairs ``(example, item)``.
    """

    items: Ints  # PADDING for missing ones
    ages: NDArray[np.float32]  # (batch, length, length), of each event before each other one
    types: NDArray[np.int32]
    asked: Ints  # (examples,) places in the flattened rows
    context: Ints  # (examples,)
    target_row: Ints
    target_item: Ints
    target_kind: Ints
    target_new: NDArray[np.bool_]
    time_ms: Ints  # (examples,)
    chosen: Baskets  # the examples

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Which examples are shown any event."""
        return self.types.ravel()[self.asked] > 0


def make_packed(log: Log, examples: Baskets, windows: Windows) -> Packed:
    """The batch of *windows* of *examples*."""
    sizes = windows.last - windows.first
    window = np.repeat(np.arange(len(windows)), sizes)
    chosen = examples.take(windows.first[window] + np.arange(len(window)) - (np.cumsum(sizes) - sizes)[window])
    newest = examples.start[windows.last - 1]
    place = newest[window] - chosen.start
    length = int(max((newest - windows.begin).max(initial=0), place.max(initial=0) + 1))
    at = newest[:, None] - 1 - np.arange(length)
    known = at >= windows.begin[:, None]
    at = np.maximum(at, 0)
    time_ms = log.time_ms[at]
    row, event = event_pairs(chosen)
    return Packed(
        items=np.where(known, log.item[at], PADDING).astype(np.int64),
        ages=np.where(known[:, None], ages(time_ms[:, :, None] - time_ms[:, None, :]), 0).astype(np.float32),
        types=np.where(known, log.kind[at], 0).astype(np.int32),
        asked=window * length + place,
        context=_contexts(log, chosen, chosen.start),
        target_row=row,
        target_item=log.item[event].astype(np.int64),
        target_kind=log.kind[event].astype(np.int64),
        target_new=np.asarray(log.first_time[event]),
        time_ms=np.asarray(log.time_ms[chosen.start]),
        chosen=chosen,
    )


def seen_pairs(log: Log, chosen: Baskets) -> tuple[Ints, Ints]:
    """For every event before each of the chosen baskets the basket's row in *chosen* and the event's item."""
    row, event = event_pairs(Baskets(chosen.user_start, chosen.start, chosen.user_start))
    return row, log.item[event].astype(np.int64)


def epoch(
    log: Log, examples: Baskets, *, batch_size: int, random: np.random.Generator, length: int = HISTORY_LENGTH
) -> Iterator[Batch]:
    """Every example once, in random order, in full batches (the remainder is left for the next epoch)."""
    order = random.permutation(len(examples))
    size = max(1, min(batch_size, len(examples)))
    for start in range(0, len(order) - size + 1, size):
        yield make_batch(log, examples.take(order[start : start + size]), length=length, random=random)


def item_counts(log: Log, events: NDArray[np.bool_]) -> Ints:
    """How often each item occurs among the chosen *events* (for example ``stage.fitted``)."""
    return np.bincount(log.item[events], minlength=len(log.item_ids))
