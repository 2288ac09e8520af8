"""Ends a long answer once its caller's key or token no longer opens it: the grant is checked before each message."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class GuardedStream:
    """The ``receive`` and ``send`` of one answer; the first message for which *holds* is false ends it, unsent.

    The application then reads that its client has disconnected, so it stops.
    """

    def __init__(self, receive: _Receive, send: _Send, holds: Callable[[], bool]) -> None:
        self._receive = receive
        self._send = send
        self._holds = holds
        self._ended = asyncio.Event()

    async def send(self, message: _Message) -> None:
        """Send *message*, or end the answer."""
        if self._ended.is_set():
            return
        if message["type"] == "http.response.start" or self._holds():
            await self._send(message)
            return
        self._ended.set()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def receive(self) -> _Message:
        """The client's next message; a disconnection once the answer has ended."""
        coming = asyncio.ensure_future(self._receive())
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
            return await coming if coming.done() else {"type": "http.disconnect"}
        finally:
            coming.cancel()
            ending.cancel()
