"""The retrieval service: builds its parts, serves until a signal stops it, and closes what it opened."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import uvicorn
from starlette.types import Scope

from nearline.adapters.http import bind, run_service, serve_app, server_of, status_routes
from nearline.adapters.http_front import API_HEADERS, HttpFront
from nearline.adapters.indexes import engine_for
from nearline.adapters.kafka.admin import log_extent
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.queueing import never, queueing
from nearline.adapters.signed_tokens import SignedTokens, secret_of
from nearline.adapters.span_exporters import spans_for
from nearline.adapters.stores import store_for
from nearline.errors import Unavailable
from nearline.followers import Follower
from nearline.process import RETRY_S, settle_memory, until
from nearline.reasons import reasons_of
from nearline.request_counts import Counted
from nearline.settings import Settings
from nearline.shedding import Gate
from nearline.space import Space
from nearline.store import UserStore
from nearline.telemetry import get_logger
from nearline.topics import user_updates_topic
from nearline.tracing import Spans
from services.retrieval.api import RULES, create_app
from services.retrieval.fast_path import waits_for_nothing
from services.retrieval.items.interface import ItemIndex
from services.retrieval.items.text_index import TextIndex
from services.retrieval.merchandising.wiring import Merchandising
from services.retrieval.pages import LIVES_S, PageTokens
from services.retrieval.recommender import Recommender
from services.retrieval.routes.read_parts import ReadParts
from services.retrieval.users.reader import UserReader
from services.retrieval.users.session_vectors import KnownItems
from services.retrieval.users.store_guard import GuardedStore
from services.retrieval.users.trace_ends import TracedClicks
from services.retrieval.users.waiters import Waiters

# Updates of users are read in batches while no request waits for one: one by one they cost 0.3 ms each.
_PAUSE_S = 0.2


class ServedItems(Protocol):
    """The items that answers are chosen from: in this process (in_process/) or in a remote engine (in_engine/)."""

    @property
    def index(self) -> ItemIndex:
        """The index of all available items."""

    @property
    def known(self) -> KnownItems | None:
        """The items' history vectors; ``None`` if items are in an engine."""

    @property
    def texts(self) -> TextIndex | None:
        """The text index; ``None`` if items are in an engine or text search is off."""

    def readiness(self) -> Mapping[str, bool]:
        """The conditions of ``/readyz``: all must hold before this process gets requests."""

    async def run(self) -> None:
        """Keep the items up to date until cancelled."""

    async def close(self) -> None:
        """Close connections and files."""


class SpaceParts:
    """The parts of one embedding space: items, store, tower, and the follower of its updates."""

    def __init__(self, settings: Settings, space: Space, rules: Merchandising, spans: Spans | None) -> None:
        self._settings = settings
        self.items = _items_for(settings, space)
        self.store = GuardedStore(_store_for(settings, space))
        traced = None if spans is None else TracedClicks(spans)
        waiters = Waiters(hurry=lambda: self._updates.hurry())
        users = UserReader(
            self.store, space, waiters=waiters, is_hearing=lambda: self._updates.caught_up, traced=traced
        )
        self.pages = PageTokens(SignedTokens(_secret_of(settings), "page", lives_s=LIVES_S), space)
        self.recommender = Recommender(
            self.items.index,
            users,
            space,
            pages=self.pages,
            rules=rules.resolver,
            exposures=rules.exposures,
            budget_ms=settings.budget_ms,
            traced=traced,
        )
        self.reads = ReadParts(
            settings,
            space,
            self.items.index,
            self.store,
            self.recommender,
            known=self.items.known,
            texts=self.items.texts,
        )
        topic = user_updates_topic(space)
        self._updates = Follower(
            topic,
            lambda: TableReader(settings.brokers, topic, start_at=self._updates.positions()),
            self.reads.hearing(users.heard),
            # A trace ends with the first answer that used its click: with traces, each update is read at once.
            pause_s=_PAUSE_S if spans is None else 0.0,
            is_awaited=lambda: len(waiters) > 0,
            reasons=reasons_of("ids", "user_updates"),
        )

    @property
    def is_remote(self) -> bool:
        """Whether an answer waits for another process."""
        return self.items.index.is_remote or self.store.is_remote

    def readiness(self) -> Mapping[str, bool]:
        """The conditions of ``/readyz``: all must hold before this process gets requests."""
        return {**self.items.readiness(), "store": self.store.answered}

    def running(self) -> list[Coroutine[Any, Any, None]]:
        """The background tasks that run while requests are served."""
        return [self.items.run(), self.store.watch(), self.reads.run(), self._follow_updates()]

    async def _follow_updates(self) -> None:
        """Follow the users' updates from now on; earlier writes are in the documents that each answer reads."""
        topic = self._updates.name
        while True:
            try:
                extent = await log_extent(self._settings.brokers, [topic])
                break
            except Unavailable as error:
                get_logger().warning("cannot follow updates yet", reason=str(error))
                await asyncio.sleep(RETRY_S)
        self._updates.start_at(dict(extent.topics[topic].end))
        await self._updates.run()


class RetrievalService:
    """The parts of one retrieval process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._front = HttpFront(settings)
        self._rules = Merchandising(settings)
        self._spans = spans_for(settings, "retrieval")
        self._live = live = SpaceParts(settings, settings.embedding_space, self._rules, self._spans)
        self._spaces = [live]  # more than one: behind a SpaceSwitch (spaces.py)
        app = create_app(live.recommender, status_routes(self.readiness), live.reads.reads, rules=self._rules.resolver)
        self._app = Counted(self._front.before(app, RULES), RULES)
        self._waits_for_nothing = never if any(each.is_remote for each in self._spaces) else waits_for_nothing

    def readiness(self) -> Mapping[str, bool]:
        """The conditions of ``/readyz``: all must hold before this process gets requests."""
        return {**self._live.readiness(), **self._rules.readiness(), **self._front.readiness()}

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; raise the error of a part that failed."""
        async with contextlib.AsyncExitStack() as stack:
            listener = bind(self._settings.host, self._settings.retrieval_port)
            if self._spans is not None:
                stack.push_async_callback(self._spans.close)
            for each in self._spaces:
                stack.push_async_callback(each.items.close)
                stack.push_async_callback(each.store.close)
            stack.push_async_callback(self._rules.close)
            stack.callback(listener.close)
            running = [part for each in self._spaces for part in each.running()]
            settle = _settle_memory(lambda: all(self._live.items.readiness().values()))
            background = (*running, self._front.run(), self._rules.run(), settle)
            server = _server(self._app, self._waits_for_nothing)
            await serve_app(server, listener, background, space=self._settings.space)


def _store_for(settings: Settings, space: Space) -> UserStore:
    return store_for(
        settings.store_url,
        space,
        ttl_ms=settings.history_ttl_ms,
        read_ms=settings.store_timeout_ms,
        writer=False,
        tls=settings.store_security,
    )


def _secret_of(settings: Settings) -> bytes:
    file = settings.page_secret_file or settings.data / "page-secret"
    return secret_of(settings.page_secret.get_secret_value(), file)


def _items_for(settings: Settings, space: Space) -> ServedItems:
    """The items as ``NEARLINE_INDEX`` configures them; the libraries of the other kind are not imported."""
    engine = engine_for(settings.index, space, read_ms=settings.index_timeout_ms)
    if engine is None:
        from services.retrieval.in_process.local_items import LocalItems

        return LocalItems(settings, space)
    from services.retrieval.in_engine.remote_items import RemoteItems

    return RemoteItems(settings, space, engine)


def _server(app: object, waits_for_nothing: Callable[[Scope], bool]) -> uvicorn.Server:
    loop = asyncio.get_running_loop()
    return server_of(
        app,
        # Not the loop's own clock: uvloop's has milliseconds and does not advance within a turn.
        http=queueing(lambda: Gate(loop.call_soon, time.perf_counter), waits_for_nothing),
        date_header=False,
        headers=API_HEADERS,
        timeout_graceful_shutdown=3,
    )


async def _settle_memory(loaded: Callable[[], bool]) -> None:
    """Exclude the catalogue from garbage collection once it is loaded."""
    await until(loaded, every_s=0.1)
    settle_memory()


def main() -> int:
    """Run the service; the exit status is 0 if a signal stopped it."""
    return run_service("retrieval", lambda settings: RetrievalService(settings).serve())
