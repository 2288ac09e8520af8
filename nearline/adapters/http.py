"""The small HTTP server beside a service's loop: /healthz, /readyz and /metrics, by starlette and uvicorn."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nearline.errors import Misconfigured

Readiness = Callable[[], Mapping[str, bool]]


def status_routes(readiness: Readiness) -> list[Route]:
    """The routes that every service answers; ``/readyz`` is 503 until every part of *readiness* is true."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        parts = readiness()
        ready = all(parts.values())
        return JSONResponse({"ready": ready, "parts": dict(parts)}, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


@contextlib.asynccontextmanager
async def status_server(host: str, port: int, readiness: Readiness) -> AsyncIterator[None]:
    """Serve the status routes while the block runs; ``Misconfigured`` if the port is taken."""
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=status_routes(readiness)), log_config=None, access_log=False, lifespan="off")
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
    """A listening socket, or ``Misconfigured`` naming the port and what to do."""
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
