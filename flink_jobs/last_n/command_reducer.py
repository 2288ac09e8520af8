"""Applies the commands remove, adopt, erase and merge (nearline/user_commands.py) to a user. Independent of Flink.

Commands are rare; events, the hot path, are reduced in user_reducer.py.
"""

from collections.abc import Callable

from flink_jobs.last_n.history import met_in
from flink_jobs.last_n.outcome import CLEAR_SEEN, UNCHANGED, Outcome, outcome_of
from flink_jobs.last_n.seen_items import (
    decode_adopted,
    decode_seen_items,
    encode_seen_items,
    fold,
    snapshot_of,
    told_between,
    united,
    without,
)
from flink_jobs.last_n.user_state import (
    User,
    adoptions,
    encode_state,
    erase,
    forwarded_events,
    late_seen,
    moved_on,
    remove,
    sequence_of,
    uncovered,
    with_snapshot,
)
from nearline.hashing import hash64
from nearline.seen import SeenPolicy, encode_seen, no_seen
from nearline.sequences import erased_sequence
from nearline.user_commands import Adopt, Entry, Erase, Merge, Remove

_MAX_MS = 2**63 - 1
SeenBytes = Callable[[], bytes | None]


def remove_event(user: User | None, command: Remove, seen: SeenBytes, policy: SeenPolicy, *, append_ms: int) -> Outcome:
    """Remove the event from the window and the seen items; it stays out if it comes again."""
    after = remove(user, command, append_ms=append_ms)
    if after is user:
        return UNCHANGED
    known = decode_seen_items(seen())
    kept = without(known, [hash64(command.event_id)])
    shown = user is not None and after.window is not user.window
    if kept is known and not shown:
        return outcome_of(user, after)  # readers keep items of earlier windows until a snapshot replaces them
    told = fold(kept, met_in(after.window), policy)
    if not shown:
        after = moved_on(after, append_ms=append_ms)
    snapshot = encode_seen(snapshot_of(told, policy, after.window.version))
    after = with_snapshot(after, append_ms=append_ms)
    return outcome_of(user, after, seen=encode_seen_items(told), snapshot=snapshot)


def adopt_seen(user: User | None, command: Adopt, seen: SeenBytes, policy: SeenPolicy, *, append_ms: int) -> Outcome:
    """Add the seen items of a session that was merged into the user; erased and removed events stay out."""
    adopted = decode_adopted(command.seen)
    user = user or User(erased_sequence(command.user_id, 0))
    passed = late_seen(user, command, adopted)
    late = len(told_between(adopted, 0, user.marks.forgotten_ms)) > 0
    known = decode_seen_items(seen())
    kept = without(told_between(adopted, user.marks.forgotten_ms, _MAX_MS), user.marks.removed)
    told = united(known, kept)
    if told is known:
        return Outcome(forwarded=passed, late=late) if late else UNCHANGED
    after = moved_on(user, append_ms=append_ms)
    told = fold(told, uncovered(after, None), policy)
    snapshot = encode_seen(snapshot_of(told, policy, after.window.version))
    after = with_snapshot(after, append_ms=append_ms)
    state = encode_state(after, sequence_of(after))
    return Outcome(state, encode_seen_items(told), snapshot=snapshot, forwarded=passed, late=late, user=after)


def erase_user(
    user: User | None, command: Erase | Merge, seen: SeenBytes, policy: SeenPolicy, *, append_ms: int
) -> Outcome:
    """Erase the user; a merge forwards the events and the seen items to the user that it names."""
    after = erase(user, command, append_ms=append_ms)
    if after is user:
        return UNCHANGED
    passed: tuple[Entry, ...] = ()
    if isinstance(command, Merge):
        known = told_between(decode_seen_items(seen()), 0, append_ms if after.window.items else _MAX_MS)
        adopted = adoptions(known, command, command.into, (command.user_id,))
        passed = (*forwarded_events(user, command.into, kept=after.window), *adopted)
    kept, snapshot = _still_seen(after, seen, policy, append_ms)
    if kept != CLEAR_SEEN:
        after = with_snapshot(after, append_ms=append_ms)
    sequence = sequence_of(after)  # written even for a user unknown here: a store may still have a document
    return Outcome(encode_state(after, sequence), kept, sequence, snapshot, forwarded=passed, user=after)


def _still_seen(after: User, seen: SeenBytes, policy: SeenPolicy, append_ms: int) -> tuple[bytes, bytes]:
    """The bytes of the seen items that an erasure at *append_ms* leaves, and their snapshot; usually nothing."""
    if not after.window.items:
        return CLEAR_SEEN, encode_seen(no_seen(after.window.version))
    left = told_between(decode_seen_items(seen()), append_ms, _MAX_MS)
    told = fold(left, met_in(after.window), policy)
    return encode_seen_items(told), encode_seen(snapshot_of(told, policy, after.window.version))
