"""What becomes of a user with each record: events, commands and profiles. Knows nothing of Flink.

Each function takes the user before and gives the user after; the same object means that the record changed nothing.
Of everything that a command leaves behind only what late records need is kept (``Marks``), so a user who was erased is
a few numbers, and what comes late of him is recognized by its time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import orjson

from flink_jobs.last_n.history import Met, append, blanked, blanked_in, met_in, published
from flink_jobs.last_n.seen_items import SeenItems, encode_seen_items, parts_of, told_between, without
from nearline.errors import Misconfigured
from nearline.events import Event
from nearline.hashing import hash64
from nearline.sequences import UserSequence, decode_sequence, encode_sequence, erased_sequence
from nearline.signals import Context
from nearline.user_commands import Adopt, Erase, Merge, Remove

STATE_FORMAT = b"2"  # the first byte of the stored state: later forms take other bytes and still read this one
_WINDOW_ALONE = b"1"  # what the first release wrote: the sequence as it was published
MOST_REMOVED = 100
_MOST_OBEYED = 20
_ADOPTED_AT_ONCE = 1500  # pairs of 25 bytes, in base64: within an event's 64 KiB
_MOST_MERGES = 8  # an event is forwarded so often at most: two sessions merged into each other would never stop


@dataclass(frozen=True, slots=True)
class Marks:
    """What commands and profiles leave behind; most users have none.

    *erased_ms* is the append time of the last erasure; events up to *forgotten_ms* are not wanted any more, and where
    *into* is not empty, those after *into_from_ms* are forwarded to it. *removed* are hashes of the last
    ``MOST_REMOVED`` removed events and *obeyed* of the last commands; *told* is append time and offset of the last
    record about the profile. The fields' names are part of the stored state.
    """

    erased_ms: int = 0
    forgotten_ms: int = 0
    into: str = ""
    into_from_ms: int = 0
    removed: tuple[int, ...] = ()
    obeyed: tuple[int, ...] = ()
    told: tuple[int, int] = (0, -1)


NO_MARKS = Marks()


class User(NamedTuple):
    """One user: the window with its version (blanks in place of removed events; erased when empty), and the rest.

    *fresh* events entered the window since the last snapshot of the seen items, the oldest of them at *fresh_from_ms*;
    that snapshot was made at *snapshot_ms* of the log's clock, 0 if there was none.
    """

    window: UserSequence
    fresh: int = 0
    fresh_from_ms: int = 0
    snapshot_ms: int = 0
    marks: Marks = NO_MARKS


def accept(user: User | None, event: Event, *, keep: int, append_ms: int) -> User:
    """The user after *event*, which is neither late (``is_late``) nor removed (``as_wanted``)."""
    if user is None:
        return User(append(None, event, keep=keep, append_ms=append_ms), 1, event.time_ms)
    window = append(user.window, event, keep=keep, append_ms=append_ms)
    if window is user.window:
        return user
    fresh_from_ms = min(event.time_ms, user.fresh_from_ms) if user.fresh else event.time_ms
    return User(window, user.fresh + 1, fresh_from_ms, user.snapshot_ms, user.marks)


def is_late(user: User | None, event: Event) -> bool:
    """Whether the event happened before its user was erased or merged."""
    return user is not None and event.time_ms <= user.marks.forgotten_ms


def as_wanted(user: User | None, event: Event) -> Event:
    """The event, or a blank if its user had it removed."""
    if user is None or not user.marks.removed or hash64(event.event_id) not in user.marks.removed:
        return event
    return blanked(event)


def snapshot_due(user: User, left: Sequence[Met], *, keep: int, append_ms: int, refresh_ms: int) -> bool:
    """Whether the seen items must be written: *left* fell out of the window and the last snapshot may not have it.

    So the newest snapshot and the newest window always hold all. It is written sooner too: after half a window of new
    events, since its readers read two topics and see them at different times, and when it is *refresh_ms* old, since
    it expires.
    """
    if user.fresh * 2 >= keep or 0 < user.snapshot_ms < append_ms - refresh_ms:
        return True
    return bool(left) and max(met[2] for met in left) >= user.fresh_from_ms


def with_snapshot(user: User, *, append_ms: int) -> User:
    """The user after a snapshot of the seen items was written."""
    return User(user.window, 0, 0, append_ms, user.marks)


def moved_on(user: User, *, append_ms: int) -> User:
    """The user with a new version and nothing else: for a change that the window does not show."""
    return user._replace(window=replace(user.window, version=_next(user, append_ms)))


def erase(user: User | None, command: Erase | Merge, *, append_ms: int) -> User:
    """The user of whom nothing is left; what is told again of that time stays out.

    A profile that was told after the command stays. After a merge, what comes late is forwarded. The same command
    again changes nothing.
    """
    user = user or User(erased_sequence(command.user_id, 0))
    if hash64(command.command_id) in user.marks.obeyed:
        return user
    # A producer's clock may run ahead: what was there counts as from before, whatever its time says.
    forgotten_ms = max(append_ms, user.marks.forgotten_ms, *user.window.times_ms[-1:])
    marks = replace(
        user.marks,
        erased_ms=append_ms,
        forgotten_ms=forgotten_ms,
        into=command.into if isinstance(command, Merge) else "",
        # What is older belonged to whoever used the session before.
        into_from_ms=user.marks.forgotten_ms,
        obeyed=(*user.marks.obeyed, hash64(command.command_id))[-_MOST_OBEYED:],
    )
    window = erased_sequence(command.user_id, _next(user, append_ms))
    if user.window.profile and user.window.profile_ms > append_ms:
        window = replace(window, erased=False, profile=user.window.profile, profile_ms=user.window.profile_ms)
    return User(window, marks=marks)


def remove(user: User | None, command: Remove, *, append_ms: int) -> User:
    """The user without the event, which stays out if it comes, or comes again."""
    user = user or User(erased_sequence(command.user_id, 0))
    event = hash64(command.event_id)
    if event in user.marks.removed:
        return user
    marks = replace(user.marks, removed=(*user.marks.removed, event)[-MOST_REMOVED:])
    window = blanked_in(user.window, command.event_id, _next(user, append_ms))
    return user._replace(window=window, marks=marks)


def tell(user: User | None, user_id: str, profile: Context, *, append_ms: int, offset: int) -> User | None:
    """The user with *profile*, empty for none; what an erasure came after changes nothing."""
    told = (append_ms, offset)
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


def forwarded_events(user: User | None, into: str) -> list[Event]:
    """The events that the user *into* gets when this one is merged into that; none that was removed."""
    return [] if user is None else [_forwarded(each, into) for each in _events_of(user.window)]


def late_for(user: User, event: Event) -> Event | None:
    """The late *event* as it is forwarded to the user that this one was merged into; ``None`` if it ends here."""
    if not _goes_on(user, event.merged_from) or event.time_ms <= user.marks.into_from_ms:
        return None
    event = as_wanted(user, event)
    return _forwarded(event, user.marks.into) if event.item_id else None


def adoptions(seen: SeenItems, command: Merge | Adopt, into: str, merged_from: tuple[str, ...]) -> list[Adopt]:
    """What tells the user *into* of *seen*, in parts that fit into a record each."""
    return [
        Adopt(command.command_id, into, encode_seen_items(part), merged_from, command.time_ms)
        for part in parts_of(seen, _ADOPTED_AT_ONCE)
    ]


def late_seen(user: User, command: Adopt, adopted: SeenItems) -> tuple[Adopt, ...]:
    """What of the *adopted* items is forwarded to the user that this one was merged into."""
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
    """What of the window the *stored* seen items may lack."""
    if not stored:
        return met_in(user.window)
    return met_in(user.window, since_ms=user.fresh_from_ms) if user.fresh else []


def sequence_of(user: User) -> bytes:
    """The sequence as the topic carries it."""
    return encode_sequence(published(user.window) if user.marks.removed else user.window)


def is_shown(before: User | None, after: User) -> bool:
    """Whether readers get another sequence than before, but for its version: what changes nothing emits nothing."""
    if after.window.version == (before.window.version if before else 0):
        return False
    if before is None or not after.marks.removed:
        return True
    return replace(published(before.window), version=0) != replace(published(after.window), version=0)


def encode_state(user: User, sequence: bytes) -> bytes:
    """The state's bytes; *sequence* is ``sequence_of(user)``, which they hold as it is where nothing was removed."""
    window = encode_sequence(user.window) if user.marks.removed else sequence
    rest: list[object] = [user.fresh, user.fresh_from_ms, user.snapshot_ms]
    if user.marks is not NO_MARKS:
        rest.append(user.marks)
    return b"%b%b\n%b" % (STATE_FORMAT, window, orjson.dumps(rest))


def decode_state(state: bytes | None) -> User | None:
    """The user in *state*, ``None`` where there is none; reads the first release's, refuses a later one's."""
    if not state:
        return None
    if state[:1] == _WINDOW_ALONE:
        window = decode_sequence(state[1:])
        return User(window, len(window.items), window.times_ms[0])
    if state[:1] != STATE_FORMAT:
        raise Misconfigured(f"state of format {state[:1]!r}, this release reads {STATE_FORMAT!r}: use a newer release")
    end = state.rindex(b"\n")  # JSON has no line breaks of its own
    fresh, fresh_from_ms, snapshot_ms, *marks = orjson.loads(state[end:])
    window = decode_sequence(state[1:end])
    return User(window, fresh, fresh_from_ms, snapshot_ms, _marks(marks[0]) if marks else NO_MARKS)


def _marks(body: dict[str, object]) -> Marks:
    return Marks(**{name: tuple(value) if isinstance(value, list) else value for name, value in body.items()})  # type: ignore[arg-type]
