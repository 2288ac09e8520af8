"""A view of a compacted topic that also includes this process's own appends before they come back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from nearline.errors import BadInput, Unavailable
from nearline.ids import check_id
from nearline.log import Record
from nearline.reasons import ITEM_REASONS, PROFILE_REASONS
from nearline.telemetry import counter, gauge
from nearline.topics import ITEMS, USERS

REASONS = {ITEMS: ITEM_REASONS, USERS: PROFILE_REASONS}
_REFUSED = counter(
    "ingest_listing_refused_total",
    "Records that are invalid in their topic",
    "topic",
    "reason",
    known=[(topic, reason) for topic, reasons in REASONS.items() for reason in reasons],
)
_LISTED = gauge("ingest_listed_records", "Items and profiles in memory, by topic", "topic", known=REASONS)


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A value in the log; its version is its record's offset."""

    version: int
    raw: bytes


class TableView:
    """The newest valid value of each id in *topic*; *check* raises ``BadInput`` for an invalid value.

    It applies the topic's records and, at once, this process's own appends, whose records come back later.
    """

    def __init__(self, topic: str, check: Callable[[bytes], object]) -> None:
        self._topic = topic
        self._check = check
        self._listed: dict[str, StoredValue] = {}
        self._ours: dict[str, int] = {}  # newest version appended here that has not come back yet

    def get(self, key: str) -> StoredValue | None:
        """The value of *key*, or ``None``."""
        return self._listed.get(key)

    def note(self, key: str, version: int, raw: bytes | None) -> None:
        """Store what this process appended as *version*; ``None`` is a delete."""
        self._ours[key] = version
        self._set(key, version, raw)

    def apply(self, records: Sequence[Record]) -> None:
        """Apply records of the topic; an invalid one changes nothing, as in every other part."""
        for record in records:
            newest_of_ours = self._ours.get(record.id, -1)
            if record.offset >= newest_of_ours:
                self._ours.pop(record.id, None)
                self._take_in(record)
        _LISTED.labels(self._topic).set(len(self._listed))

    def _take_in(self, record: Record) -> None:
        try:
            check_id("key", record.id)
            if record.value:
                self._check(record.value)
        except BadInput as error:
            _REFUSED.labels(self._topic, error.reason).inc()  # the topic's consumer writes the dead letter
            return
        self._set(record.id, record.offset, record.value or None)

    def _set(self, key: str, version: int, raw: bytes | None) -> None:
        if raw is None:
            self._listed.pop(key, None)
        else:
            self._listed[key] = StoredValue(version, raw)


class Turns:
    """Locks by key: a change waits at most *longest_s* for earlier changes with the same key.

    *name* is the key's field name in errors.
    """

    def __init__(self, name: str, longest_s: float) -> None:
        self._name = name
        self._longest_s = longest_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, keys: Iterable[str]) -> AsyncIterator[None]:
        """Lock *keys*, which must be ids; always in the same order, so that there is no deadlock."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._longest_s):
                    for key in sorted(set(keys)):
                        check_id(self._name, key)
                        await stack.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            except TimeoutError:
                raise Unavailable(f"earlier changes of this {self._name} still wait for the log") from None
            yield
