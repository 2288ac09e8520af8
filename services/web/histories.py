"""What users did, as the topic ``user-sequences`` tells it: that of a few users at a time, for people to look at."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from nearline.errors import Unavailable
from nearline.log import Record
from nearline.sequences import UserSequence, decode_sequence

MOST = 2_000  # users of whom the newest sequence is kept; some 10 MB
_START_S = 3.0  # how long whoever looks first waits until the log is followed
_COLUMNS = ("items", "times_ms", "types", "values", "event_ids", "contexts")


class SequenceCache:
    """The newest sequence of those users who clicked last or were looked at last.

    What comes in while the log is followed is taken in as it comes; *find* looks for the rest in the log, which may
    take a second, and raises ``Unavailable`` without it. Between ``rest`` and ``resume`` nothing is followed or kept.
    """

    def __init__(self, find: Callable[[str], Awaitable[bytes | None]], *, most: int = MOST) -> None:
        self._find = find
        self._most = most
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._followed = asyncio.Event()
        self._followed.set()

    def __len__(self) -> int:
        """Of how many users something is kept."""
        return len(self._kept)

    def rest(self) -> None:
        """The log is not followed from now on: what is kept would grow old."""
        self._followed.clear()
        self._kept.clear()

    def resume(self) -> None:
        """From where the log ends now on all that comes is taken in."""
        self._followed.set()

    def take_in(self, record: Record) -> None:
        """A user's sequence changed, or (an empty value) is gone."""
        self._keep((record.key or b"").decode(), record.value or b"")

    async def of(self, user_id: str) -> UserSequence | None:
        """The user's events, oldest first; ``None`` for a user without any."""
        await self._until_followed()
        raw = self._kept.get(user_id)
        if raw is None:
            found = await self._find(user_id) or b""
            raw = self._kept.get(user_id, found)  # what came meanwhile is newer
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
    """The events that happened before *end_ms*; what is declared of the user stays."""
    count = sum(1 for time_ms in sequence.times_ms if time_ms < end_ms)
    return replace(sequence, **{name: getattr(sequence, name)[:count] for name in _COLUMNS})


def session_events(sequence: UserSequence) -> list[dict[str, object]]:
    """The events as ``POST /recommend`` takes those of a session: without a user."""
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
