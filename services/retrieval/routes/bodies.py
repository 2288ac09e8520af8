"""Reads request bodies with limits on size and time, and checks that they are JSON.

NaN and half of a surrogate pair, which the standard library accepts, are refused: they would fail later.
"""

import asyncio
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearline.errors import BadInput
from nearline.events import load_json
from services.retrieval.routes.refusals import NotAnswered, answer_of, refused

PARSED = "nearline.body"  # key of the parsed body in the ASGI scope
MOST_BYTES = 1024 * 1024  # 50 events with contexts of 20 KiB each
ARRIVAL_S = 10.0


class BoundedBodies:
    """Reads the whole body of a POST to *paths* before *app* sees it: 413 if it is too large, 408 if too slow."""

    def __init__(
        self, app: ASGIApp, paths: Iterable[str], *, most_bytes: int = MOST_BYTES, arrival_s: float = ARRIVAL_S
    ) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._most = most_bytes
        self._arrival_s = arrival_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(_announced(scope["headers"]), receive)
            scope[PARSED] = load_json(body)
        except NotAnswered as refusal:
            await answer_of(refusal, {})(scope, receive, send)
        except BadInput as error:
            await answer_of(refused(error, "body"), {})(scope, receive, send)
        else:
            await self._app(scope, _with(body, receive), send)

    async def _read(self, announced: int, receive: Receive) -> bytes:
        self._check(announced)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._arrival_s):
                while True:
                    message = await receive()
                    chunks.append(message.get("body", b""))
                    self._check(sum(map(len, chunks)))
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise NotAnswered(408, "body", "", f"the body did not come within {self._arrival_s:g} s") from None

    def _check(self, size: int) -> None:
        if size > self._most:
            raise NotAnswered(413, "body", f"{size:,} bytes", f"a body may have {self._most:,} bytes at most")


def _announced(headers: Iterable[tuple[bytes, bytes]]) -> int:
    length = next((value for name, value in headers if name == b"content-length"), b"")
    return int(length) if length.isdigit() and len(length) < 19 else 0


def _with(body: bytes, receive: Receive) -> Receive:
    """*body* as one message, then the messages of *receive*."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return first.pop() if first else await receive()

    return received
