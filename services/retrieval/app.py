"""The retrieval service: puts its parts together, serves until it is told to stop, and closes what it opened."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import uvicorn
import uvloop

from nearline.adapters.hnsw import HnswGraph
from nearline.adapters.http import bind, status_routes
from nearline.adapters.kafka import TableReader, log_extent
from nearline.adapters.stores import store_for
from nearline.errors import NearlineError
from nearline.settings import Settings, load_settings
from nearline.telemetry import configure_logs, get_logger
from nearline.topics import ITEM_POPULARITY, item_vectors_topic
from services.retrieval.api import create_app
from services.retrieval.catalogue import Catalogue
from services.retrieval.followers import Follower, item_records, popularity_records
from services.retrieval.graphs import SavedGraph
from services.retrieval.index import LiveIndex
from services.retrieval.keeping import Keeper
from services.retrieval.live_recall import LiveRecall
from services.retrieval.recommender import Recommender
from services.retrieval.store_guard import GuardedStore
from services.retrieval.upkeep import Upkeep

_SWITCH_S = 0.0005  # how long another thread (Kafka's, the builder's) may keep the interpreter from an answer

_TRENDING_PAUSE_S = 0.2  # trending may be this late; a poll for each click would cost answers their time


class Service:
    """The parts of one retrieval process."""

    def __init__(self, settings: Settings) -> None:
        space = settings.embedding_space
        self._settings = settings
        self._index = LiveIndex(
            space.dimension,
            lambda capacity: HnswGraph(space.dimension, capacity),
            cores=len(os.sched_getaffinity(0)),
        )
        catalogue = Catalogue(space.dimension, self._index)
        topic = item_vectors_topic(space)
        self._items = Follower(
            topic,
            lambda: TableReader(settings.kafka, topic, start_at=self._items.positions()),
            item_records(catalogue, space),
        )
        self._trending = Follower(
            ITEM_POPULARITY,
            lambda: TableReader(settings.kafka, ITEM_POPULARITY, start_at=self._trending.positions()),
            popularity_records(catalogue),
            pause_s=_TRENDING_PAUSE_S,
        )
        recall = LiveRecall(self._index, every_s=settings.recall_every_s)
        self._upkeep = Upkeep(self._index, lambda: self._items.caught_up, recall)
        self._keeper = self._make_keeper(settings.snapshots_folder, catalogue)
        store = store_for(
            settings.store_url, space, ttl_ms=settings.history_ttl_ms, read_ms=settings.store_timeout_ms, writer=False
        )
        self._store = GuardedStore(store)
        self._app = create_app(Recommender(catalogue, self._store, space), status_routes(self.readiness))

    def _make_keeper(self, folder: Path | None, catalogue: Catalogue) -> Keeper | None:
        if folder is None:
            return None
        settings, space = self._settings, self._settings.embedding_space

        def load(path: Path, saved: SavedGraph) -> HnswGraph:
            return HnswGraph.load(path, space.dimension, saved.capacity, count=saved.count, removed=saved.removed)

        return Keeper(
            folder,
            space,
            catalogue,
            (self._items, self._trending),
            lambda: log_extent(settings.kafka, (item_vectors_topic(space), ITEM_POPULARITY)),
            load,
            lambda: self._upkeep.builds,
            every_s=settings.snapshot_every_s,
        )

    async def _follow(self) -> None:
        """Start from the newest snapshot, if one is good, and follow the log from there until cancelled."""
        if self._keeper is not None:
            await self._keeper.resume()
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._items.run())
            parts.create_task(self._trending.run())
            if self._keeper is not None:
                parts.create_task(self._keeper.run())

    def readiness(self) -> Mapping[str, bool]:
        """What has to be true before requests should come here."""
        return {
            "item_vectors": self._items.caught_up,
            "trending": self._trending.caught_up,
            "store": self._store.answered,
        }

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; raise the error of a part that failed."""
        listener = bind(self._settings.host, self._settings.retrieval_port)
        server = _server(self._app)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
        try:
            async with asyncio.TaskGroup() as parts:
                background = [
                    parts.create_task(part)
                    for part in (
                        self._follow(),
                        self._upkeep.run(),
                        self._store.watch(),
                        _settle_memory(lambda: self._items.caught_up and self._trending.caught_up),
                    )
                ]
                get_logger().info("serving", port=listener.getsockname()[1], space=self._settings.space)
                await server.serve(sockets=[listener])
                for task in background:
                    task.cancel()
        finally:
            listener.close()
            await self._store.close()


def _server(app: object) -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="httptools",
        loop="uvloop",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        date_header=False,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    return server


async def _settle_memory(loaded: Callable[[], bool]) -> None:
    """Keep the collector out of the catalogue: with 100,000 items a full collection pauses answers for 0.1 s."""
    gc.set_threshold(50_000, 20, 100)
    while not loaded():
        await asyncio.sleep(0.1)
    gc.collect()
    gc.freeze()


def main() -> int:
    """Run the service; the exit status says whether it ended as it was told to."""
    status = 0
    try:
        settings = load_settings()
        configure_logs("retrieval", level=settings.log_level, style=settings.log_format)
        sys.setswitchinterval(_SWITCH_S)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Service(settings).serve())
    except* NearlineError as problems:
        status = 2
        for problem in problems.exceptions:
            print(f"retrieval: {problem}", file=sys.stderr)
    return status
