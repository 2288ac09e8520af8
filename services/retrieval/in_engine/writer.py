"""Writes item vectors to an engine: the replicas are one consumer group, so each record is written by one of them.

Offsets are committed after the write, so a record may be read again: a record older than the engine's row is skipped.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from nearline.errors import BadInput, NearlineError, Unavailable
from nearline.ids import check_id
from nearline.item_engine import Card, EngineRow, ItemEngine
from nearline.item_vectors import decode_item_vector
from nearline.log import Record
from nearline.reasons import reasons_of
from nearline.space import Space
from nearline.telemetry import counter, get_logger
from services.retrieval.in_engine.head_items import HeadItems
from services.retrieval.in_engine.rows import row_of

_WRITTEN = counter(
    "engine_records_total",
    "Records of item-vectors that were processed, by outcome",
    "kind",
    known=("shown", "hidden", "forgotten", "older"),
)
REASONS = reasons_of("ids", "item_vectors", others=("bad_vector", "too_large", "space_mismatch"))
_REFUSED = counter("engine_records_refused_total", "Invalid records, which were skipped", "reason", known=REASONS)
_AWAY = counter("engine_writer_waits_total", "Attempts in which the engine or the log was down")

RowChange = EngineRow | int | None  # put this row; hide the item at this version; delete it


class VectorReader(Protocol):
    """A group reader (nearline/adapters/kafka/group_reader.py)."""

    async def open(self) -> None: ...
    async def poll(self) -> list[Record]: ...
    async def stay(self) -> None: ...
    def done(self, records: list[Record]) -> None: ...
    async def settle(self) -> None: ...
    async def close(self) -> None: ...


class Writer:
    """Writes the topic's records to *engine*, and applies them to *window* at once."""

    def __init__(
        self,
        space: Space,
        connect: Callable[[], VectorReader],
        engine: ItemEngine,
        window: HeadItems,
        *,
        retry_s: float = 0.5,
    ) -> None:
        self._space = space
        self._connect = connect
        self._engine = engine
        self._window = window
        self._retry_s = retry_s

    async def run(self) -> None:
        """Write until cancelled; reconnect when the log is down."""
        while True:
            reader = self._connect()
            try:
                await reader.open()
                while True:
                    await self.step(reader)
            except Unavailable as error:
                _AWAY.inc()
                get_logger().warning("cannot read item vectors", reason=str(error))
            finally:
                await asyncio.shield(reader.close())
            await asyncio.sleep(self._retry_s)

    async def step(self, reader: VectorReader) -> None:
        """Poll once and write the records; retry while the engine is down, without leaving the group."""
        records = await reader.poll()
        if not records:
            await reader.settle()
            return
        changes = self.changes_in(records)
        while not await self._try(changes):
            await asyncio.sleep(self._retry_s)
            await reader.stay()
        reader.done(records)

    async def _try(self, changes: dict[str, RowChange]) -> bool:
        try:
            await self.write(changes)
        except Unavailable as error:
            _AWAY.inc()
            get_logger().warning("item vectors wait", reason=str(error), items=len(changes))
            return False
        return True

    def changes_in(self, records: Sequence[Record]) -> dict[str, RowChange]:
        """The last change of each item in *records*; invalid records are counted and skipped."""
        changes: dict[str, RowChange] = {}
        for record in records:
            try:
                item_id = check_id("item_id", record.id)
                change = self._change(record)
            except NearlineError as error:
                reason = error.reason if isinstance(error, BadInput) else "space_mismatch"
                _REFUSED.labels(reason).inc()
                get_logger().error("a record was refused", reason=str(error))
                continue
            known = changes.get(item_id)
            if change is None or known is None or _version(change) >= _version(known):
                changes[item_id] = change
        return changes

    async def write(self, changes: dict[str, RowChange]) -> None:
        """Write *changes* except those older than the engine's rows; ``Unavailable`` if some were not written.

        Reading the version and writing are two steps, which is safe because only one replica has an item's partition.
        A row of the same version is written again, to complete an interrupted write.
        """
        known = await self._engine.versions([item_id for item_id, change in changes.items() if change is not None])
        news = {
            item_id: change
            for item_id, change in changes.items()
            if change is None or _version(change) >= known.get(item_id, _version(change))
        }
        shown = [change for change in news.values() if isinstance(change, EngineRow)]
        hidden = {item_id: change for item_id, change in news.items() if isinstance(change, int)}
        forgotten = [item_id for item_id, change in news.items() if change is None]
        await self._engine.hide(hidden)
        await self._engine.forget(forgotten)
        self._window.hide([*hidden, *forgotten])
        await self._engine.put(shown)
        self._window.show(Card(row.item_id, row.version, row.printed) for row in shown)
        for kind, count in (("shown", len(shown)), ("hidden", len(hidden)), ("forgotten", len(forgotten))):
            _WRITTEN.labels(kind).inc(count)
        _WRITTEN.labels("older").inc(len(changes) - len(news))

    def _change(self, record: Record) -> RowChange:
        if record.value is None:
            return None
        item = decode_item_vector(record.id, record.value, self._space)
        if item.candidate is None or not item.shown.available:
            return item.version
        return row_of(item, item.candidate, self._space.dimension)


def _version(change: EngineRow | int) -> int:
    return change if isinstance(change, int) else change.version
