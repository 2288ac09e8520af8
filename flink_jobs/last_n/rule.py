"""The job's rule: what a record makes of its user, and what is told of it. Knows nothing of Flink.

A record is an event, a command (nearline/user_commands.py) or what is told of a profile. ``Rule.take`` is the whole of
it; the operator around it only keeps the bytes and passes on what is to be written.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from flink_jobs.last_n.history import Met, holds, left_out, met_in
from flink_jobs.last_n.popularity import gain
from flink_jobs.last_n.seen_items import (
    decode_seen_items,
    encode_seen_items,
    fold,
    same_for_readers,
    snapshot_of,
    without,
)
from flink_jobs.last_n.user_state import (
    User,
    accept,
    as_wanted,
    encode_state,
    erase,
    is_late,
    is_shown,
    late_for,
    moved_on,
    remove,
    sent_on,
    sequence_of,
    snapshot_due,
    tell,
    with_snapshot,
)
from nearline.events import Event
from nearline.seen import SeenPolicy, encode_seen, no_seen
from nearline.signals import Context
from nearline.user_commands import Entry, Erase, Merge, Remove

CLEARED = b""  # in place of the seen items' bytes: forget them


@dataclass(frozen=True, slots=True)
class Told:
    """What the record at *offset* of ``users`` tells of a user's declared signals; empty for none any more."""

    user_id: str
    profile: Context
    offset: int


@dataclass(frozen=True, slots=True)
class Outcome:
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
    sent_on: list[Event] = field(default_factory=list)
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
            case _:
                return _erase(user, record, append_ms)

    def _event(self, user: User | None, event: Event, seen: SeenBytes, append_ms: int) -> Outcome:
        if user is not None and is_late(user, event):
            passed = late_for(user, event)
            return Outcome(sent_on=[passed] if passed else [], late=True)
        event = as_wanted(user, event)
        after = accept(user, event, keep=self.keep, append_ms=append_ms)
        window = user.window if user else None
        left = left_out(window, after.window, event)
        if after is user:
            return self._stray(after, left, seen, append_ms) if left else UNCHANGED
        share = (
            0.0 if not event.item_id or holds(window, event.event_id) else gain(event, half_life_ms=self.half_life_ms)
        )
        stored = snapshot = None
        if snapshot_due(after, left, keep=self.keep, append_ms=append_ms, refresh_ms=self.ttl_ms // 4):
            stored, snapshot = self._folded(after, left, seen(), append_ms)
            after = with_snapshot(after, append_ms=append_ms)
        return _outcome(user, after, seen=stored, snapshot=snapshot, item=event.item_id if share else None, gain=share)

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
        told = fold(known, [*left, *met_in(after.window)], self.policy)
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
        kept = without(known, command.event_id)
        if kept is known:
            return _outcome(user, after)
        told = fold(kept, met_in(after.window), self.policy)
        if user is not None and after.window is user.window:
            after = moved_on(after, append_ms=append_ms)
        snapshot = encode_seen(snapshot_of(told, self.policy, after.window.version))
        after = with_snapshot(after, append_ms=append_ms)
        return _outcome(user, after, seen=encode_seen_items(told), snapshot=snapshot)


def _erase(user: User | None, command: Erase | Merge, append_ms: int) -> Outcome:
    after = erase(user, command, append_ms=append_ms)
    if after is user:
        return UNCHANGED
    passed = sent_on(user, command.into) if isinstance(command, Merge) else []
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
) -> Outcome:
    sequence = sequence_of(after)
    shown = sequence if is_shown(before, after) else None
    return Outcome(encode_state(after, sequence), seen, shown, snapshot, item, gain)
