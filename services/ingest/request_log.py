"""Every request gets an id and is counted, whatever becomes of it."""

import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearline.request_counts import RouteCounts
from nearline.telemetry import LoggedRequest, get_logger, in_request, logs_requests
from services.ingest.api import RULES


class RequestLog:
    """Puts an ``x-request-id`` on every answer, the caller's or a new one, and counts the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._counts = RouteCounts(RULES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, traceparent = _request_id(scope), _header(scope, b"traceparent")
        in_request(LoggedRequest(request_id.decode("latin-1"), traceparent=traceparent))

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
                took_s = time.perf_counter() - started
                route = self._counts.note(scope["path"], message["status"], took_s)
                if logs_requests():
                    get_logger().debug("request", route=route, status=message["status"], took_ms=round(took_s * 1e3, 3))
            await send(message)

        await self._app(scope, receive, send_observed)


def _request_id(scope: Scope) -> bytes:
    """The caller's id if it is a short printable one, else a new one."""
    given = _header(scope, b"x-request-id")
    if 0 < len(given) <= 128 and given.isascii() and given.isprintable():
        return given.encode()
    return secrets.token_hex(8).encode()


def _header(scope: Scope, wanted: bytes) -> str:
    return next((bytes(value).decode("latin-1") for name, value in scope["headers"] if name == wanted), "")
