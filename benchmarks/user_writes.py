"""Measures the write path of ``user_tower`` without its model, with and without announcing stored documents.

The worker, LMDB and Kafka are real; vectors cost nothing here, so the share of everything else is largest. Both ways
take turns in one process, each with documents of 50 and 2,000 seen items. The figure is users per second of this
process's processor time, over all threads, so other programs on the machine matter little.

.venv/services/bin/python -m benchmarks.user_writes
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from local.broker import running_broker
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.lmdb import LmdbStore
from nearline.features import Features
from nearline.hashing import hash64_all
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemFields, ItemVector
from nearline.log import Record
from nearline.seen import FOREVER_S, SeenSnapshot, encode_seen, parse_seen_policy
from nearline.sequences import UserSequence, encode_sequence
from nearline.space import Space
from nearline.topics import USER_SEEN, USER_SEQUENCES, all_topics
from nearline.user_documents import UserDocument
from services.user_tower.updates import Updates
from services.user_tower.worker import UserWorker

_SPACE = Space(1, 64)
_USERS = 2_000
_ITEMS = 5_000
_TURNS = 7
_POLL = 500
_NOW_MS = 1_732_100_000_000


class _PreparedWrites:
    """A reader of prepared records, and towers that answer at once."""

    def __init__(self) -> None:
        self.polls: list[list[Record]] = []
        self.features = Features()
        self._vector = np.full(64, 0.125, np.float32)

    async def poll(self) -> list[Record]:
        return self.polls.pop(0)

    async def stay(self) -> None:
        """Nothing to stay in."""

    def done(self, records: list[Record]) -> None:
        """Nothing to commit."""

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.tile(self._vector, (len(batch["vectors"]), 1))


def _sequences(version: int) -> list[Record]:
    """A window of 50 for each user, one item further with each version."""
    records = []
    for number in range(_USERS):
        items = [f"item-{(number * 31 + version + i) % _ITEMS}" for i in range(50)]
        times = [_NOW_MS + version + i for i in range(50)]
        ids = [f"event-{number}-{version + i}" for i in range(50)]
        sequence = UserSequence(f"user-{number}", version, items, times, ["view"] * 50, [1.0] * 50, ids)
        records.append(Record(USER_SEQUENCES, 0, 0, _NOW_MS, sequence.user_id.encode(), encode_sequence(sequence)))
    return records


def _snapshots(version: int) -> list[Record]:
    hashes = np.sort(hash64_all([f"long ago {i}" for i in range(2_000)]))
    nothing = np.zeros(2_000, np.bool_)
    raw = encode_seen(SeenSnapshot(version, hashes, np.full(2_000, FOREVER_S, np.uint32), nothing))
    return [Record(USER_SEEN, 0, 0, _NOW_MS, f"user-{number}".encode(), raw) for number in range(_USERS)]


def _table() -> ItemTable:
    table, rng = ItemTable(_SPACE), np.random.default_rng(1)
    for number in range(_ITEMS):
        vector = rng.normal(size=64).astype(np.float16)
        table.put(ItemVector(f"item-{number}", 1, ItemFields("x"), None, vector, "d"))
    return table


async def _users_per_cpu_s(
    worker: UserWorker, prepared: _PreparedWrites, records: list[Record], settled: Callable[[], Awaitable[None]]
) -> float:
    prepared.polls = [records[start : start + _POLL] for start in range(0, len(records), _POLL)]
    started = time.process_time()
    while prepared.polls:
        await worker.step()
    await settled()
    return len(records) / (time.process_time() - started)


async def _measure(broker: str, folder: Path) -> None:
    prepared, table, version = _PreparedWrites(), _table(), 1
    store = LmdbStore(folder, _SPACE, ttl_ms=10**9, writer=True)
    publisher = Producer(broker)
    updates = Updates(_SPACE, publisher.send_all)
    silent: dict[str, UserDocument] = {}

    def worker(announce: Any) -> UserWorker:
        return UserWorker(
            _SPACE,
            reader=prepared,
            table=table,
            towers=prepared,
            store=store,
            dead_letters=publisher.send_all,
            announce=announce,
            policy=parse_seen_policy(""),
        )

    async def settled() -> None:
        """Return when all that was announced is in the log: it is part of the cost."""
        while updates.waiting:
            await asyncio.sleep(0.001)

    async with AsyncExitStack() as stack:
        for part in (store, publisher):
            stack.push_async_callback(part.close)
            await part.open()
        sending = asyncio.create_task(updates.run())
        stack.callback(sending.cancel)
        ways = {"told": worker(updates.announce), "not told": worker(lambda documents, _: silent.update(documents))}
        for seen in (50, 2_000):
            if seen > 50:
                version += 1
                rate = await _users_per_cpu_s(ways["not told"], prepared, _snapshots(version), settled)
                print(f"snapshots of 2,000    {rate:8,.0f} users")
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(_TURNS + 1):
                for way, one in ways.items():
                    version += 1
                    rates[way].append(await _users_per_cpu_s(one, prepared, _sequences(version), settled))
            for way, found in rates.items():
                print(f"{seen:>5} seen, {way:<9} {statistics.median(found[1:]):8,.0f} users", end=" ")
                print(f"({min(found[1:]):,.0f} to {max(found[1:]):,.0f} in {_TURNS} turns)")


def main() -> None:
    """Print a line for each way."""
    with tempfile.TemporaryDirectory() as folder, running_broker(Path(folder) / "broker") as broker:
        topics = Topics(broker.bootstrap)
        topics.ensure(all_topics(_SPACE))
        topics.close()
        asyncio.run(_measure(broker.bootstrap, Path(folder) / "store"))


if __name__ == "__main__":
    main()
