"""The retrieval service: puts its parts together, serves until it is told to stop, and closes what it opened."""

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import uvicorn
from starlette.types import Scope

from nearline.adapters.doors import Doors
from nearline.adapters.http import bind, run_service, server_of, status_routes
from nearline.adapters.indexes import engine_for
from nearline.adapters.kafka import TableReader, log_extent
from nearline.adapters.queueing import never, queueing
from nearline.adapters.seals import Seal, secret_of
from nearline.adapters.spans import spans_for
from nearline.adapters.stores import store_for
from nearline.errors import Unavailable
from nearline.followers import Follower
from nearline.process import RETRY_S
from nearline.reasons import reasons_of
from nearline.request_counts import Counted
from nearline.settings import Settings
from nearline.shedding import Gate
from nearline.telemetry import get_logger
from nearline.topics import user_updates_topic
from services.retrieval.api import RULES, create_app
from services.retrieval.fast_path import waits_for_nothing
from services.retrieval.items.interface import ItemIndex
from services.retrieval.items.text_index import TextIndex
from services.retrieval.pages import LIVES_S, Pages
from services.retrieval.recommender import Recommender
from services.retrieval.routes.parts import ReadParts
from services.retrieval.rule_parts import RuleParts
from services.retrieval.session_vectors import KnownItems
from services.retrieval.store_guard import GuardedStore
from services.retrieval.traced import TracedClicks


class Items(Protocol):
    """Where items are: in this process (in_process/) or in an engine of their own (in_engine/)."""

    @property
    def index(self) -> ItemIndex:
        """What answers are chosen from."""

    @property
    def known(self) -> KnownItems | None:
        """The items' history vectors, where they are in this process."""

    @property
    def texts(self) -> TextIndex | None:
        """The items' words, where they are in this process and are searched."""

    def readiness(self) -> Mapping[str, bool]:
        """What has to be true before requests should come here."""

    async def run(self) -> None:
        """Keep the items true until cancelled."""

    async def close(self) -> None:
        """Let go of what is open."""


class Service:
    """The parts of one retrieval process."""

    def __init__(self, settings: Settings) -> None:
        space = settings.embedding_space
        self._settings = settings
        self._items = _items_for(settings)
        store = store_for(
            settings.store_url,
            space,
            ttl_ms=settings.history_ttl_ms,
            read_ms=settings.store_timeout_ms,
            writer=False,
            tls=settings.store_security,
        )
        self._store = GuardedStore(store)
        self._doors = Doors(settings)
        self._rules = RuleParts(settings)
        secret = secret_of(settings.page_secret.get_secret_value(), settings.data / "page-secret")
        index = self._items.index
        self._spans = spans_for(settings, "retrieval")
        recommender = Recommender(
            index,
            self._store,
            space,
            pages=Pages(Seal(secret, "page", lives_s=LIVES_S), space),
            rulebook=self._rules.rulings,
            exposures=self._rules.exposures,
            budget_ms=settings.budget_ms,
            is_hearing=lambda: self._updates.caught_up,
            traced=None if self._spans is None else TracedClicks(self._spans),
        )
        self._reads = ReadParts(
            settings, index, self._store, recommender, known=self._items.known, texts=self._items.texts
        )
        topic = user_updates_topic(space)
        self._updates = Follower(
            topic,
            lambda: TableReader(settings.brokers, topic, start_at=self._updates.positions()),
            self._reads.hearing(recommender.reading.hear),
            reasons=reasons_of("ids", "user_updates"),
        )
        app = create_app(recommender, status_routes(self.readiness), self._reads.reads, rulings=self._rules.rulings)
        self._app = Counted(self._doors.before(app, RULES), RULES)
        self._waits_for_nothing = never if index.is_remote or self._store.is_remote else waits_for_nothing

    def readiness(self) -> Mapping[str, bool]:
        """What has to be true before requests should come here."""
        store = {"store": self._store.answered}
        return {**self._items.readiness(), **store, **self._rules.readiness(), **self._doors.readiness()}

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; raise the error of a part that failed."""
        listener = bind(self._settings.host, self._settings.retrieval_port)
        server = _server(self._app, self._waits_for_nothing)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
        try:
            async with asyncio.TaskGroup() as parts:
                background = [
                    parts.create_task(part)
                    for part in (
                        self._items.run(),
                        self._store.watch(),
                        self._doors.run(),
                        self._rules.run(),
                        self._reads.run(),
                        self._hear(),
                        _settle_memory(lambda: all(self._items.readiness().values())),
                    )
                ]
                get_logger().info("serving", port=listener.getsockname()[1], space=self._settings.space)
                await server.serve(sockets=[listener])
                for task in background:
                    task.cancel()
        finally:
            listener.close()
            await self._rules.close()
            await self._store.close()
            await self._items.close()
            if self._spans is not None:
                await self._spans.close()

    async def _hear(self) -> None:
        """Follow the users' updates, from now on: what was written before is read with the documents."""
        topic = self._updates.name
        while True:
            try:
                extent = await log_extent(self._settings.brokers, [topic])
                break
            except Unavailable as error:
                get_logger().warning("cannot hear of updates yet", reason=str(error))
                await asyncio.sleep(RETRY_S)
        self._updates.start_at(dict(extent.topics[topic].end))
        await self._updates.run()


def _items_for(settings: Settings) -> Items:
    """What ``NEARLINE_INDEX`` names; the libraries of the other kind are not imported."""
    engine = engine_for(settings.index, settings.embedding_space, read_ms=settings.index_timeout_ms)
    if engine is None:
        from services.retrieval.in_process.parts import InProcess

        return InProcess(settings)
    from services.retrieval.in_engine.parts import InEngine

    return InEngine(settings, engine)


def _server(app: object, waits_for_nothing: Callable[[Scope], bool]) -> uvicorn.Server:
    loop = asyncio.get_running_loop()
    return server_of(
        app,
        # Not the loop's own clock: uvloop's stands still for a turn and counts milliseconds.
        http=queueing(lambda: Gate(loop.call_soon, time.perf_counter), waits_for_nothing),
        date_header=False,
        timeout_graceful_shutdown=3,
    )


async def _settle_memory(loaded: Callable[[], bool]) -> None:
    """Keep the collector out of the catalogue: with 100,000 items a full collection pauses answers for 0.1 s."""
    gc.set_threshold(50_000, 20, 100)
    while not loaded():
        await asyncio.sleep(0.1)
    gc.collect()
    gc.freeze()


def main() -> int:
    """Run the service; the exit status says whether it ended as it was told to."""
    return run_service("retrieval", lambda settings: Service(settings).serve())
