"""What a record comes to: the state to keep and the messages to write. Knows nothing of Flink."""

from typing import NamedTuple

from flink_jobs.last_n.user_state import User, encode_state, is_shown, sequence_of
from nearline.sequences import TriggerEvent, with_cause
from nearline.user_commands import Entry

CLEAR_SEEN = b""  # in place of the seen items' bytes: delete them


class Outcome(NamedTuple):
    """What to keep and what to write after a record; ``None`` where nothing changed.

    *seen* are the seen items' bytes, ``CLEAR_SEEN`` to delete them. *item* and *gain* are a share in popularity.
    *forwarded* belongs to other users and goes back to ``clicks``. *late* means that the record is of a time that its
    user had forgotten.
    """

    state: bytes | None = None
    seen: bytes | None = None
    sequence: bytes | None = None
    snapshot: bytes | None = None
    item: str | None = None
    gain: float = 0.0
    forwarded: tuple[Entry, ...] = ()
    late: bool = False


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
    """The outcome for the user *after*: the sequence is written only if readers get another one than *before*."""
    sequence = sequence_of(after)
    shown = sequence if is_shown(before, after) else None
    if shown is not None and cause is not None:
        shown = with_cause(shown, cause)
    return Outcome(encode_state(after, sequence), seen, shown, snapshot, item, gain)
