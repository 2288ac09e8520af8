"""When snapshots are taken and used: at the start, after each build, every few minutes, and at the end."""

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
_LAST_S = 5.0  # a snapshot at the end that takes longer is given up: whoever stops us may kill us
_WRITTEN = counter("index_snapshots_written_total", "Snapshots of the index that were written")
_FAILED = counter("index_snapshots_failed_total", "Snapshots of the index that could not be written")
_HELD = gauge("index_snapshot_held_seconds", "How long taking the newest snapshot kept requests waiting")


class Followed(Protocol):
    """A topic that is read from an offset on (nearline/followers.py: Follower)."""

    name: str
    caught_up: bool

    def positions(self) -> dict[int, int]:
        """The next offset of each partition of which anything was read."""

    def start_at(self, positions: dict[int, int]) -> None:
        """Take what lies before *positions* for read."""


class SnapshotSchedule:
    """Takes snapshots of a catalogue and of how far its topics were read, and fills it from the newest good one."""

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
        """Fill the catalogue from the newest snapshot that fits the log; whether there was one.

        Waits for the log, which alone can tell. Until the followers have caught up nobody is answered from this.
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
                get_logger().warning("cannot tell which snapshot fits the log", reason=str(error))
            await asyncio.sleep(_RETRY_S)

    def _use(self, snapshot: Snapshot) -> bool:
        try:
            snapshots.restore(snapshot, self._catalogue, self._load_graph)
        except (ValueError, KeyError, TypeError, IndexError, NearlineError) as error:
            snapshots.refuse(snapshot.folder, SnapshotRefused("damaged", f"it cannot be restored: {error!r:.200}"))
            self._catalogue.clear()
            return False
        if not snapshot.has_histories:  # what it lacks is in the log, all of it; until that is read nobody is answered
            get_logger().info("the snapshot has no history vectors; reading the log from its beginning")
            return True
        for topic in self._followed:
            topic.start_at(dict(snapshot.taken.next_offsets.get(topic.name, {})))
        self._kept = snapshot.taken.next_offsets
        return True

    async def run(self, look_s: float = 1.0) -> None:
        """Take snapshots when they are due until cancelled, and a last one then."""
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
        """Whether a graph was built since the last snapshot, or something changed and the time has come."""
        timely = time.monotonic() - self._kept_at >= self._every_s
        return self._changed and (timely or self._builds() != self._kept_builds)

    @property
    def _changed(self) -> bool:
        """Whether a snapshot would hold what the last one does not; none is taken before all topics are read."""
        ready = self._log is not None and all(topic.caught_up for topic in self._followed)
        return ready and (self._builds() != self._kept_builds or self._positions() != self._kept)

    def _positions(self) -> TopicOffsets:
        return {topic.name: topic.positions() for topic in self._followed}

    async def take(self, *, deadline_s: float = 60.0) -> bool:
        """Write a snapshot of this moment; whether it was written. A failure is logged and counted."""
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
