"""The job's rule: what a record makes of its user, and what is told of it. Knows nothing of Flink.

A record is an event, a command (nearline/user_commands.py) or what is told of a profile. ``Rule.take`` is the whole of
it; the operator around it only keeps the bytes and passes on what is to be written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from flink_jobs.last_n.history import Met, holds, left_out, met_in
from flink_jobs.last_n.popularity import gain
from flink_jobs.last_n.seen_items import (
    decode_adopted,
    decode_seen_items,
    encode_seen_items,
    fold,
    same_for_readers,
    snapshot_of,
    told_between,
    united,
    without,
)
from flink_jobs.last_n.user_state import (
    User,
    accept,
    adoptions,
    as_wanted,
    encode_state,
    erase,
    is_late,
    is_shown,
    late_for,
    late_seen,
    moved_on,
    remove,
    sent_on,
    sequence_of,
    snapshot_due,
    tell,
    with_snapshot,
)
from nearline.events import Event
from nearline.hashing import hash64
from nearline.seen import SeenPolicy, encode_seen, no_seen
from nearline.sequences import Cause, erased_sequence, with_cause
from nearline.signals import Context
from nearline.tracing import is_traced
from nearline.user_commands import Adopt, Entry, Erase, Merge, Remove

MAX_MS = 2**63 - 1
CLEARED = b""  # in place of the seen items' bytes: forget them


@dataclass(frozen=True, slots=True)
class Told:
    """What the record at *offset* of ``users`` tells of a user's declared signals; empty for none any more."""

    user_id: str
    profile: Context
    offset: int


class Outcome(NamedTuple):
    """What to keep and what to write after a record; ``None`` where nothing changed.

    *seen* are the seen items' bytes, ``CLEARED`` to forget them. *item* and *gain* are a share in popularity. *sent_on*
    belongs to other users and goes back to ``clicks``. *late* was told of a time that its user had forgotten.
    """

    state: bytes | None = None
    seen: bytes | None = None
    sequence: bytes | None = None
    snapshot: bytes | None = None
    item: str | None = None
    gain: float = 0.0
    sent_on: tuple[Entry, ...] = ()
    late: bool = False


UNCHANGED = Outcome()
SeenBytes = Callable[[], bytes | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule with its settings: *keep* events, popularity halves in *half_life_ms*, a user is kept for *ttl_ms*."""

    keep: int
    half_life_ms: int
    ttl_ms: int
    policy: SeenPolicy

    def take(self, user: User | None, record: Entry | Told, seen: SeenBytes, *, append_ms: int) -> Outcome:
        """What *record* makes of *user*; *seen* gives the stored seen items, which few records need."""
        match record:
            case Event():
                return self._event(user, record, seen, append_ms)
            case Told():
                after = tell(user, record.user_id, record.profile, append_ms=append_ms, offset=record.offset)
                return UNCHANGED if after is None or after is user else _outcome(user, after)
            case Remove():
                return self._remove(user, record, seen, append_ms)
            case Adopt():
                return self._adopt(user, record, seen, append_ms)
            case _:
                return _erase(user, record, seen, append_ms)

    def _event(self, user: User | None, event: Event, seen: SeenBytes, append_ms: int) -> Outcome:
        if user is not None and is_late(user, event):
            passed = late_for(user, event)
            return Outcome(sent_on=(passed,) if passed else (), late=True)
        event = as_wanted(user, event)
        after = accept(user, event, keep=self.keep, append_ms=append_ms)
        window = user.window if user else None
        known = holds(window, event.event_id)
        left = left_out(window, after.window, event, known=known)
        if after is user:
            return self._stray(after, left, seen, append_ms) if left else UNCHANGED
        share = 0.0 if known or not event.item_id else gain(event, half_life_ms=self.half_life_ms)
        stored = snapshot = None
        if snapshot_due(after, left, keep=self.keep, append_ms=append_ms, refresh_ms=self.ttl_ms // 4):
            stored, snapshot = self._folded(after, left, seen(), append_ms)
            after = with_snapshot(after, append_ms=append_ms)
        item = event.item_id if share else None
        cause = None if event.produced_ms is None or event.merged_from else _cause(event, event.produced_ms, append_ms)
        return _outcome(user, after, seen=stored, snapshot=snapshot, item=item, gain=share, cause=cause)

    def _stray(self, user: User, left: list[Met], seen: SeenBytes, append_ms: int) -> Outcome:
        """What *left* tells that never got into the window: news to the seen items, or nothing."""
        stored = seen()
        known = decode_seen_items(stored)
        if fold(known, left, self.policy) is known:
            return UNCHANGED
        after = moved_on(user, append_ms=append_ms)
        kept, snapshot = self._folded(after, left, stored, append_ms)
        state = encode_state(with_snapshot(after, append_ms=append_ms), sequence_of(after))
        return Outcome(state, kept, snapshot=snapshot)

    def _folded(
        self, after: User, left: list[Met], stored: bytes | None, append_ms: int
    ) -> tuple[bytes | None, bytes | None]:
        """The seen items' bytes with *left* and the window, and their snapshot; ``None`` for what need not be written.

        What is stored expires, so it is written anew from time to time though it says the same.
        """
        known = decode_seen_items(stored)
        told = fold(known, [*left, *_uncovered(after, stored)], self.policy)
        expiring = not after.snapshot_ms or after.snapshot_ms < append_ms - self.ttl_ms // 4
        if not len(told) or (told is known and not expiring):
            return None, None
        kept = encode_seen_items(told)
        if not expiring and same_for_readers(known, told, self.policy):
            return kept, None
        return kept, encode_seen(snapshot_of(told, self.policy, after.window.version))

    def _remove(self, user: User | None, command: Remove, seen: SeenBytes, append_ms: int) -> Outcome:
        after = remove(user, command, append_ms=append_ms)
        if after is user:
            return UNCHANGED
        known = decode_seen_items(seen())
        kept = without(known, [hash64(command.event_id)])
        shown = user is not None and after.window is not user.window
        if kept is known and not shown:
            return _outcome(user, after)  # readers have what earlier windows held until a snapshot takes it from them
        told = fold(kept, met_in(after.window), self.policy)
        if not shown:
            after = moved_on(after, append_ms=append_ms)
        snapshot = encode_seen(snapshot_of(told, self.policy, after.window.version))
        after = with_snapshot(after, append_ms=append_ms)
        return _outcome(user, after, seen=encode_seen_items(told), snapshot=snapshot)

    def _adopt(self, user: User | None, command: Adopt, seen: SeenBytes, append_ms: int) -> Outcome:
        """The seen items of a session that was merged into the user; what he has forgotten or removed stays out."""
        adopted = decode_adopted(command.seen)
        user = user or User(erased_sequence(command.user_id, 0))
        passed = late_seen(user, command, adopted)
        late = len(told_between(adopted, 0, user.marks.forgotten_ms)) > 0
        known = decode_seen_items(seen())
        kept = without(told_between(adopted, user.marks.forgotten_ms, MAX_MS), user.marks.removed)
        told = united(known, kept)
        if told is known:
            return Outcome(sent_on=passed, late=late) if late else UNCHANGED
        after = moved_on(user, append_ms=append_ms)
        told = fold(told, _uncovered(after, None), self.policy)
        snapshot = encode_seen(snapshot_of(told, self.policy, after.window.version))
        after = with_snapshot(after, append_ms=append_ms)
        state = encode_state(after, sequence_of(after))
        return Outcome(state, encode_seen_items(told), snapshot=snapshot, sent_on=passed, late=late)


def _cause(event: Event, produced_ms: int, append_ms: int) -> Cause:
    """The event as its user's sequence names it; not for what a merge brought: that was measured in its session."""
    traceparent = event.traceparent if event.traceparent and is_traced(event.traceparent) else ""
    return Cause(event.event_id, produced_ms, append_ms, traceparent, event.synthetic)


def _uncovered(user: User, stored: bytes | None) -> list[Met]:
    """What of the window the *stored* seen items may lack."""
    if not stored:
        return met_in(user.window)
    return met_in(user.window, since_ms=user.fresh_from_ms) if user.fresh else []


def _erase(user: User | None, command: Erase | Merge, seen: SeenBytes, append_ms: int) -> Outcome:
    after = erase(user, command, append_ms=append_ms)
    if after is user:
        return UNCHANGED
    passed: tuple[Entry, ...] = ()
    if isinstance(command, Merge):
        adopted = adoptions(decode_seen_items(seen()), command, command.into, (command.user_id,))
        passed = (*sent_on(user, command.into), *adopted)
    sequence = sequence_of(after)  # said even of a user who is unknown here: a store may know him still
    snapshot = encode_seen(no_seen(after.window.version))
    return Outcome(encode_state(after, sequence), CLEARED, sequence, snapshot, sent_on=passed)


def _outcome(
    before: User | None,
    after: User,
    *,
    seen: bytes | None = None,
    snapshot: bytes | None = None,
    item: str | None = None,
    gain: float = 0.0,
    cause: Cause | None = None,
) -> Outcome:
    sequence = sequence_of(after)
    shown = sequence if is_shown(before, after) else None
    if shown is not None and cause is not None:
        shown = with_cause(shown, cause)
    return Outcome(encode_state(after, sequence), seen, shown, snapshot, item, gain)
