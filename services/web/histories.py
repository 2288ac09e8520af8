"""The event histories of users, from the topic ``user-sequences``, for display."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from nearline.log import Record
from nearline.sequences import UserSequence, decode_sequence

MOST = 2_000  # users of whom the newest sequence is kept; some 10 MB
_COLUMNS = ("items", "times_ms", "types", "values", "event_ids", "contexts")


class SequenceCache:
    """The newest sequences of the users who clicked or were viewed last.

    Records that arrive while this process runs are kept; *find* searches the log for other users, which may take a
    second, and raises ``Unavailable`` while the log is down.
    """

    def __init__(self, find: Callable[[str], Awaitable[bytes | None]], *, most: int = MOST) -> None:
        self._find = find
        self._most = most
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        """How many users are kept."""
        return len(self._kept)

    def take_in(self, record: Record) -> None:
        """Apply a record of ``user-sequences``; an empty value means that the sequence was deleted."""
        self._keep((record.key or b"").decode(), record.value or b"")

    async def of(self, user_id: str) -> UserSequence | None:
        """The user's events, oldest first; ``None`` for a user without any."""
        raw = self._kept.get(user_id)
        if raw is None:
            found = await self._find(user_id) or b""
            raw = self._kept.get(user_id, found)  # a record that arrived meanwhile is newer
            self._keep(user_id, raw)
        sequence = decode_sequence(raw) if raw else None
        return None if sequence is None or sequence.erased else sequence

    def _keep(self, user_id: str, raw: bytes) -> None:
        self._kept[user_id] = raw
        self._kept.move_to_end(user_id)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def until(sequence: UserSequence, end_ms: int) -> UserSequence:
    """The sequence with only the events before *end_ms*; the declared profile stays."""
    count = sum(1 for time_ms in sequence.times_ms if time_ms < end_ms)
    return replace(sequence, **{name: getattr(sequence, name)[:count] for name in _COLUMNS})


def session_events(sequence: UserSequence) -> list[dict[str, object]]:
    """The events as ``POST /recommend`` takes them: without a user."""
    contexts = sequence.contexts or [None] * len(sequence.items)
    columns = zip(
        sequence.items, sequence.types, sequence.times_ms, sequence.values, sequence.event_ids, contexts, strict=True
    )
    return [
        {"item_id": item, "type": kind, "time_ms": time_ms, "value": value, "event_id": event_id}
        | ({"context": context} if context else {})
        for item, kind, time_ms, value, event_id, context in columns
    ]


def now_ms() -> int:
    """The wall clock, UTC milliseconds."""
    return time.time_ns() // 1_000_000
