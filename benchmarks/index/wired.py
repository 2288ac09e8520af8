"""The index part of a retrieval process, wired as in services/retrieval/app.py.

Catalogue, index, follower, maintenance and live recall are the service's own classes on its own event loop; a table in
the process replaces Kafka's, and queries come without HTTP.
"""

import asyncio
import gc
import os
import time
from collections.abc import Callable

from benchmarks.index.asking import Pace
from nearline.adapters.hnsw import HnswGraph
from nearline.followers import Follower
from nearline.log import Record
from nearline.space import Space
from nearline.topics import item_vectors_topic
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.graphs import Build
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.in_process.live_recall import LiveRecall
from services.retrieval.in_process.maintenance import IndexMaintenance
from services.retrieval.in_process.records import item_records

SWITCH_S = 0.0005  # as in services/retrieval/app.py
_BATCH = 500  # records of one poll, as TableReader's
_TICK_S = 0.005  # changes come in groups of this length: at 500/s two or three


class WatchedIndex(LiveIndex):
    """The live index; it notes when graphs are built."""

    building = False
    built_s: float = 0.0  # how long the newest build took
    _since = 0.0

    def start_build(self) -> Build:
        """Note when."""
        self.building, self._since = True, time.perf_counter()
        return super().start_build()

    def adopt(self, build: Build) -> None:
        """Note how long it took."""
        self.built_s = time.perf_counter() - self._since
        self.building = False
        super().adopt(build)

    def drop(self, build: Build) -> None:
        """Note that it is over."""
        self.building = False
        super().drop(build)


class Feed:
    """A table (followers.py: Table) whose records are the changes, as many as are due."""

    caught_up = True
    lag = 0

    def __init__(self, record_of: Callable[[int], Record]) -> None:
        self._record_of = record_of
        self.sent = 0
        self._until = 0  # changes that are due whatever the rate
        self._pace = Pace()

    def at_rate(self, per_s: float) -> None:
        """From now on so many changes a second."""
        self._pace.at_rate(per_s, self.sent)

    def at_once(self, count: int) -> None:
        """*count* changes more, now."""
        self._until = self.sent + count

    async def open(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def poll(self) -> list[Record]:
        """The changes that are due; waits for one."""
        while self._due() <= self.sent:
            await asyncio.sleep(_TICK_S)
        last = min(self._due(), self.sent + _BATCH)
        records = [self._record_of(number) for number in range(self.sent, last)]
        self.sent = last
        return records

    def _due(self) -> int:
        return max(self._until, self._pace.due)


class Wired:
    """Everything between the log and an answer, without the log and HTTP."""

    def __init__(self, dimension: int, record_of: Callable[[int], Record]) -> None:
        self.space = Space(1, dimension)
        cores = len(os.sched_getaffinity(0))
        self.index = WatchedIndex(dimension, lambda capacity: HnswGraph(dimension, capacity), cores=cores)
        self.catalogue = Catalogue(dimension, self.index)
        self.feed = Feed(record_of)
        self.applied = 0  # changes that the catalogue has applied
        apply = item_records(self.catalogue, self.space)

        def counted(record: Record) -> None:
            apply(record)
            self.applied += 1

        self._items = Follower(item_vectors_topic(self.space), lambda: self.feed, counted)
        self.listed = False
        self.upkeep = IndexMaintenance(self.index, lambda: self.listed, LiveRecall(self.index))

    async def run(self) -> None:
        """Follow and keep up until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._items.run())
            parts.create_task(self.upkeep.run())

    async def list_catalogue(self, items: int) -> None:
        """List the first *items* changes and return when they are searched through a graph whose width is measured."""
        self.feed.at_once(items)
        await until(lambda: self.applied >= items)
        builds, self.listed = self.upkeep.builds, True
        await until(lambda: self.upkeep.builds > builds)
        gc.set_threshold(50_000, 20, 100)
        gc.collect()
        gc.freeze()


async def until(holds: Callable[[], bool], deadline_s: float = 600.0, look_s: float = 0.01) -> None:
    """Return once *holds*; ``TimeoutError`` after *deadline_s*."""
    async with asyncio.timeout(deadline_s):
        while not holds():
            await asyncio.sleep(look_s)
