"""Reads request bodies with limits on size, of one and of all together, and on time; checks that they are JSON.

NaN and half of a surrogate pair, which the standard library accepts, are refused: they would fail later.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearline.errors import BadInput
from nearline.events import MAX_REQUEST_DEPTH, load_json
from nearline.guard import holder_of
from nearline.shares import BoundedShares
from services.retrieval.routes.refusals import NotAnswered, answer_of, refused

PARSED = "nearline.body"  # key of the parsed body in the ASGI scope
_MIB = 1024 * 1024
MOST_BYTES = _MIB  # 50 events with contexts of 20 KiB each
MOST_ADMIN_BYTES = 16 * _MIB  # a file of rules
TOGETHER_BYTES = 64 * _MIB
ARRIVAL_S = 10.0


class BoundedBodies:
    """Reads the whole body of a POST to *paths* before *app* sees it: 413 if it is too large, 408 if too slow.

    *paths* has the largest body of each. Bodies whose requests are not answered yet have *together* bytes, of which a
    key gets half; beyond it 429. They count as they arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: Mapping[str, int],
        *,
        together: int = TOGETHER_BYTES,
        arrival_s: float = ARRIVAL_S,
    ) -> None:
        self._app = app
        self._paths = dict(paths)
        self._room = BoundedShares(together, together // 2)
        self._arrival_s = arrival_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        with _BodyReading(self._room, holder_of(scope), self._paths[scope["path"]]) as reading:
            try:
                async with asyncio.timeout(self._arrival_s):
                    body = await reading.whole(_announced(scope["headers"]), receive)
                scope[PARSED] = load_json(body, MAX_REQUEST_DEPTH)
            except TimeoutError:
                late = NotAnswered(408, "body", "", f"the body did not come within {self._arrival_s:g} s")
                await answer_of(late, {})(scope, receive, send)
            except NotAnswered as refusal:
                await answer_of(refusal, {})(scope, receive, send)
            except BadInput as error:
                await answer_of(refused(error, "body"), {})(scope, receive, send)
            else:
                await self._app(scope, _with(body, receive), send)


class _BodyReading:
    """One body, and what it takes of the room until its request is answered."""

    def __init__(self, room: BoundedShares, holder: str | None, most: int) -> None:
        self._room = room
        self._holder = holder
        self._most = most
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self._taken, self._holder)

    async def whole(self, announced: int, receive: Receive) -> bytes:
        """The body; ``NotAnswered`` if it is too large or finds no room."""
        self._check(announced)
        chunks: list[bytes] = []
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            self._check(self._taken + len(chunk))
            if not self._room.take(len(chunk), self._holder):
                raise NotAnswered(429, "body", "", "the bodies of other requests take all the room; try again")
            self._taken += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

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
