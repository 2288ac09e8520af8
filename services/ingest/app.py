"""The ingest service: puts its parts together, serves until it is told to stop, and first lets out what it took on."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping
from functools import partial

import uvicorn
import uvloop

from nearline.adapters.doors import Doors
from nearline.adapters.http import bind, status_routes
from nearline.adapters.kafka import Producer, TableReader
from nearline.errors import Misconfigured, NearlineError
from nearline.guard import App
from nearline.process import follow, open_within, until
from nearline.settings import Settings, load_settings
from nearline.telemetry import configure_logs, get_logger
from nearline.topics import CLICKS, ITEMS
from services.ingest.api import RULES, create_api
from services.ingest.appender import Appender
from services.ingest.bodies import MIB, Bounds
from services.ingest.catalogue import Catalogue, Listing
from services.ingest.observed import Observed

_SWITCH_S = 0.0005  # how long a client's thread may keep the interpreter from the requests
_SLICE = 200  # records of the catalogue that are taken in at once: 2 ms


class Service:
    """The parts of one ingest process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        deadline_s = settings.ingest_ack_timeout_ms / 1000
        # One client for each topic: a large catalogue on its way must not delay a click.
        self._clicks = Producer(settings.brokers, delivery_s=deadline_s)
        self._changes = Producer(settings.brokers, delivery_s=deadline_s)
        self._reader = TableReader(settings.brokers, ITEMS, batch=_SLICE)
        self._events = Appender(CLICKS, self._clicks.send_all)
        self._items = Appender(ITEMS, self._changes.send_all)
        self._listing = Listing()
        self._ready = {"log": False, "items": False}
        catalogue = Catalogue(self._listing, self._items, is_read=lambda: self._ready["items"], turn_s=deadline_s)
        api = create_api(self._events, catalogue, status_routes(self.readiness), bounds_of(settings))
        self._doors = Doors(settings)
        self._app = Observed(self._doors.before(api, RULES))

    def readiness(self) -> Mapping[str, bool]:
        """What has to be true before requests should come here."""
        log = self._ready["log"] and self._events.is_up and self._items.is_up
        return {**self._ready, "log": log, **self._doors.readiness()}

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; raise the error of a part that failed."""
        listener = bind(self._settings.host, self._settings.ingest_port)
        try:
            async with contextlib.AsyncExitStack() as stack:
                await self._open(stack)
                server = _server(self._app, self._settings.ingest_ack_timeout_ms / 1000)
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, setattr, server, "should_exit", True)
                async with asyncio.TaskGroup() as parts:
                    background = [parts.create_task(part) for part in (self._follow(), self._doors.run())]
                    get_logger().info("serving", port=listener.getsockname()[1])
                    await server.serve(sockets=[listener])
                    for task in background:
                        task.cancel()
        finally:
            listener.close()

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        for topic, producer in ((CLICKS, self._clicks), (ITEMS, self._changes)):
            stack.push_async_callback(producer.close)
            await open_within(self._settings.startup_deadline_s, "the log", producer.open)
            await open_within(self._settings.startup_deadline_s, f"topic {topic}", partial(producer.prepare, topic))
        # Before the clients are closed: what was accepted and not answered yet is still on its way.
        stack.push_async_callback(self._items.drain)
        stack.push_async_callback(self._events.drain)
        stack.push_async_callback(self._reader.close)
        await open_within(self._settings.startup_deadline_s, "the catalogue", self._reader.open)
        self._ready["log"] = True

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(follow(self._reader.poll, self._listing.apply))
            await until(lambda: self._reader.caught_up)
            self._ready["items"] = True


def bounds_of(settings: Settings) -> Bounds:
    """The bounds of bodies; ``Misconfigured`` if the largest body would never find room."""
    if settings.ingest_in_flight_mib < settings.ingest_body_mib:
        raise Misconfigured(
            f"NEARLINE_INGEST_IN_FLIGHT_MIB={settings.ingest_in_flight_mib:g} is less than "
            f"NEARLINE_INGEST_BODY_MIB={settings.ingest_body_mib:g}: the largest body would never be taken on"
        )
    return Bounds(body=int(settings.ingest_body_mib * MIB), in_flight=int(settings.ingest_in_flight_mib * MIB))


def _server(app: App, grace_s: float) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        date_header=False,
        timeout_graceful_shutdown=round(grace_s) + 1,
        # Longer than callers and balancers keep idle connections (60 s): who hangs up first loses no request.
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    return server


def main() -> int:
    """Run the service; the exit status says whether it ended as it was told to."""
    status = 0
    try:
        settings = load_settings()
        configure_logs("ingest", level=settings.log_level, style=settings.log_format)
        sys.setswitchinterval(_SWITCH_S)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Service(settings).serve())
    except* NearlineError as problems:
        status = 2
        for problem in problems.exceptions:
            print(f"ingest: {problem}", file=sys.stderr)
    return status
