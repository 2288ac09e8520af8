"""The event histories of users, from the topic ``user-sequences``, for display."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from nearline.errors import Unavailable
from nearline.log import Record
from nearline.sequences import UserSequence, decode_sequence

MOST = 2_000  # users of whom the newest sequence is kept; some 10 MB
_START_S = 3.0  # how long a reader that looks first waits until the log is followed
_COLUMNS = ("items", "times_ms", "types", "values", "event_ids", "contexts")


class SequenceCache:
    """The newest sequences of the users who clicked or were viewed last.

    Records that arrive while the log is followed are kept; *find* searches the log for other users, which may take a
    second, and raises ``Unavailable`` while the log is down. Between ``rest`` and ``resume`` nothing is kept.
    """

    def __init__(self, find: Callable[[str], Awaitable[bytes | None]], *, most: int = MOST) -> None:
        self._find = find
        self._most = most
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._followed = asyncio.Event()
        self._followed.set()

    def __len__(self) -> int:
        """How many users are kept."""
        return len(self._kept)

    def rest(self) -> None:
        """The log is no longer followed: drop what is kept, it would become stale."""
        self._followed.clear()
        self._kept.clear()

    def resume(self) -> None:
        """The log is followed again, from its current end."""
        self._followed.set()

    def take_in(self, record: Record) -> None:
        """Apply a record of ``user-sequences``; an empty value means that the sequence was deleted."""
        self._keep((record.key or b"").decode(), record.value or b"")

    async def of(self, user_id: str) -> UserSequence | None:
        """The user's events, oldest first; ``None`` for a user without any."""
        await self._until_followed()
        raw = self._kept.get(user_id)
        if raw is None:
            found = await self._find(user_id) or b""
            raw = self._kept.get(user_id, found)  # a record that arrived meanwhile is newer
            self._keep(user_id, raw)
        sequence = decode_sequence(raw) if raw else None
        return None if sequence is None or sequence.erased else sequence

    async def _until_followed(self) -> None:
        """Or what is looked for could change between the look and the first record that is taken in."""
        try:
            async with asyncio.timeout(_START_S):
                await self._followed.wait()
        except TimeoutError:
            raise Unavailable(f"the log could not be followed within {_START_S:g} s") from None

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
