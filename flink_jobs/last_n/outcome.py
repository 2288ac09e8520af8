"""The outcome of a record: the state to store and the messages to write. Independent of Flink."""

from typing import NamedTuple

from flink_jobs.last_n.user_state import User, encode_state, is_shown, sequence_of
from nearline.sequences import TriggerEvent, with_cause
from nearline.user_commands import Entry

CLEAR_SEEN = b""  # in place of the seen items' bytes: delete them


class Outcome(NamedTuple):
    """What to store and write after a record; ``None`` for what did not change.

    *seen* are the seen items' bytes, ``CLEAR_SEEN`` to delete them. *item* and *gain* are a share in popularity.
    *forwarded* belongs to other users and goes back to ``clicks``. *late* means that the record is from before its
    user's erasure, *too_old* that it is older than the whole window. *user* is *state*, decoded.
    """

    state: bytes | None = None
    seen: bytes | None = None
    sequence: bytes | None = None
    snapshot: bytes | None = None
    item: str | None = None
    gain: float = 0.0
    forwarded: tuple[Entry, ...] = ()
    late: bool = False
    user: User | None = None
    too_old: bool = False


UNCHANGED = Outcome()


def outcome_of(
    before: User | None,
    after: User,
    *,
    seen: bytes | None = None,
    snapshot: bytes | None = None,
    item: str | None = None,
    gain: float = 0.0,
    cause: TriggerEvent | None = None,
) -> Outcome:
    """The outcome for the user *after*: the sequence is written only if it differs from *before* for readers."""
    sequence = sequence_of(after)
    shown = sequence if is_shown(before, after) else None
    if shown is not None and cause is not None:
        shown = with_cause(shown, cause)
    return Outcome(encode_state(after, sequence), seen, shown, snapshot, item, gain, user=after)
