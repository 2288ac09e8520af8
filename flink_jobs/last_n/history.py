"""A user's history: the window of the last N events in their total order. Independent of Flink.

The order is ``(time_ms, event_id)``, so it does not depend on the order of arrival. Of two records with the same
``event_id`` the greater one counts. The window is therefore "the N greatest after removing duplicates", which can be
computed record by record: a record can only enter above the oldest kept one, whatever fell out below would also have
fallen out later, and a duplicate replaces itself without lowering that border. So any interleaving, repetition or
replay of the same records ends in the same columns; only ``version`` depends on the way there. Of an event's free
context only the signals are kept (nearline/signals.py).

A removed event keeps its place as a blank: only its time and id. So it makes no difference whether it was removed
before or after it came, or what came in between: the window has the same N events either way. Readers get
``published``.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import orjson

from nearline.events import Event
from nearline.sequences import UserSequence, erased_sequence
from nearline.signals import Context, kept_context

T = TypeVar("T")
# An event that left the window, or never entered it: item, type, time and event id.
Met = tuple[str, str, int, str]


def append(history: UserSequence | None, event: Event, *, keep: int, append_ms: int, known: bool) -> UserSequence:
    """Return *history* with *event* inserted and its newest *keep* events, or *history* itself if nothing changes.

    *append_ms*, the record's append time, sets the version: a hybrid logical clock that grows with every change.
    *known* is ``holds`` of the two.
    """
    if history is None:
        return _first(event, append_ms)
    rest = _without_older_twin(history, event) if known else history
    if rest is None:
        return history
    place = _place(rest, event)
    surplus = max(0, len(rest.items) + 1 - keep)
    if place < surplus:
        return history
    return _inserted(rest, event, place, surplus, max(history.version + 1, append_ms))


def holds(history: UserSequence | None, event_id: str) -> bool:
    """Whether the event is in the window."""
    return history is not None and event_id in history.event_ids


def left_out(before: UserSequence | None, after: UserSequence, event: Event, *, known: bool) -> list[Met]:
    """The events of *before* and *event* that the window *after* does not hold: they fell out, or never got in.

    A record that the window holds unchanged leaves nothing out; nor do blanks. *known* is ``holds`` of *before*.
    """
    if before is None:
        return []
    if after is before:
        return [] if not event.item_id or _stands(before, event) else [_met(event)]
    gone = len(before.items) + 1 - len(after.items)
    if not gone:
        return []
    places = _replaced(before, after, event) if known else range(gone)
    return [_met_at(before, i) for i in places if before.items[i]]


def blanked(event: Event) -> Event:
    """The event as a blank: only its place is left."""
    return Event(event.event_id, event.user_id, "", "", event.time_ms, 0.0)


def blanked_in(history: UserSequence, event_id: str, version: int) -> UserSequence:
    """The history with a blank in place of the event, or *history* itself if it does not hold it."""
    i = history.event_ids.index(event_id) if event_id in history.event_ids else -1
    if i < 0 or not history.items[i]:
        return history
    contexts = _put(history.contexts, i, None) if history.contexts else []
    return replace(
        history,
        version=version,
        items=_put(history.items, i, ""),
        types=_put(history.types, i, ""),
        values=_put(history.values, i, 0.0),
        contexts=contexts if any(contexts) else [],
    )


def published(window: UserSequence) -> UserSequence:
    """The window for readers: without blanks, and erased if nothing is left."""
    return _with_events(window, [i for i, item in enumerate(window.items) if item])


def between(window: UserSequence, after_ms: int, until_ms: int) -> UserSequence:
    """The window's events after *after_ms* and up to *until_ms*, with blanks; erased if there are none."""
    return _with_events(window, [i for i, time_ms in enumerate(window.times_ms) if after_ms < time_ms <= until_ms])


def _with_events(window: UserSequence, kept: Sequence[int]) -> UserSequence:
    if not kept and not window.profile:
        return erased_sequence(window.user_id, window.version)
    if len(kept) == len(window.items):
        return window
    contexts = [window.contexts[i] for i in kept] if window.contexts else []
    return replace(
        window,
        items=[window.items[i] for i in kept],
        times_ms=[window.times_ms[i] for i in kept],
        types=[window.types[i] for i in kept],
        values=[window.values[i] for i in kept],
        event_ids=[window.event_ids[i] for i in kept],
        contexts=contexts,
    )


def met_in(window: UserSequence, *, since_ms: int = 0) -> list[Met]:
    """The window's events from *since_ms* on, without blanks."""
    columns = zip(window.items, window.types, window.times_ms, window.event_ids, strict=True)
    return [met for met in columns if met[0] and met[2] >= since_ms]


def _met(event: Event) -> Met:
    return event.item_id, event.type, event.time_ms, event.event_id


def _met_at(history: UserSequence, i: int) -> Met:
    return history.items[i], history.types[i], history.times_ms[i], history.event_ids[i]


def _stands(history: UserSequence, event: Event) -> bool:
    """Whether the window holds this very record of the event, or a blank in its place."""
    if event.event_id not in history.event_ids:
        return False
    i = history.event_ids.index(event.event_id)
    return not history.items[i] or _met_at(history, i) == _met(event)


def _replaced(before: UserSequence, after: UserSequence, event: Event) -> list[int]:
    """The places in *before* of events that are not in *after*, and of the lesser record of *event*."""
    kept = set(after.event_ids) - {event.event_id}
    return [i for i, event_id in enumerate(before.event_ids) if event_id not in kept]


def _first(event: Event, version: int) -> UserSequence:
    context = kept_context(event.context)
    return UserSequence(
        event.user_id,
        version,
        [event.item_id],
        [event.time_ms],
        [event.type],
        [event.value],
        [event.event_id],
        [context] if context else [],
    )


def _without_older_twin(history: UserSequence, event: Event) -> UserSequence | None:
    """The history without a lesser record of the event, which it holds; ``None`` if its record is not lesser."""
    i = history.event_ids.index(event.event_id)
    if _rank(event) <= _rank_at(history, i) or (event.item_id and not history.items[i]):
        return None  # a blank stays blank
    return replace(
        history,
        items=_drop(history.items, i),
        times_ms=_drop(history.times_ms, i),
        types=_drop(history.types, i),
        values=_drop(history.values, i),
        event_ids=_drop(history.event_ids, i),
        contexts=_drop(history.contexts, i),
    )


def _rank(event: Event) -> tuple[int, bytes, bytes]:
    # Bytes and not values: -0.0 equals 0.0 but is encoded differently, and the columns must be identical.
    return (
        event.time_ms,
        orjson.dumps([event.item_id, event.type, event.value]),
        _context_rank(kept_context(event.context)),
    )


def _rank_at(history: UserSequence, i: int) -> tuple[int, bytes, bytes]:
    return (
        history.times_ms[i],
        orjson.dumps([history.items[i], history.types[i], history.values[i]]),
        _context_rank(history.contexts[i] if history.contexts else None),
    )


def _context_rank(context: Context | None) -> bytes:
    """Lowest without a context, so that a record with one wins, and histories without contexts rank as before."""
    return orjson.dumps(context) if context else b""


def _place(history: UserSequence, event: Event) -> int:
    """The event's place; searched from the newest end, since most events are the newest."""
    times, ids = history.times_ms, history.event_ids
    order = (event.time_ms, event.event_id)
    place = len(times)
    while place and (times[place - 1], ids[place - 1]) > order:
        place -= 1
    return place


def _inserted(rest: UserSequence, event: Event, place: int, surplus: int, version: int) -> UserSequence:
    at = place - surplus
    return UserSequence(
        rest.user_id,
        version,
        _with(rest.items[surplus:], at, event.item_id),
        _with(rest.times_ms[surplus:], at, event.time_ms),
        _with(rest.types[surplus:], at, event.type),
        _with(rest.values[surplus:], at, event.value),
        _with(rest.event_ids[surplus:], at, event.event_id),
        _contexts(rest, kept_context(event.context) if event.context else None, place, surplus),
        rest.profile,
        rest.profile_ms,
    )


def _contexts(rest: UserSequence, context: Context | None, place: int, surplus: int) -> list[Context | None]:
    """The column with *context* at its place; empty if no kept event has one."""
    if context is None and not rest.contexts:
        return []
    column = rest.contexts or [None] * len(rest.items)
    column = [*column[surplus:place], context, *column[place:]]
    return column if any(column) else []


def _with(column: list[T], at: int, value: T) -> list[T]:
    """Insert *value* into *column*, which the caller owns, and return it."""
    column.insert(at, value)
    return column


def _put(column: list[T], i: int, value: T) -> list[T]:
    return [*column[:i], value, *column[i + 1 :]]


def _drop(column: list[T], i: int) -> list[T]:
    return [*column[:i], *column[i + 1 :]]
