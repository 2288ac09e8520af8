"""Takes snapshots after each build, every few minutes and at the end, and restores the newest at the start."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from nearline.errors import NearlineError, Unavailable
from nearline.log import Extent
from nearline.space import Space
from nearline.telemetry import counter, gauge, get_logger
from services.retrieval.in_process import snapshots
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.forking import in_fork
from services.retrieval.in_process.snapshots import LoadGraph, Snapshot, SnapshotRefused, Taken, TopicOffsets

_RETRY_S = 1.0
_LAST_S = 5.0  # the last snapshot is abandoned after this: a supervisor may kill a process that stops slowly
_WRITTEN = counter("index_snapshots_written_total", "Snapshots of the index that were written")
_FAILED = counter("index_snapshots_failed_total", "Snapshots of the index that could not be written")
_HELD = gauge("index_snapshot_held_seconds", "How long the fork for the newest snapshot kept requests waiting")


class Followed(Protocol):
    """A topic that is read from given offsets on (nearline/followers.py: Follower)."""

    name: str
    caught_up: bool

    def positions(self) -> dict[int, int]:
        """The next offset of each partition from which records were read."""

    def start_at(self, positions: dict[int, int]) -> None:
        """Start reading at *positions*."""


class SnapshotSchedule:
    """Takes snapshots of a catalogue and its topics' offsets, and restores the newest usable one."""

    def __init__(
        self,
        folder: Path,
        space: Space,
        catalogue: Catalogue,
        followed: Sequence[Followed],
        extent: Callable[[], Awaitable[Extent]],
        load_graph: LoadGraph,
        builds: Callable[[], int],
        *,
        every_s: float = 300.0,
    ) -> None:
        self._folder = folder
        self._space = space
        self._catalogue = catalogue
        self._followed = followed
        self._extent = extent
        self._load_graph = load_graph
        self._every_s = every_s
        self._log: Extent | None = None
        self._kept: TopicOffsets = {}
        self._kept_at = time.monotonic()
        self._builds = builds  # how many graphs were adopted so far
        self._kept_builds = 0

    async def resume(self) -> bool:
        """Fill the catalogue from the newest snapshot that fits the log; return whether there was one.

        Waits for the log, which is needed to check a snapshot. The process is not ready until the followers have caught
        up.
        """
        self._log = await self._reached()
        now = time.time()
        snapshots.tidy(self._folder, now)
        started = time.monotonic()
        for snapshot in snapshots.newest(self._folder, self._space, self._log, int(now * 1000)):
            if self._use(snapshot):
                took_s = round(time.monotonic() - started, 2)
                get_logger().info("restored a snapshot", items=len(self._catalogue), took_s=took_s)
                return True
        get_logger().info("no snapshot to start from; reading the log from its beginning", folder=str(self._folder))
        return False

    async def _reached(self) -> Extent:
        while True:
            try:
                return await self._extent()
            except Unavailable as error:
                get_logger().warning("cannot check snapshots without the log", reason=str(error))
            await asyncio.sleep(_RETRY_S)

    def _use(self, snapshot: Snapshot) -> bool:
        try:
            snapshots.restore(snapshot, self._catalogue, self._load_graph)
        except (ValueError, KeyError, TypeError, IndexError, NearlineError) as error:
            snapshots.refuse(snapshot.folder, SnapshotRefused("damaged", f"it cannot be restored: {error!r:.200}"))
            self._catalogue.clear()
            return False
        if not snapshot.has_histories:  # the log has them; the process is not ready until that is read
            get_logger().info("the snapshot has no history vectors; reading the log from its beginning")
            return True
        for topic in self._followed:
            topic.start_at(dict(snapshot.taken.next_offsets.get(topic.name, {})))
        self._kept = snapshot.taken.next_offsets
        return True

    async def run(self, look_s: float = 1.0) -> None:
        """Take snapshots when they are due until cancelled, and then a last one."""
        try:
            while True:
                await asyncio.sleep(look_s)
                if self.due:
                    await self.take()
        finally:
            if self._changed:
                await asyncio.shield(self.take(deadline_s=_LAST_S))

    @property
    def due(self) -> bool:
        """Whether a graph was built since the last snapshot, or something changed and *every_s* has passed."""
        timely = time.monotonic() - self._kept_at >= self._every_s
        return self._changed and (timely or self._builds() != self._kept_builds)

    @property
    def _changed(self) -> bool:
        """Whether a snapshot would differ from the last one; false until all topics are read."""
        ready = self._log is not None and all(topic.caught_up for topic in self._followed)
        return ready and (self._builds() != self._kept_builds or self._positions() != self._kept)

    def _positions(self) -> TopicOffsets:
        return {topic.name: topic.positions() for topic in self._followed}

    async def take(self, *, deadline_s: float = 60.0) -> bool:
        """Write a snapshot of the current state; return whether it was written. A failure is logged and counted."""
        if self._log is None:
            return False
        taken = Taken(int(time.time() * 1000), self._space, self._log, self._positions())
        builds, started = self._builds(), time.monotonic()
        self._kept_at = started
        self._kept_builds = builds
        try:
            held_s = await in_fork(lambda: snapshots.write(self._folder, self._catalogue, taken), deadline_s=deadline_s)
        except (Unavailable, OSError) as error:
            _FAILED.inc()
            get_logger().error("a snapshot could not be written", folder=str(self._folder), reason=str(error))
            return False
        self._kept = taken.next_offsets
        _WRITTEN.inc()
        _HELD.set(held_s)
        took_s = round(time.monotonic() - started, 2)
        get_logger().info("wrote a snapshot", items=len(self._catalogue), took_s=took_s, held_s=round(held_s, 4))
        return True
