"""Builds and runs the parts for items in this process: the catalogue, its followers, maintenance and snapshots."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from nearline.adapters.hnsw import HnswGraph
from nearline.adapters.kafka.admin import log_extent
from nearline.adapters.kafka.table_reader import TableReader
from nearline.followers import Follower
from nearline.reasons import reasons_of
from nearline.settings import Settings
from nearline.space import Space
from nearline.topics import ITEM_POPULARITY, item_vectors_topic
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.graphs import SavedGraph
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.in_process.live_recall import LiveRecall
from services.retrieval.in_process.maintenance import IndexMaintenance
from services.retrieval.in_process.records import item_records, popularity_records
from services.retrieval.in_process.snapshot_schedule import SnapshotSchedule
from services.retrieval.items.text_index import TextIndex

TRENDING_PAUSE_S = 0.2  # popularity may be this late; a poll for each click would delay answers


class LocalItems:
    """The catalogue of this process, and the parts that keep it up to date."""

    def __init__(self, settings: Settings, space: Space) -> None:
        self._settings = settings
        self._space = space
        index = LiveIndex(
            space.dimension,
            lambda capacity: HnswGraph(space.dimension, capacity),
            cores=len(os.sched_getaffinity(0)),
        )
        self.texts = TextIndex() if settings.search == "on" else None
        self.index = self.known = Catalogue(space.dimension, index, self.texts)
        topic = item_vectors_topic(space)
        self._items = Follower(
            topic,
            lambda: TableReader(settings.brokers, topic, start_at=self._items.positions()),
            item_records(self.index, space),
            reasons=reasons_of("ids", "item_vectors", others=("bad_vector",)),
        )
        self._trending = Follower(
            ITEM_POPULARITY,
            lambda: TableReader(settings.brokers, ITEM_POPULARITY, start_at=self._trending.positions()),
            popularity_records(self.index),
            pause_s=TRENDING_PAUSE_S,
            reasons=reasons_of("ids", "popularity"),
        )
        recall = LiveRecall(index, every_s=settings.recall_every_s)
        self._maintenance = IndexMaintenance(index, lambda: self._items.caught_up, recall)
        self._snapshots = self._make_snapshots(settings.snapshots_folder, self.index)

    def _make_snapshots(self, folder: Path | None, catalogue: Catalogue) -> SnapshotSchedule | None:
        if folder is None:
            return None
        settings, space = self._settings, self._space

        def load(path: Path, saved: SavedGraph) -> HnswGraph:
            return HnswGraph.load(path, space.dimension, saved.capacity, count=saved.count, removed=saved.removed)

        return SnapshotSchedule(
            folder,
            space,
            catalogue,
            (self._items, self._trending),
            lambda: log_extent(settings.brokers, (item_vectors_topic(space), ITEM_POPULARITY)),
            load,
            lambda: self._maintenance.builds,
            every_s=settings.snapshot_every_s,
        )

    def readiness(self) -> Mapping[str, bool]:
        """The conditions of ``/readyz``: all must hold before this process gets requests."""
        return {"item_vectors": self._items.caught_up, "trending": self._trending.caught_up}

    async def run(self) -> None:
        """Keep the catalogue up to date until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._follow())
            parts.create_task(self._maintenance.run())

    async def _follow(self) -> None:
        """Start from the newest usable snapshot, if any, and follow the log from there until cancelled."""
        if self._snapshots is not None:
            await self._snapshots.resume()
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._items.run())
            parts.create_task(self._trending.run())
            if self._snapshots is not None:
                parts.create_task(self._snapshots.run())

    async def close(self) -> None:
        """Nothing to close."""
