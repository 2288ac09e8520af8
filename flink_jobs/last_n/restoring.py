"""Restores users from ``user-sequences`` and ``user-seen`` when the job has no checkpoint. Independent of Flink.

``clicks`` keeps 30 days, but histories live longer: a job that began anew would lose the rest, and its sequences would
replace the complete ones. So the job first reads the two topics, which hold each user's newest window and seen items.
Then it reads ``clicks`` again for what they do not hold: popularity, the traces of commands, and the events that the
lost job had not read. Until a user's part of ``clicks`` is read again, up to a record that the lost job had not read or
to the end of what was there at the start, the user has two histories: the *restored* one, complete up to its version,
and the *replayed* one, reduced as by a job that begins anew. Nothing is published meanwhile. Then ``join`` makes one of
both. A window is the N greatest events in their total order, so the window of the union is
that of the two windows' union: where both know an event, nothing changes, and the sequence is published only if the
replayed history has something new.

Snapshots hold hashes of items, without the events that met them: such an entry has 0 in place of the event's hash
(``UNKNOWN``) and the time of the oldest known event, and is dropped once a known event explains it. What commands left
longer ago than ``clicks`` goes back is lost: a removed event that is sent again would come back, a late event of a
merged session would not be forwarded. An erased user stays erased.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import orjson

from flink_jobs.last_n.command_reducer import SeenBytes
from flink_jobs.last_n.history import Met, met_in, published
from flink_jobs.last_n.outcome import Outcome
from flink_jobs.last_n.seen_items import (
    SeenItems,
    decode_seen_items,
    encode_seen_items,
    fold,
    snapshot_of,
)
from flink_jobs.last_n.seen_restoring import explained, of_known_events, of_unknown_events, seen_of
from flink_jobs.last_n.user_reducer import ProfileChange, UserReducer
from flink_jobs.last_n.user_state import Marks, User, encode_state, forwarded_events, sequence_of
from nearline.events import Event
from nearline.hashing import hash64
from nearline.seen import SeenPolicy, decode_seen, encode_seen
from nearline.sequences import UserSequence, decode_sequence, erased_sequence
from nearline.signals import Context
from nearline.user_commands import Entry, Merge

RESTORED = b"R"  # the first byte of the state of a user whose two histories are not joined yet
_AHEAD_MS = 60_000  # more than a user's changes can be within a millisecond


class Restored(NamedTuple):
    """A user whose histories are not joined yet: the versions that were read, 0 for none, and the replayed state.

    *is_commanded* means that a replayed command changed the seen items.
    """

    version: int = 0
    seen_version: int = 0
    is_commanded: bool = False
    replayed: bytes | None = None

    @property
    def newest(self) -> int:
        """The version up to which the restored history is complete.

        It is the append time of the last record that changed the user, or ahead of it by one for each change within a
        millisecond: so the lost job had not read records that were appended later, and perhaps not all up to it.
        """
        return max(self.version, self.seen_version)

    def may_be_new(self, append_ms: int) -> bool:
        """Whether the lost job may not have read a record that was appended at *append_ms*."""
        return append_ms > self.newest - _AHEAD_MS


def encode_restored(restored: Restored) -> bytes:
    """The state's bytes."""
    head = restored.version, restored.seen_version, restored.is_commanded
    return b"%b%d,%d,%d\n%b" % (RESTORED, *head, restored.replayed or b"")


def decode_restored(state: bytes | None) -> Restored:
    """The user in *state*, which begins with ``RESTORED``; one of whom nothing was read without a state."""
    if not state:
        return Restored()
    head, _, replayed = state.partition(b"\n")
    version, seen_version, is_commanded = map(int, head[len(RESTORED) :].split(b","))
    return Restored(version, seen_version, bool(is_commanded), replayed or None)


class ReadBack(NamedTuple):
    """What to store after a record of the two topics; ``None`` for what does not change."""

    state: bytes
    sequence: bytes | None = None
    seen: bytes | None = None


def read_sequence(state: bytes | None, value: bytes) -> ReadBack | None:
    """Take a record of ``user-sequences``; ``None`` if a newer one was read, ``BadInput`` if it is none."""
    known, version = decode_restored(state), decode_sequence(value).version
    if version < known.version:
        return None
    return ReadBack(encode_restored(known._replace(version=version)), sequence=value)


def read_snapshot(state: bytes | None, value: bytes, policy: SeenPolicy) -> ReadBack | None:
    """Take a record of ``user-seen``; ``None`` if a newer one was read, ``BadInput`` if it is none."""
    known, snapshot = decode_restored(state), decode_seen(value)
    if snapshot.version < known.seen_version:
        return None
    seen = encode_seen_items(seen_of(snapshot, policy))
    return ReadBack(encode_restored(known._replace(seen_version=snapshot.version)), seen=seen)


def replay(
    reducer: UserReducer,
    restored: Restored,
    user: User | None,
    record: Entry | ProfileChange,
    seen: SeenBytes,
    sequence: Callable[[], bytes | None],
    *,
    append_ms: int,
) -> Outcome:
    """Apply a *record* that the lost job may have read to the replayed history *user*; its sequence is not published.

    A merge that the lost job had not read also forwards what is restored: *sequence* and *seen* load it.
    """
    if isinstance(record, Merge):
        return _merge(reducer, restored, user, record, seen, sequence(), append_ms=append_ms)
    outcome = reducer.apply(user, record, seen, append_ms=append_ms)
    commanded = outcome.snapshot is not None and not isinstance(record, Event | ProfileChange)
    return _unpublished(restored, outcome, commanded)


def _merge(
    reducer: UserReducer,
    restored: Restored,
    user: User | None,
    record: Merge,
    seen: SeenBytes,
    sequence: bytes | None,
    *,
    append_ms: int,
) -> Outcome:
    """A replayed merge: had the lost job read it, the restored events would all be from after it."""
    at_ms = max([append_ms, *(user.window.times_ms[-1:] if user else [])])
    nothing = erased_sequence(record.user_id, 0)
    kept = forwarded_events(User(decode_sequence(sequence)), record.into, kept=nothing) if sequence else []
    taken = [each for each in kept if each.time_ms <= at_ms]
    outcome = reducer.apply(user, record, seen if taken else lambda: _of_known_events(seen()), append_ms=append_ms)
    return _unpublished(restored, outcome, True)._replace(forwarded=(*taken, *outcome.forwarded))


def _unpublished(restored: Restored, outcome: Outcome, commanded: bool) -> Outcome:
    if outcome.state is None:
        return outcome
    restored = restored._replace(replayed=outcome.state, is_commanded=restored.is_commanded or commanded)
    return outcome._replace(state=encode_restored(restored), sequence=None, snapshot=None)


def _of_known_events(seen: bytes | None) -> bytes | None:
    known = of_known_events(decode_seen_items(seen))
    return encode_seen_items(known) if len(known) else None


def join(
    user_id: str,
    restored: Restored,
    sequence: bytes | None,
    replayed: User | None,
    seen: bytes | None,
    *,
    keep: int,
    policy: SeenPolicy,
) -> Outcome:
    """Make one user of both histories; the outcome has a sequence and a snapshot if readers do not have all of it.

    *sequence* is the restored one, *seen* are the stored seen items.
    """
    kept = decode_sequence(sequence) if sequence else erased_sequence(user_id, 0)
    known = replayed or User(erased_sequence(user_id, 0))
    events = _still_wanted(kept, known)
    window = _window(kept, events, known, keep)
    version = max(kept.version, restored.seen_version)
    stored = decode_seen_items(seen)
    told = _joined_seen(stored, events, known, window, policy)
    is_new = _content(published(window)) != _content(kept)
    if is_new or restored.is_commanded or not _is_read(told, stored, kept, policy):
        window = replace(window, version=max(version + 1, known.window.version))
        after, snapshot = User(window, snapshot_ms=window.version), snapshot_of(told, policy, window.version)
    else:
        window = replace(window, version=version)
        # The stored seen items hold more than readers have: the first that leaves the window makes a snapshot.
        after, snapshot = User(window, len(window.items), min(window.times_ms, default=0)), None
    after = after._replace(marks=_marks(kept, known))
    encoded = sequence_of(after)
    return Outcome(
        encode_state(after, encoded),
        encode_seen_items(told) if len(told) else None,
        encoded if is_new else None,
        None if snapshot is None else encode_seen(snapshot),
        user=after,
    )


class _Row(NamedTuple):
    """One event of a window; a blank has no item."""

    time_ms: int
    event_id: str
    item: str
    kind: str
    value: float
    context: Context | None

    @property
    def rank(self) -> tuple[bool, int, bytes, bytes]:
        """Of two records of one event the greater counts, and a blank before all: as in history.py."""
        context = orjson.dumps(self.context) if self.context else b""
        return not self.item, self.time_ms, orjson.dumps([self.item, self.kind, self.value]), context

    @property
    def met(self) -> Met:
        return self.item, self.kind, self.time_ms, self.event_id


def _rows(window: UserSequence) -> list[_Row]:
    contexts = window.contexts or [None] * len(window.items)
    columns = zip(window.times_ms, window.event_ids, window.items, window.types, window.values, contexts, strict=True)
    return [_Row(*row) for row in columns]


def _still_wanted(kept: UserSequence, known: User) -> list[_Row]:
    """The restored events, without those that a replayed command erased; removed ones as blanks."""
    removed = set(known.marks.removed)
    return [
        row._replace(item="", kind="", value=0.0, context=None) if hash64(row.event_id) in removed else row
        for row in _rows(kept)
        if row.time_ms > known.marks.forgotten_ms
    ]


def _window(kept: UserSequence, events: Iterable[_Row], known: User, keep: int) -> UserSequence:
    """The greatest *keep* events of both windows, and the newer profile; without a version."""
    by_id: dict[str, _Row] = {}
    for row in (*events, *_rows(known.window)):
        other = by_id.get(row.event_id)
        if other is None or row.rank > other.rank:
            by_id[row.event_id] = row
    rows = sorted(by_id.values(), key=lambda row: (row.time_ms, row.event_id))[-keep:]
    profile, profile_ms = known.window.profile, known.window.profile_ms
    if kept.profile_ms > max(known.marks.told[0], known.marks.erased_ms):
        profile, profile_ms = kept.profile, kept.profile_ms
    contexts = [row.context for row in rows]
    return UserSequence(
        kept.user_id,
        0,
        [row.item for row in rows],
        [row.time_ms for row in rows],
        [row.kind for row in rows],
        [row.value for row in rows],
        [row.event_id for row in rows],
        contexts if any(contexts) else [],
        profile,
        profile_ms,
        erased=not rows and not profile,
    )


def _content(window: UserSequence) -> UserSequence:
    """What readers see of the window: not its version and cause, nor when the profile was last confirmed."""
    return replace(window, version=0, cause=None, profile_ms=0)


def _joined_seen(
    stored: SeenItems, events: Iterable[_Row], known: User, window: UserSequence, policy: SeenPolicy
) -> SeenItems:
    """The seen items of both histories, without restored ones that a known event explains."""
    met = [row.met for row in events if row.item]
    told = fold(stored, [*met, *met_in(known.window), *met_in(window)], policy)
    return explained(told, policy)


def _is_read(told: SeenItems, stored: SeenItems, kept: UserSequence, policy: SeenPolicy) -> bool:
    """Whether readers of the restored snapshot and window know *told* already."""
    before = fold(of_unknown_events(stored), met_in(kept), policy)
    one, other = snapshot_of(before, policy, 0), snapshot_of(told, policy, 0)
    return encode_seen(one) == encode_seen(other)


def _marks(kept: UserSequence, known: User) -> Marks:
    """The traces of the replayed commands; an erasure from before them stays one, by the time of its version."""
    marks = known.marks
    is_older_erasure = kept.erased and kept.version and not (marks.erased_ms or marks.removed or marks.told[0])
    return replace(marks, erased_ms=kept.version, forgotten_ms=kept.version) if is_older_erasure else marks
