"""The job's reducer: takes a user and one record, returns the new user and the outputs. Independent of Flink.

A record is an event, a command (nearline/user_commands.py) or a change of the user's profile. ``UserReducer.apply``
does all of it; the operator only stores the bytes and emits the outputs.
"""

from dataclasses import dataclass

from flink_jobs.last_n.command_reducer import SeenBytes, adopt_seen, erase_user, remove_event
from flink_jobs.last_n.history import Met, holds, left_out
from flink_jobs.last_n.outcome import UNCHANGED, Outcome, outcome_of
from flink_jobs.last_n.popularity import counted_before, gain
from flink_jobs.last_n.seen_items import (
    decode_seen_items,
    encode_seen_items,
    fold,
    same_for_readers,
    snapshot_of,
)
from flink_jobs.last_n.user_state import (
    User,
    accept,
    as_wanted,
    encode_state,
    is_late,
    late_for,
    moved_on,
    sequence_of,
    snapshot_due,
    tell,
    uncovered,
    with_snapshot,
)
from nearline.events import Event
from nearline.seen import SeenPolicy, encode_seen
from nearline.sequences import TriggerEvent, UserSequence
from nearline.signals import Context
from nearline.tracing import is_traced
from nearline.user_commands import Adopt, Entry, Remove


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """The profile in the record of ``users`` at *offset* of *partition*; empty if it was deleted."""

    user_id: str
    profile: Context
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class UserReducer:
    """Applies records to users: keeps *keep* events, halves popularity in *half_life_ms*, keeps idle users *ttl_ms*.

    A user and item count in popularity once in *once_ms*.
    """

    keep: int
    half_life_ms: int
    ttl_ms: int
    policy: SeenPolicy
    once_ms: int = 0

    def apply(self, user: User | None, record: Entry | ProfileChange, seen: SeenBytes, *, append_ms: int) -> Outcome:
        """Apply *record* to *user*; *seen* loads the stored seen items, which few records need."""
        match record:
            case Event():
                return self._event(user, record, seen, append_ms)
            case ProfileChange():
                told = (append_ms, record.partition, record.offset)
                after = tell(user, record.user_id, record.profile, told=told)
                return UNCHANGED if after is None or after is user else outcome_of(user, after)
            case Remove():
                return remove_event(user, record, seen, self.policy, append_ms=append_ms)
            case Adopt():
                return adopt_seen(user, record, seen, self.policy, append_ms=append_ms)
            case _:
                return erase_user(user, record, seen, self.policy, append_ms=append_ms)

    def _event(self, user: User | None, event: Event, seen: SeenBytes, append_ms: int) -> Outcome:
        if user is not None and is_late(user, event, append_ms=append_ms):
            passed = late_for(user, event)
            return Outcome(forwarded=(passed,) if passed else (), late=True)
        event = as_wanted(user, event)
        window = user.window if user else None
        known = holds(window, event.event_id)
        after = accept(user, event, keep=self.keep, append_ms=append_ms, known=known)
        left = left_out(window, after.window, event, known=known)
        if after is user:
            stray = self._stray(after, left, seen, append_ms) if left else UNCHANGED
            return stray if known or not left else stray._replace(too_old=True)
        share = 0.0 if known or not event.item_id else self._share(window, event)
        stored = snapshot = None
        if snapshot_due(after, left, keep=self.keep, append_ms=append_ms, refresh_ms=self.ttl_ms // 4):
            stored, snapshot = self._folded(after, left, seen(), append_ms)
            after = with_snapshot(after, append_ms=append_ms)
        item = event.item_id if share else None
        cause = None if event.produced_ms is None or event.merged_from else _cause(event, event.produced_ms, append_ms)
        return outcome_of(user, after, seen=stored, snapshot=snapshot, item=item, gain=share, cause=cause)

    def _share(self, window: UserSequence | None, event: Event) -> float:
        """What *event* adds to its item's popularity, after the events in *window*."""
        counted = counted_before(window, event, once_ms=self.once_ms) if self.once_ms else 0.0
        return gain(event, half_life_ms=self.half_life_ms, counted=counted)

    def _stray(self, user: User, left: list[Met], seen: SeenBytes, append_ms: int) -> Outcome:
        """The outcome of an event that never got into the window: new seen items, or nothing."""
        stored = seen()
        known = decode_seen_items(stored)
        if fold(known, left, self.policy) is known:
            return UNCHANGED
        after = moved_on(user, append_ms=append_ms)
        kept, snapshot = self._folded(after, left, stored, append_ms)
        after = with_snapshot(after, append_ms=append_ms)
        return Outcome(encode_state(after, sequence_of(after)), kept, snapshot=snapshot, user=after)

    def _folded(
        self, after: User, left: list[Met], stored: bytes | None, append_ms: int
    ) -> tuple[bytes | None, bytes | None]:
        """The seen items' bytes with *left* and the window, and their snapshot; ``None`` for either if unchanged.

        Stored bytes expire, so they are rewritten from time to time even if unchanged.
        """
        known = decode_seen_items(stored)
        told = fold(known, [*left, *uncovered(after, stored)], self.policy)
        expiring = not after.snapshot_ms or after.snapshot_ms < append_ms - self.ttl_ms // 4
        if not len(told) or (told is known and not expiring):
            return None, None
        kept = encode_seen_items(told)
        if not expiring and same_for_readers(known, told, self.policy):
            return kept, None
        return kept, encode_seen(snapshot_of(told, self.policy, after.window.version))


def _cause(event: Event, produced_ms: int, append_ms: int) -> TriggerEvent:
    """The event as the cause of its user's sequence; not for merged events, which were measured in their session."""
    traceparent = event.traceparent if event.traceparent and is_traced(event.traceparent) else ""
    return TriggerEvent(event.event_id, produced_ms, append_ms, traceparent, event.synthetic)
