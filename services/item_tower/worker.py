"""The loop of ``item_tower``: reads catalogue changes, publishes item vectors, then commits the offsets."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.dead_letters import encode_dead_letter, letter_about
from nearline.errors import BadInput, Unavailable
from nearline.features import Arrays
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemVector, encode_item_vector
from nearline.items import decode_item
from nearline.log import GroupLog, Record
from nearline.newest import Newest
from nearline.reasons import reasons_of
from nearline.salvage import salvage
from nearline.space import Space
from nearline.telemetry import counter, get_logger, seconds, sizes
from nearline.topics import ITEMS as ITEMS_TOPIC
from nearline.topics import ITEMS_DLQ, PARTITIONS, item_vectors_topic
from nearline.versions import is_misplaced
from services.item_tower.item_changes import (
    Bury,
    Decision,
    Encode,
    Ignore,
    ItemInputs,
    Publish,
    decide,
    newest_of_each,
    orphans,
    retire,
    shown,
)
from services.item_tower.newer_changes import NewerChanges

CHUNK = 64
RETRY_S = 0.2

ITEMS = counter("items_total", "Changes of the catalogue read from the log.")
KINDS = tuple(kind.__name__.lower() for kind in (Encode, Publish, Bury, Ignore))
CHANGES = counter("item_changes_total", "Changes of the catalogue by outcome.", "kind", known=KINDS)
WRONG_PARTITION = counter(
    "wrong_partition_records_total",
    "Records that a client with another partitioner than murmur2_random wrote.",
    "topic",
    known=(ITEMS_TOPIC,),
)
REASONS = reasons_of("events", "ids", "items", others=("bad_answer",))
REFUSED = counter("items_refused_total", "Items sent to the dead-letter queue.", "reason", known=REASONS)
AWAY = counter("item_tower_waits_total", "Rounds in which Triton was down.")
BATCH_ITEMS = sizes("item_tower_batch_items", "Changes of items in one batch.")
PUBLISHED_AFTER = seconds("item_to_published_seconds", "From an item's append to its published vector.")

Messages = list[tuple[bytes, bytes | None]]


class ItemEncoder(Protocol):
    """The item tower, as the worker needs it."""

    async def encode_items(self, inputs: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


class ItemWorker:
    """Turns items into published vectors; *table* holds the published ones and is kept up to date here.

    *read* makes the served item tower's input.
    """

    def __init__(
        self,
        space: Space,
        *,
        reader: GroupLog,
        table: ItemTable,
        towers: ItemEncoder,
        read: ItemInputs,
        publish: Callable[[str, Messages], Awaitable[object]],
        now_ms: Callable[[], int],
        retry_s: float = RETRY_S,
        partitions: int = PARTITIONS,
    ) -> None:
        self._space = space
        self._topic = item_vectors_topic(space)
        self._reader = reader
        self._table = table
        self._towers = towers
        self._read = read
        self._publish = publish
        self._now_ms = now_ms
        self._retry_s = retry_s
        self._partitions = partitions
        self._newer = NewerChanges()

    async def run(self) -> None:
        """Read and process changes until cancelled."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Process one poll; while Triton or the log is down, retry."""
        records = await self._reader.poll()
        if not records:
            return
        ITEMS.inc(len(records))
        BATCH_ITEMS.observe(len(records))
        misplaced = sum(is_misplaced(r.key, r.value, r.partition, self._partitions) for r in records)
        WRONG_PARTITION.labels(topic=ITEMS_TOPIC).inc(misplaced)
        while True:
            try:
                await self._deal(newest_of_each(records))
                break
            except Unavailable as error:
                AWAY.inc()
                get_logger().warning("waiting", reason=str(error), items=len(records))
                await asyncio.sleep(self._retry_s)
                await self._reader.stay()
        now = self._now_ms()
        for record in records:
            PUBLISHED_AFTER.observe(max(0, now - record.append_ms) / 1000)
        self._reader.done(records)

    def know(self, newest: Newest) -> None:
        """Ignore records that are outdated by the *newest* ones in other partitions of ``items``."""
        self._newer.find(newest)

    async def catch_up(self, records: list[Record]) -> int:
        """Publish these changes, which were read earlier and not published; return how many are valid."""
        valid = [record for record in records if _is_valid(record)]
        await self._deal(valid)
        return len(valid)

    async def retire_orphans(self, read_listed: Callable[[], Awaitable[set[str]]]) -> int:
        """Retire every published item that is not in the catalogue, which *read_listed* reads now; return how many.

        Another process may publish meanwhile: only an item whose published version is from before the read is retired.
        """
        published = self._table.live_versions()
        gone = orphans(self._table, published, await read_listed())
        now = self._now_ms()
        await self._send([retire(i, self._table, version=published[i] + 1, now_ms=now).vector for i in gone], [])
        return len(gone)

    async def bury(self, item_ids: Sequence[str]) -> None:
        """Publish tombstones, which erase these items in every replica."""
        await self._send([], item_ids)

    async def _deal(self, records: list[Record]) -> None:
        by_kind: dict[type, list[Any]] = {Encode: [], Publish: [], Bury: []}
        for record in records:
            change = await self._decide(record)
            if change is not None and type(change) in by_kind:
                by_kind[type(change)].append((change, record))
        encoded = await self._encode(by_kind[Encode])
        await self._send(
            encoded + [change.vector for change, _ in by_kind[Publish]],
            [change.item_id for change, _ in by_kind[Bury]],
        )

    async def _decide(self, record: Record) -> Decision | None:
        try:
            change = decide(record, self._table, self._read)
        except BadInput as error:
            await self._refuse(record, error.reason, str(error))
            return None
        self._newer.note(record)
        if self._newer.outdate(record):
            change = Ignore()
        CHANGES.labels(kind=type(change).__name__.lower()).inc()
        return change

    async def _encode(self, wanted: list[tuple[Encode, Record]]) -> list[ItemVector]:
        async def encode(part: Sequence[tuple[Encode, Record]]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
            inputs = self._read([(change.item_id, change.item) for change, _ in part])
            candidates, histories = await self._towers.encode_items(inputs)
            return list(zip(candidates, histories, strict=True))

        vectors = []
        for start in range(0, len(wanted), CHUNK):
            good, bad = await salvage(encode, wanted[start : start + CHUNK])
            for (_, record), error in bad:
                await self._refuse(record, "bad_answer", str(error))
            vectors += [_vector(change, *answer) for (change, _), answer in good]
        return vectors

    async def _send(self, vectors: list[ItemVector], buried: Sequence[str]) -> None:
        messages: Messages = [(v.item_id.encode(), encode_item_vector(v, self._space)) for v in vectors]
        messages += [(item_id.encode(), None) for item_id in buried]
        if messages:
            await self._publish(self._topic, messages)
        for vector in vectors:
            self._table.put(vector)

    async def _refuse(self, record: Record, reason: str, detail: str) -> None:
        REFUSED.labels(reason=reason).inc()
        get_logger().warning("item refused", reason=reason, detail=detail, item_id=record.id)
        letter = letter_about(record, reason, detail)
        await self._publish(ITEMS_DLQ, [(record.key or b"", encode_dead_letter(letter))])


def _is_valid(record: Record) -> bool:
    try:
        return not record.value or bool(decode_item(record.value))
    except BadInput:
        return False


def _vector(change: Encode, candidate: NDArray[Any], history: NDArray[Any]) -> ItemVector:
    return ItemVector(
        change.item_id,
        change.version,
        shown(change.item),
        candidate.astype(np.float32),
        history.astype(np.float16),
        change.input_digest,
    )
