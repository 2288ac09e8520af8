"""A user's history: the last N events in their one total order. Knows nothing of Flink.

The order is ``(time_ms, event_id)``, so it lies in the data and not in the arrival. Of two records with one
``event_id`` the greater one counts. What is kept is therefore "the N greatest after removing duplicates", and that can
be kept up record by record: a record can only enter above the oldest one kept, whatever fell out below would also
have fallen out later, and a duplicate replaces itself without moving that border down. So any interleaving, repetition
or replay of the same records ends in the same columns; only ``version`` tells of the way there. Of an event's free
context only what the towers may read is kept (nearline/signals.py).
"""

from dataclasses import replace
from typing import TypeVar

import orjson

from nearline.errors import Misconfigured
from nearline.events import Event
from nearline.sequences import Sequence, decode_sequence, encode_sequence
from nearline.signals import Context, kept_context

T = TypeVar("T")
STATE_FORMAT = b"1"  # the first byte of the stored state: later forms take other bytes and still read this one


def append(history: Sequence | None, event: Event, *, keep: int, append_ms: int) -> Sequence:
    """Return *history* with *event* in its place and the newest *keep* kept, or *history* itself if nothing changes.

    *append_ms*, the record's append time, drives the version: a hybrid logical clock that grows with every change.
    """
    if history is None:
        return _first(event, append_ms)
    rest = _without_older_twin(history, event)
    if rest is None:
        return history
    place = _place(rest, event)
    surplus = max(0, len(rest.items) + 1 - keep)
    if place < surplus:
        return history
    return _inserted(rest, event, place, surplus, max(history.version + 1, append_ms))


def holds(history: Sequence | None, event_id: str) -> bool:
    """Whether the event is among the kept ones."""
    return history is not None and event_id in history.event_ids


def encode_state(sequence: bytes) -> bytes:
    """The state's bytes: its format's byte, then the very bytes that were published."""
    return STATE_FORMAT + sequence


def decode_state(state: bytes | None) -> Sequence | None:
    """The history in *state*, or ``None`` where there is none; refuses a format of another release."""
    if not state:
        return None
    if state[:1] != STATE_FORMAT:
        raise Misconfigured(f"state of format {state[:1]!r}, this release reads {STATE_FORMAT!r}: use a newer release")
    return decode_sequence(state[1:])


def encode(history: Sequence) -> bytes:
    """The history as the topic carries it."""
    return encode_sequence(history)


def _first(event: Event, version: int) -> Sequence:
    context = kept_context(event.context)
    return Sequence(
        event.user_id,
        version,
        [event.item_id],
        [event.time_ms],
        [event.type],
        [event.value],
        [event.event_id],
        [context] if context else [],
    )


def _without_older_twin(history: Sequence, event: Event) -> Sequence | None:
    """The history without a lesser record of the same event; ``None`` if the record that it has is not lesser."""
    if event.event_id not in history.event_ids:
        return history
    i = history.event_ids.index(event.event_id)
    if _rank(event) <= _rank_at(history, i):
        return None
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
    # Bytes and not values: -0.0 equals 0.0 but is written differently, and the columns must come out the same.
    return (
        event.time_ms,
        orjson.dumps([event.item_id, event.type, event.value]),
        _context_rank(kept_context(event.context)),
    )


def _rank_at(history: Sequence, i: int) -> tuple[int, bytes, bytes]:
    return (
        history.times_ms[i],
        orjson.dumps([history.items[i], history.types[i], history.values[i]]),
        _context_rank(history.contexts[i] if history.contexts else None),
    )


def _context_rank(context: Context | None) -> bytes:
    """Least without a context, so that one tells more than none, and histories without any rank as they always did."""
    return orjson.dumps(context) if context else b""


def _place(history: Sequence, event: Event) -> int:
    """Where the event belongs; searched from the newest end, since most events are newer than all others."""
    times, ids = history.times_ms, history.event_ids
    order = (event.time_ms, event.event_id)
    place = len(times)
    while place and (times[place - 1], ids[place - 1]) > order:
        place -= 1
    return place


def _inserted(rest: Sequence, event: Event, place: int, surplus: int, version: int) -> Sequence:
    return Sequence(
        rest.user_id,
        version,
        [*rest.items[surplus:place], event.item_id, *rest.items[place:]],
        [*rest.times_ms[surplus:place], event.time_ms, *rest.times_ms[place:]],
        [*rest.types[surplus:place], event.type, *rest.types[place:]],
        [*rest.values[surplus:place], event.value, *rest.values[place:]],
        [*rest.event_ids[surplus:place], event.event_id, *rest.event_ids[place:]],
        _contexts(rest, kept_context(event.context), place, surplus),
    )


def _contexts(rest: Sequence, context: Context | None, place: int, surplus: int) -> list[Context | None]:
    """The column with *context* at its place; empty once no event that is kept has one."""
    if context is None and not rest.contexts:
        return []
    column = rest.contexts or [None] * len(rest.items)
    column = [*column[surplus:place], context, *column[place:]]
    return column if any(column) else []


def _drop(column: list[T], i: int) -> list[T]:
    return [*column[:i], *column[i + 1 :]]
