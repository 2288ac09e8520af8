"""Every request gets an id and is counted, whatever becomes of it."""

import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearline.request_counts import RouteCounts
from services.ingest.api import RULES


class Observed:
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
        request_id = _request_id(scope)

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
                self._counts.note(scope["path"], message["status"], time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, send_observed)


def _request_id(scope: Scope) -> bytes:
    """The caller's id if it is a short printable one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = bytes(value).decode("latin-1")
            if 0 < len(text) <= 128 and text.isascii() and text.isprintable():
                return bytes(value)
    return secrets.token_hex(8).encode()
