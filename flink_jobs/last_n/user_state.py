"""A user's state and its changes by events, commands and profiles. Independent of Flink.

Each function takes the user before a record and returns the user after it; the same object means that nothing changed.
Commands leave only what late records need (``Marks``): an erased user is a few numbers, and late records are recognized
by their time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import orjson

from flink_jobs.last_n.history import Met, append, between, blanked, blanked_in, met_in, published
from flink_jobs.last_n.seen_items import SeenItems, encode_seen_items, parts_of, told_between, without
from nearline.errors import Misconfigured
from nearline.events import Event
from nearline.hashing import hash64
from nearline.sequences import UserSequence, decode_sequence, encode_sequence, erased_sequence
from nearline.signals import Context
from nearline.user_commands import Adopt, Erase, Merge, Remove

STATE_FORMAT = b"2"  # the first byte of the stored state: later formats use other bytes and still read this one
_WINDOW_ALONE = b"1"  # the first release's format: the published sequence
MOST_REMOVED = 100
_MOST_OBEYED = 20
_ADOPTED_AT_ONCE = 1500  # pairs of 25 bytes, in base64: within an event's 64 KiB
_MOST_MERGES = 8  # an event is forwarded at most so often: two sessions merged into each other would loop for ever


@dataclass(frozen=True, slots=True)
class Marks:
    """The traces of commands and profiles; most users have none.

    *erased_ms* is the append time of the last erasure. Events up to *forgotten_ms* are late; if *into* is set, those
    after *into_from_ms* are forwarded to it. *removed* are hashes of the last ``MOST_REMOVED`` removed events and
    *obeyed* of the last commands; *told* is the append time, partition and offset of the newest record about the
    profile (earlier releases stored no partition). The fields' names are part of the stored state.
    """

    erased_ms: int = 0
    forgotten_ms: int = 0
    into: str = ""
    into_from_ms: int = 0
    removed: tuple[int, ...] = ()
    obeyed: tuple[int, ...] = ()
    told: tuple[int, ...] = (0, -1, -1)


NO_MARKS = Marks()


class User(NamedTuple):
    """One user: the window with its version (blanks for removed events; erased if empty), and the rest.

    *fresh* events entered the window since the last snapshot of the seen items, the oldest at *fresh_from_ms*; that
    snapshot was made at *snapshot_ms* of the log's clock, 0 without one.
    """

    window: UserSequence
    fresh: int = 0
    fresh_from_ms: int = 0
    snapshot_ms: int = 0
    marks: Marks = NO_MARKS


def accept(user: User | None, event: Event, *, keep: int, append_ms: int, known: bool) -> User:
    """The user after *event*, which is neither late (``is_late``) nor removed (``as_wanted``).

    *known* says whether the window holds the event already.
    """
    if user is None:
        return User(append(None, event, keep=keep, append_ms=append_ms, known=False), 1, event.time_ms)
    window = append(user.window, event, keep=keep, append_ms=append_ms, known=known)
    if window is user.window:
        return user
    fresh_from_ms = min(event.time_ms, user.fresh_from_ms) if user.fresh else event.time_ms
    return User(window, user.fresh + 1, fresh_from_ms, user.snapshot_ms, user.marks)


def is_late(user: User | None, event: Event, *, append_ms: int) -> bool:
    """Whether the event is from before its user's erasure or merge, or was appended before it and is read later."""
    if user is None:
        return False
    return event.time_ms <= user.marks.forgotten_ms or append_ms < user.marks.erased_ms


def as_wanted(user: User | None, event: Event) -> Event:
    """The event, or a blank if it was removed."""
    if user is None or not user.marks.removed or hash64(event.event_id) not in user.marks.removed:
        return event
    return blanked(event)


def snapshot_due(user: User, left: Sequence[Met], *, keep: int, append_ms: int, refresh_ms: int) -> bool:
    """Whether the seen items must be written: *left* fell out of the window and may not be in the last snapshot.

    So the newest snapshot and the newest window together always hold all seen items. It is also written after half a
    window of new events, since readers see the two topics at different times, and when it is *refresh_ms* old, since it
    expires.
    """
    if user.fresh * 2 >= keep or 0 < user.snapshot_ms < append_ms - refresh_ms:
        return True
    return bool(left) and max(met[2] for met in left) >= user.fresh_from_ms


def with_snapshot(user: User, *, append_ms: int) -> User:
    """The user after a snapshot of the seen items."""
    return User(user.window, 0, 0, append_ms, user.marks)


def moved_on(user: User, *, append_ms: int) -> User:
    """The user with a new version only: for a change that the window does not show."""
    return user._replace(window=replace(user.window, version=_next(user, append_ms)))


def erase(user: User | None, command: Erase | Merge, *, append_ms: int) -> User:
    """The user after an erasure of what was appended before it; older events that arrive again stay out.

    A profile and events appended after the command stay, if they were read before it. After a merge, late events are
    forwarded. The same command again changes nothing.
    """
    user = user or User(erased_sequence(command.user_id, 0))
    if hash64(command.command_id) in user.marks.obeyed:
        return user
    kept = _after_erasure(user, append_ms)
    marks = _marked(user.marks, command, forgotten_ms=_forgotten_ms(user, kept, append_ms), append_ms=append_ms)
    window = replace(kept, version=_next(user, append_ms))
    if user.window.profile and user.window.profile_ms > append_ms:
        window = replace(window, erased=False, profile=user.window.profile, profile_ms=user.window.profile_ms)
    return User(window, len(kept.items), min(kept.times_ms, default=0), marks=marks)


def _after_erasure(user: User, append_ms: int) -> UserSequence:
    """The user's events that were appended after *append_ms*, the time of an erasure; usually none.

    The job reads a topic's partitions in any order, so an event that a client with another partitioner wrote may be
    read before an older erasure. The window's version is at least the append time of each of its events, and an event
    whose own time lies between the two was appended after the erasure.
    """
    window = replace(user.window, profile={}, profile_ms=0)
    return between(window, append_ms, window.version)


def _forgotten_ms(user: User, kept: UserSequence, append_ms: int) -> int:
    # A producer's clock may be ahead: erased events count as from before, whatever their time.
    newest = () if kept.items else user.window.times_ms[-1:]
    return max(append_ms, user.marks.forgotten_ms, *newest)


def _marked(marks: Marks, command: Erase | Merge, *, forgotten_ms: int, append_ms: int) -> Marks:
    obeyed = (*marks.obeyed, hash64(command.command_id))[-_MOST_OBEYED:]
    if append_ms < marks.erased_ms:  # an older erasure, read after a newer one
        return replace(marks, obeyed=obeyed)
    return replace(
        marks,
        erased_ms=append_ms,
        forgotten_ms=forgotten_ms,
        into=command.into if isinstance(command, Merge) else "",
        into_from_ms=marks.forgotten_ms,  # older events belonged to an earlier user of the session
        obeyed=obeyed,
    )


def remove(user: User | None, command: Remove, *, append_ms: int) -> User:
    """The user without the event, which stays out if it arrives later or again."""
    user = user or User(erased_sequence(command.user_id, 0))
    event = hash64(command.event_id)
    if event in user.marks.removed:
        return user
    marks = replace(user.marks, removed=(*user.marks.removed, event)[-MOST_REMOVED:])
    window = blanked_in(user.window, command.event_id, _next(user, append_ms))
    return user._replace(window=window, marks=marks)


def tell(user: User | None, user_id: str, profile: Context, *, told: tuple[int, int, int]) -> User | None:
    """The user with *profile*, empty for none; one from before the known one or before an erasure changes nothing."""
    append_ms = told[0]
    known = user or User(erased_sequence(user_id, 0))
    if told <= known.marks.told or append_ms <= known.marks.erased_ms:
        return user
    same = profile == known.window.profile
    window = replace(
        known.window,
        version=known.window.version if same else _next(known, append_ms),
        profile=profile,
        profile_ms=append_ms if profile else 0,
        erased=not profile and not known.window.items,
    )
    return known._replace(window=window, marks=replace(known.marks, told=told))


def forwarded_events(user: User | None, into: str, *, kept: UserSequence) -> list[Event]:
    """The events to forward to the user *into* in a merge, without removed ones and those that the session *kept*."""
    events = [] if user is None else _events_of(user.window)
    return [_forwarded(each, into) for each in events if each.event_id not in kept.event_ids]


def late_for(user: User, event: Event) -> Event | None:
    """The late *event* to forward to the user that this one was merged into; ``None`` if it is not forwarded."""
    if not _goes_on(user, event.merged_from) or event.time_ms <= user.marks.into_from_ms:
        return None
    event = as_wanted(user, event)
    return _forwarded(event, user.marks.into) if event.item_id else None


def adoptions(seen: SeenItems, command: Merge | Adopt, into: str, merged_from: tuple[str, ...]) -> list[Adopt]:
    """The commands that give *seen* to the user *into*, each of a size that fits into a record."""
    return [
        Adopt(command.command_id, into, encode_seen_items(part), merged_from, command.time_ms)
        for part in parts_of(seen, _ADOPTED_AT_ONCE)
    ]


def late_seen(user: User, command: Adopt, adopted: SeenItems) -> tuple[Adopt, ...]:
    """The commands that forward *adopted* items to the user that this one was merged into."""
    if not _goes_on(user, command.merged_from):
        return ()
    late = told_between(adopted, user.marks.into_from_ms, user.marks.forgotten_ms)
    kept = without(late, user.marks.removed)
    return tuple(adoptions(kept, command, user.marks.into, (*command.merged_from, user.window.user_id)))


def _goes_on(user: User, merged_from: tuple[str, ...]) -> bool:
    into = user.marks.into
    return bool(into) and into not in merged_from and len(merged_from) < _MOST_MERGES


def _forwarded(event: Event, into: str) -> Event:
    return replace(event, user_id=into, merged_from=(*event.merged_from, event.user_id))


def _events_of(window: UserSequence) -> list[Event]:
    contexts = window.contexts or [None] * len(window.items)
    columns = zip(window.event_ids, window.items, window.types, window.times_ms, window.values, contexts, strict=True)
    return [
        Event(event_id, window.user_id, item, kind, time_ms, value, context or {})
        for event_id, item, kind, time_ms, value, context in columns
        if item
    ]


def _next(user: User, append_ms: int) -> int:
    return max(user.window.version + 1, append_ms)


def uncovered(user: User, stored: bytes | None) -> list[Met]:
    """The window's events that the *stored* seen items may lack."""
    if not stored:
        return met_in(user.window)
    return met_in(user.window, since_ms=user.fresh_from_ms) if user.fresh else []


def sequence_of(user: User) -> bytes:
    """The user's record in ``user-sequences``."""
    return encode_sequence(published(user.window) if user.marks.removed else user.window)


def is_shown(before: User | None, after: User) -> bool:
    """Whether the sequence for readers changed, apart from its version."""
    if after.window.version == (before.window.version if before else 0):
        return False
    if before is None or not after.marks.removed:
        return True
    return replace(published(before.window), version=0) != replace(published(after.window), version=0)


def encode_state(user: User, sequence: bytes) -> bytes:
    """The state's bytes; *sequence* is ``sequence_of(user)``, which they contain unless events were removed."""
    window = encode_sequence(user.window) if user.marks.removed else sequence
    rest: list[object] = [user.fresh, user.fresh_from_ms, user.snapshot_ms]
    if user.marks is not NO_MARKS:
        rest.append(user.marks)
    return b"%b%b\n%b" % (STATE_FORMAT, window, orjson.dumps(rest))


def decode_state(state: bytes | None) -> User | None:
    """The user in *state*, ``None`` without one; reads the first release's format, refuses a later release's."""
    if not state:
        return None
    if state[:1] == _WINDOW_ALONE:
        window = decode_sequence(state[1:])
        return User(window, len(window.items), window.times_ms[0])
    if state[:1] != STATE_FORMAT:
        raise Misconfigured(f"state of format {state[:1]!r}, this release reads {STATE_FORMAT!r}: use a newer release")
    end = state.rindex(b"\n")  # orjson writes no line breaks
    fresh, fresh_from_ms, snapshot_ms, *marks = orjson.loads(state[end:])
    window = decode_sequence(state[1:end])
    return User(window, fresh, fresh_from_ms, snapshot_ms, _marks(marks[0]) if marks else NO_MARKS)


def _marks(body: dict[str, object]) -> Marks:
    marks = Marks(**{name: tuple(value) if isinstance(value, list) else value for name, value in body.items()})  # type: ignore[arg-type]
    if len(marks.told) == 2:
        append_ms, offset = marks.told
        return replace(marks, told=(append_ms, -1, offset))
    return marks
