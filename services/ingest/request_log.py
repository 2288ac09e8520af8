"""Gives every request an id and counts it."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearline.request_counts import RouteCounts
from nearline.request_ids import HEADER, request_id_of
from nearline.telemetry import LoggedRequest, get_logger, in_request, logs_requests
from services.ingest.api import RULES


class RequestLog:
    """Adds an ``x-request-id`` to every answer, the caller's or a new one, and counts the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._counts = RouteCounts(RULES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, traceparent = request_id_of(scope["headers"]), _header(scope, b"traceparent")
        in_request(LoggedRequest(request_id, traceparent=traceparent))

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
                took_s = time.perf_counter() - started
                route = self._counts.note(scope["path"], message["status"], took_s)
                if logs_requests():
                    get_logger().debug("request", route=route, status=message["status"], took_ms=round(took_s * 1e3, 3))
            await send(message)

        await self._app(scope, receive, send_observed)


def _header(scope: Scope, wanted: bytes) -> str:
    return next((bytes(value).decode("latin-1") for name, value in scope["headers"] if name == wanted), "")
