"""HTTP servers on uvicorn: a service's own, and a part's small status server (/healthz, /readyz, /metrics)."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any

import uvicorn
import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nearline.adapters.connections import HeadBounds, bounded
from nearline.errors import Misconfigured, NearlineError
from nearline.process import raise_open_files
from nearline.settings import Settings, load_settings
from nearline.telemetry import configure_logs, get_logger

_SWITCH_S = 0.0005  # how long another thread (a client's, a builder's) may hold the interpreter while an answer waits
_PIECE = 40  # samples of the metrics page printed in one piece, in less than a millisecond

Readiness = Callable[[], Mapping[str, bool]]


class Text(PathConvertor):
    """The rest of a path, with any character: starlette's ends at a line break, and bad ids need their own error."""

    regex = r"[\s\S]*"


register_url_convertor("text", Text())  # for the ids in every service's routes: {item_id:text}


def status_routes(readiness: Readiness) -> list[Route]:
    """The status routes of every service; ``/readyz`` is 503 until every part of *readiness* is true."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        parts = readiness()
        ready = all(parts.values())
        return JSONResponse({"ready": ready, "parts": dict(parts)}, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(await metrics_page(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


async def metrics_page(registry: CollectorRegistry = REGISTRY) -> bytes:
    """All metrics in Prometheus' format, printed in pieces: 20 ms of printing at once would delay an answer."""
    pieces = []
    for metric in registry.collect():
        for start in range(0, len(metric.samples) or 1, _PIECE):
            pieces.append(_print_some(metric, start))
            await asyncio.sleep(0)
    return b"".join(pieces)


def _print_some(metric: Metric, start: int) -> bytes:
    """The samples from number *start* on; the first piece begins with the metric's two lines of description."""
    some = Metric(metric.name, metric.documentation, metric.type)
    some.samples = metric.samples[start : start + _PIECE]
    printed = generate_latest(_Only(some))
    return printed if start == 0 else printed.split(b"\n", 2)[2]


class _Only(Collector):
    """A registry of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


@contextlib.asynccontextmanager
async def status_server(
    host: str, port: int, readiness: Readiness, bounds: HeadBounds | None = None
) -> AsyncIterator[None]:
    """Serve the status routes while the block runs; ``Misconfigured`` if the port is taken."""
    app = Starlette(routes=status_routes(readiness))
    server = uvicorn.Server(
        uvicorn.Config(app, http=bounded(bounds), log_config=None, access_log=False, lifespan="off")  # type: ignore[arg-type]
    )
    listener = bind(host, port)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; ``Misconfigured``, naming the port and what to do, if it is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Misconfigured(
            f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it or set another port"
        ) from None
    return listener


def server_of(app: Any, **more: Any) -> uvicorn.Server:
    """The server of a service's own *app*, whose signals and logs are the service's; *more* is for uvicorn's Config."""
    usual = {"http": bounded(), "loop": "uvloop", "log_config": None, "access_log": False, "lifespan": "off"}
    config = uvicorn.Config(app, **{**usual, "server_header": False, "proxy_headers": False, **more})
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    return server


async def serve_app(
    server: uvicorn.Server, listener: socket.socket, background: Iterable[Coroutine[Any, Any, None]], **about: object
) -> None:
    """Serve on *listener* until SIGTERM or SIGINT, while *background* runs; raise the error of a part that failed.

    When it returns or raises, *background* has ended: what it used may be closed. *about* is logged.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    async with asyncio.TaskGroup() as parts:
        tasks = [parts.create_task(part) for part in background]
        get_logger().info("serving", port=listener.getsockname()[1], **about)
        await server.serve(sockets=[listener])
        for task in tasks:
            task.cancel()


def run_service(name: str, serve: Callable[[Settings], Coroutine[Any, Any, None]]) -> int:
    """Run *serve* on its own loop and return the exit status: 2, with the message printed, after an error of ours."""
    status = 0
    try:
        settings = load_settings()
        configure_logs(name, **settings.log_options)
        raise_open_files()
        sys.setswitchinterval(_SWITCH_S)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except* NearlineError as problems:
        status = 2
        for problem in problems.exceptions:
            print(f"{name}: {problem}", file=sys.stderr)
    return status
