"""What keeps the catalogue true while it is served: the two topics that it follows, and the index's upkeep.

Everything runs on the event loop that serves requests, in slices of about a millisecond, so that neither a burst of
items nor the folding of the delta stalls an answer.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from nearline.errors import BadInput, NearlineError, Unavailable
from nearline.item_vectors import decode_item_vector
from nearline.log import Record
from nearline.popularity import decode_popularity
from nearline.space import Space
from nearline.telemetry import counter, gauge, get_logger
from services.retrieval.catalogue import Catalogue
from services.retrieval.graphs import Build
from services.retrieval.index import LiveIndex
from services.retrieval.widths import least_width

T = TypeVar("T")

_SLICE_S = 0.001
_REPORT_EVERY = 1_000  # refused records between two log lines of one reason
_BUILD_NICE = 5  # a third of a busy core for the builder: at 10 it starves, and a scan serves until it is done

_APPLIED = counter("records_applied_total", "Records of a followed topic that were taken in", "topic")
_REFUSED = counter("records_refused_total", "Records that can never be taken in", "topic", "reason")
_LAG = gauge("table_lag_records", "Records of a followed topic that were not read yet", "topic")
_ITEMS = gauge("index_items", "Items on show")
_DELTA = gauge("index_delta_rows", "Rows that are searched exactly, beside the graph")
_REMOVED = gauge("index_removed_rows", "Removed rows that the graph still carries")
_WIDTH = gauge("index_width_per_result", "How wide the graph is searched (ef) for each result, as measured")
_BUILDS = counter("index_builds_total", "Graphs that were built and adopted")


class Table(Protocol):
    """A compacted topic read from its beginning (nearline/adapters/kafka.py: TableReader)."""

    caught_up: bool
    lag: int

    async def open(self) -> None:
        """Connect and note the end offsets."""

    async def poll(self) -> list[Record]:
        """The next records; none if nothing comes for a while."""

    async def close(self) -> None:
        """Disconnect."""


class Follower:
    """Applies every record of a topic once, in order, from its beginning; connects anew when the log was away.

    Once caught up it rests for *pause_s* after each poll that brought something, so that more comes at once.
    """

    def __init__(
        self, name: str, connect: Callable[[], Table], apply: Callable[[Record], None], *, pause_s: float = 0.0
    ) -> None:
        self._pause_s = pause_s
        self.name = self._name = name
        self._connect = connect
        self._apply = apply
        self._applied_to: dict[int, int] = {}  # partition -> newest offset
        self._refused: dict[str, int] = {}
        self.caught_up = False

    def positions(self) -> dict[int, int]:
        """The next offset of each partition of which anything was read."""
        return {partition: offset + 1 for partition, offset in self._applied_to.items()}

    def start_at(self, positions: dict[int, int]) -> None:
        """Take what lies before *positions* for applied; before the topic is followed."""
        self._applied_to = {partition: offset - 1 for partition, offset in positions.items()}

    async def run(self, retry_s: float = 1.0) -> None:
        """Follow the topic until cancelled."""
        while True:
            table = self._connect()
            try:
                await table.open()
                await self._follow(table)
            except Unavailable as error:
                get_logger().warning("cannot follow the topic", topic=self._name, reason=str(error))
            finally:
                await asyncio.shield(table.close())
            await asyncio.sleep(retry_s)

    async def _follow(self, table: Table) -> None:
        while True:
            records = await table.poll()
            await self.apply_all(records)
            self.caught_up = self.caught_up or table.caught_up
            _LAG.labels(self._name).set(table.lag)
            if records and self.caught_up:
                await asyncio.sleep(self._pause_s)

    async def apply_all(self, records: Sequence[Record]) -> None:
        """Apply *records* in slices; those applied before change nothing, those that make no sense are counted."""
        started = time.perf_counter()
        for record in records:
            if record.offset <= self._applied_to.get(record.partition, -1):
                continue
            self._take_in(record)
            self._applied_to[record.partition] = record.offset
            if time.perf_counter() - started > _SLICE_S:
                await asyncio.sleep(0)
                started = time.perf_counter()
        _APPLIED.labels(self._name).inc(len(records))

    def _take_in(self, record: Record) -> None:
        try:
            self._apply(record)
        except NearlineError as error:
            reason = error.reason if isinstance(error, BadInput) else "space_mismatch"
            _REFUSED.labels(self._name, reason).inc()
            count = self._refused[reason] = self._refused.get(reason, 0) + 1
            if count % _REPORT_EVERY == 1:
                get_logger().error("a record was refused", topic=self._name, reason=str(error), so_far=count)


def item_records(catalogue: Catalogue, space: Space) -> Callable[[Record], None]:
    """What a record of ``item-vectors.<space>`` does to *catalogue*."""

    def apply(record: Record) -> None:
        if record.value is None:
            catalogue.purge(record.id)
        else:
            catalogue.apply(decode_item_vector(record.id, record.value, space))

    return apply


def popularity_records(catalogue: Catalogue) -> Callable[[Record], None]:
    """What a record of ``item-popularity`` does to *catalogue*."""

    def apply(record: Record) -> None:
        if record.value is None:
            catalogue.trending.unscore(record.id)
        else:
            catalogue.trending.score(record.id, decode_popularity(record.value).score)

    return apply


class Upkeep:
    """Folds the delta and builds graphs anew, whenever the index says that it is due."""

    def __init__(
        self, index: LiveIndex, loaded: Callable[[], bool], *, rest_s: float = 5.0, pause_s: float = 0.002
    ) -> None:
        self._pause_s = pause_s
        self._index = index
        self._loaded = loaded
        self.builds = 0  # graphs that were adopted and measured
        self._rest_s = rest_s
        self._built_at = self._measured_at = -rest_s
        self._measure_at = 200  # queries
        self._stopping = threading.Event()
        self._builder = ThreadPoolExecutor(1, "index-build", initializer=_yield_to_requests)

    async def run(self, idle_s: float = 0.05) -> None:
        """Keep the index small and quick until cancelled; a build under way is then called off."""
        try:
            while True:
                await asyncio.sleep(_SLICE_S if await self.step() else idle_s)
        finally:
            self._stopping.set()
            self._builder.shutdown()

    async def step(self) -> bool:
        """One piece of work, if any is due; return whether there was."""
        self._report()
        if self._loaded() and self._index.build_due and self._has_rested(self._built_at):
            await self._build()
            await self._measure()
            self.builds += 1
            return True
        if self._index.has_graph and self._index.asks >= self._measure_at and self._has_rested(self._measured_at):
            await self._measure()
        return self._fold()

    def _has_rested(self, since: float) -> bool:
        return time.monotonic() - since >= self._rest_s

    def _fold(self) -> bool:
        due = self._index.fold_due
        end = time.perf_counter() + _SLICE_S / 2
        while self._index.fold_due and time.perf_counter() < end:
            self._index.fold()
        return due

    async def _build(self) -> None:
        started = time.monotonic()
        build = self._index.start_build()
        try:
            while await self._in_thread(lambda: build.run(self._stopping.is_set)):
                if not self._index.extend(build):
                    self._index.adopt(build)
                    self._note(build, time.monotonic() - started)
                    return
        finally:
            self._index.drop(build)
            self._built_at = time.monotonic()

    def _note(self, build: Build, took_s: float) -> None:
        _BUILDS.inc()
        get_logger().info("built a graph", rows=len(build.slots), took_s=round(took_s, 1))

    async def _measure(self) -> None:
        """Settle on the least width that finds enough of a sample's true neighbours, one search every few ms."""
        self._measure_at = 2 * self._index.asks + 200
        sample = self._index.sample()
        truth = await self._in_thread(sample.truth)

        async def recall(width: float) -> float:
            hits = 0
            for query, true in zip(sample.queries, truth, strict=True):
                hits += self._index.hits(query, true, width)
                await asyncio.sleep(self._pause_s)
            return hits / max(1, sum(map(len, truth)))

        width = await least_width(self._index.width_per_result, recall)
        self._index.width_per_result = width
        self._measured_at = time.monotonic()
        _WIDTH.set(width)
        get_logger().info("measured the graph", width_per_result=width, queries=len(truth))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._builder, work)

    def _report(self) -> None:
        _ITEMS.set(self._index.live)
        _DELTA.set(self._index.delta_rows)
        _REMOVED.set(self._index.removed_rows)


def _yield_to_requests() -> None:
    """Give this thread a lower priority than the event loop's (Linux keeps one for each thread)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BUILD_NICE)
