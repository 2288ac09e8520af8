"""The ingest service: builds its parts, serves, and drains accepted events before it stops."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import uvicorn

from nearline.adapters.http import bind, run_service, serve_app, server_of, status_routes
from nearline.adapters.http_front import API_HEADERS, HttpFront
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.span_exporters import spans_for
from nearline.errors import Misconfigured
from nearline.guard import AsgiApp
from nearline.items import decode_item
from nearline.process import follow, open_within, until
from nearline.profiles import decode_profile
from nearline.settings import Settings
from nearline.topics import CLICKS, ITEMS, USERS
from nearline.tracing import ClickTraces
from services.ingest.api import RULES, create_api
from services.ingest.appender import Appender
from services.ingest.bodies import MIB, Bounds
from services.ingest.catalogue_editor import CatalogueEditor
from services.ingest.request_log import RequestLog
from services.ingest.table_view import TableView
from services.ingest.user_editor import UserEditor

_SLICE = 200  # records of a table that are applied at once: 2 ms


@dataclass(frozen=True, slots=True)
class _Table:
    """A compacted topic: its appender, its view and its follower."""

    topic: str
    producer: Producer
    appender: Appender
    reader: TableReader
    view: TableView


class IngestService:
    """The parts of one ingest process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        deadline_s = settings.ingest_ack_timeout_ms / 1000
        # One client per topic: a large catalogue import must not delay a click.
        self._clicks = Producer(settings.brokers, delivery_s=deadline_s)
        self._events = Appender(CLICKS, self._clicks.send_all)
        self._items = _table(settings, ITEMS, decode_item)
        self._users = _table(settings, USERS, decode_profile)
        self._ready = {"log": False, ITEMS: False, USERS: False}
        catalogue = CatalogueEditor(
            self._items.view, self._items.appender, is_read=lambda: self._ready[ITEMS], turn_s=deadline_s
        )
        users = UserEditor(
            self._users.view,
            self._users.appender,
            self._events,
            is_read=lambda: self._ready[USERS],
        )
        self._spans = spans_for(settings, "ingest")
        traces = None if self._spans is None else ClickTraces(self._spans, settings.traces_share)
        status = status_routes(self.readiness)
        api = create_api(self._events, catalogue, users, status, bounds_of(settings), traces=traces)
        self._front = HttpFront(settings)
        self._app = RequestLog(self._front.before(api, RULES))

    def readiness(self) -> Mapping[str, bool]:
        """The conditions for receiving requests."""
        appenders = (self._events, self._items.appender, self._users.appender)
        log = self._ready["log"] and all(one.is_up for one in appenders)
        return {**self._ready, "log": log, **self._front.readiness()}

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; raise the error of a part that failed."""
        async with contextlib.AsyncExitStack() as stack:
            listener = bind(self._settings.host, self._settings.ingest_port)
            stack.callback(listener.close)
            await self._open(stack)
            follows = [self._follow(table) for table in (self._items, self._users)]
            server = _server(self._app, self._settings.ingest_ack_timeout_ms / 1000)
            await serve_app(server, listener, (*follows, self._front.run()))

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        deadline_s = self._settings.startup_deadline_s
        if self._spans is not None:
            stack.push_async_callback(self._spans.close)
        tables = (self._items, self._users)
        for topic, producer in ((CLICKS, self._clicks), *((table.topic, table.producer) for table in tables)):
            stack.push_async_callback(producer.close)
            await open_within(deadline_s, "the log", producer.open)
            await open_within(deadline_s, f"topic {topic}", partial(producer.prepare, topic))
        # Before the clients are closed: accepted requests may still wait for the log.
        for appender in (self._events, self._items.appender, self._users.appender):
            stack.push_async_callback(appender.drain)
        for table in tables:
            stack.push_async_callback(table.reader.close)
            await open_within(deadline_s, f"topic {table.topic}", table.reader.open)
        self._ready["log"] = True

    async def _follow(self, table: _Table) -> None:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(follow(table.reader.poll, table.view.apply))
            await until(lambda: table.reader.caught_up)
            table.view.end_of_history()
            self._ready[table.topic] = True


def _table(settings: Settings, topic: str, check: Callable[[bytes], object]) -> _Table:
    producer = Producer(settings.brokers, delivery_s=settings.ingest_ack_timeout_ms / 1000)
    reader = TableReader(settings.brokers, topic, batch=_SLICE)
    return _Table(
        topic,
        producer,
        Appender(topic, producer.send_all),
        reader,
        TableView(topic, check, partitions=settings.partitions),
    )


def bounds_of(settings: Settings) -> Bounds:
    """The bounds of bodies; ``Misconfigured`` if the largest allowed body would never find room."""
    if settings.ingest_in_flight_mib < settings.ingest_body_mib:
        raise Misconfigured(
            f"NEARLINE_INGEST_IN_FLIGHT_MIB={settings.ingest_in_flight_mib:g} is less than "
            f"NEARLINE_INGEST_BODY_MIB={settings.ingest_body_mib:g}: the largest body would never be accepted"
        )
    return Bounds(body=int(settings.ingest_body_mib * MIB), in_flight=int(settings.ingest_in_flight_mib * MIB))


def _server(app: AsgiApp, grace_s: float) -> uvicorn.Server:
    return server_of(
        app,
        date_header=False,
        headers=API_HEADERS,
        timeout_graceful_shutdown=round(grace_s) + 1,
        # Longer than callers and balancers keep idle connections (60 s): the side that closes first loses no request.
        timeout_keep_alive=75,
    )


def main() -> int:
    """Run the service and return the exit status."""
    return run_service("ingest", lambda settings: IngestService(settings).serve())
