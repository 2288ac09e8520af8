"""Builds and runs the parts for items in a remote engine, which all replicas write and search."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

from nearline.adapters.kafka.admin import committed, log_extent
from nearline.adapters.kafka.group_reader import GroupReader
from nearline.adapters.kafka.table_reader import TableReader
from nearline.errors import Unavailable
from nearline.followers import Follower
from nearline.item_engine import ItemEngine
from nearline.reasons import reasons_of
from nearline.settings import Settings
from nearline.space import Space
from nearline.topics import ITEM_POPULARITY, item_vectors_topic
from services.retrieval.in_engine.going_live import GoingLive
from services.retrieval.in_engine.guard import GuardedEngine
from services.retrieval.in_engine.head_items import HeadItems, popular_records
from services.retrieval.in_engine.items import EngineItems
from services.retrieval.in_engine.writer import Writer
from services.retrieval.items.interface import AVAILABLE_ITEMS

_TRENDING_PAUSE_S = 0.2
_COUNT_EVERY_S = 15.0


class RemoteItems:
    """The engine's items, this replica's writer, and its items in memory."""

    known = texts = None  # history vectors and text search need the items in this process

    def __init__(self, settings: Settings, space: Space, engine: ItemEngine) -> None:
        topic = item_vectors_topic(space)
        group = f"retrieval.{space.number}"
        window = HeadItems(engine, lambda: time.time_ns() // 1_000_000)
        self._engine = engine
        self._guard = GuardedEngine(engine)
        self.index = EngineItems(engine, self._guard, window)
        self._window = window
        self._trending = Follower(
            ITEM_POPULARITY,
            lambda: TableReader(settings.brokers, ITEM_POPULARITY, start_at=self._trending.positions()),
            popular_records(window),
            pause_s=_TRENDING_PAUSE_S,
            reasons=reasons_of("ids", "popularity"),
        )
        self._writer = Writer(space, lambda: GroupReader(settings.brokers, topic, group), engine, window)

        async def ends() -> Mapping[int, int]:
            return (await log_extent(settings.brokers, [topic])).topics[topic].end

        self._going_live = GoingLive(engine, space, ends, lambda: committed(settings.brokers, group, topic))

    def readiness(self) -> Mapping[str, bool]:
        """The conditions of ``/readyz``: all must hold before this process gets requests."""
        return {
            "engine": self._guard.answered,
            "item_vectors": self._going_live.complete,
            "trending": self._trending.caught_up,
        }

    async def run(self) -> None:
        """Write items, follow popularity and watch the engine until cancelled."""
        async with asyncio.TaskGroup() as parts:
            for part in (self._guard.watch(), self._trending.run(), self._window.run(), self._writer.run()):
                parts.create_task(part)
            parts.create_task(self._going_live.run())
            parts.create_task(count_items(self._engine))

    async def close(self) -> None:
        """Close the engine."""
        await self._guard.close()


async def count_items(engine: ItemEngine, every_s: float = _COUNT_EVERY_S) -> None:
    """Set the gauge of available items every *every_s*; while *engine* is down the last count remains."""
    while True:
        with suppress(Unavailable):
            AVAILABLE_ITEMS.set(await engine.count(""))
        await asyncio.sleep(every_s)
