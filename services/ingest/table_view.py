"""A view of a compacted topic that also includes this process's own appends before they come back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from nearline.errors import BadInput, Unavailable
from nearline.ids import check_id
from nearline.log import Appended, Record
from nearline.reasons import ITEM_REASONS, PROFILE_REASONS
from nearline.telemetry import counter, gauge
from nearline.topics import ITEMS, PARTITIONS, USERS
from nearline.versions import is_misplaced, place_of, version_of
from services.ingest.appender import Appender, Headers, KeyedMessage

REASONS = {ITEMS: ITEM_REASONS, USERS: PROFILE_REASONS}
_REFUSED = counter(
    "ingest_listing_refused_total",
    "Records that are invalid in their topic",
    "topic",
    "reason",
    known=[(topic, reason) for topic, reasons in REASONS.items() for reason in reasons],
)
_KEPT_DELETES = 10_000  # of those after the start
_LISTED = gauge("ingest_listed_records", "Items and profiles in memory, by topic", "topic", known=REASONS)


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A value in the log and its place in the topic's order (nearline/versions.py)."""

    order: int
    raw: bytes

    @property
    def version(self) -> int:
        """Its version; two values of one millisecond have the same."""
        append_ms, partition, _ = place_of(self.order)
        return version_of(append_ms, partition)


class TableView:
    """The newest valid value of each id in *topic*; *check* raises ``BadInput`` for an invalid value.

    It applies the topic's records and, at once, this process's own appends, whose records come back later. Of two
    records of an id the later appended one counts, in whatever order the partitions are read.
    """

    def __init__(self, topic: str, check: Callable[[bytes], object], *, partitions: int = PARTITIONS) -> None:
        self._topic = topic
        self._check = check
        self._partitions = partitions
        self._listed: dict[str, StoredValue] = {}
        self._deleted: dict[str, int] = {}  # the order of deletes: an older value may come from another partition
        self._kept_deletes: int | None = None  # no limit until the topic is read
        self._misplaced: dict[str, set[int]] = {}  # other partitions than the key's, with values of the id

    def __len__(self) -> int:
        """How many ids have a value."""
        return len(self._listed)

    def __contains__(self, key: str) -> bool:
        """Whether *key* has a value."""
        return key in self._listed

    def get(self, key: str) -> StoredValue | None:
        """The value of *key*, or ``None``."""
        return self._listed.get(key)

    def misplaced(self, key: str) -> list[int]:
        """The partitions where a client with another partitioner wrote values of *key*: a delete must go there too."""
        return sorted(self._misplaced.get(key, ()))

    def note(self, key: str, appended: Appended, raw: bytes | None) -> None:
        """Store what this process appended; ``None`` is a delete."""
        self._set(key, appended.order, raw)

    def apply(self, records: Sequence[Record]) -> None:
        """Apply records of the topic; an invalid one changes nothing, as in every other part."""
        for record in records:
            try:
                self._take_in(record)
            except BadInput as error:
                _REFUSED.labels(self._topic, error.reason).inc()  # the topic's consumer writes the dead letter
        _LISTED.labels(self._topic).set(len(self._listed))

    def end_of_history(self) -> None:
        """All partitions are read to their ends: from now on an older record comes at most a moment later."""
        self._kept_deletes = _KEPT_DELETES
        self._drop_old_deletes()

    def _take_in(self, record: Record) -> None:
        key = check_id("key", record.id)
        if record.value:
            self._check(record.value)
        self._note_partition(key, record)
        self._set(key, record.order, record.value or None)

    def _note_partition(self, key: str, record: Record) -> None:
        if is_misplaced(record.key, record.value, record.partition, self._partitions):
            self._misplaced.setdefault(key, set()).add(record.partition)
        elif not record.value and key in self._misplaced:
            self._misplaced[key].discard(record.partition)
            if not self._misplaced[key]:
                del self._misplaced[key]

    def _set(self, key: str, order: int, raw: bytes | None) -> None:
        known = self._listed.get(key)
        if order < (self._deleted.get(key, -1) if known is None else known.order):
            return
        if raw is not None:
            self._deleted.pop(key, None)
            self._listed[key] = StoredValue(order, raw)
            return
        self._listed.pop(key, None)
        self._deleted[key] = order
        self._drop_old_deletes()

    def _drop_old_deletes(self) -> None:
        while self._kept_deletes is not None and len(self._deleted) > self._kept_deletes:
            del self._deleted[next(iter(self._deleted))]


async def append_to(
    appender: Appender, table: TableView, key: str, raw: bytes | None, headers: Headers = ()
) -> Appended:
    """Append the value of *key* and note it in *table*; return its place. ``None`` deletes it in every partition.

    Compaction works within a partition: a value that a client with another partitioner wrote would otherwise come back
    when the delete has left the log.
    """
    elsewhere = table.misplaced(key) if raw is None else []
    messages: list[KeyedMessage] = [(key.encode(), None, partition) for partition in elsewhere]
    *_, place = await appender.append([*messages, (key.encode(), raw)], headers)
    table.note(key, place, raw)
    return place


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
