"""uvicorn's HTTP protocol (httptools) behind a gate: a request begins when the gate lets it (nearline/shedding.py).

A refusal is written without a task, a cycle of ASGI messages or a line of the application, in some microseconds. It
also bounds what a request line and its headers may hold, which httptools does not.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nearline.shedding import Gate

_MOST_HEAD_BYTES = 64 * 1024  # of the request line and all headers
_EXEMPT = frozenset({"/healthz", "/readyz", "/metrics"})  # who asks whether we are alive must not be told "too busy"
_BODY = orjson.dumps(
    {
        "detail": [{"field": "", "came": "", "problem": "more requests than this process can answer; ask again"}],
        "allowed": {},
    }
)
_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\ncontent-length: %d\r\n"
)
_REFUSAL = _HEAD % len(_BODY)


def queueing(gate: Callable[[], Gate]) -> Callable[..., asyncio.Protocol]:
    """What ``uvicorn.Config`` takes as *http*: connections whose requests pass the gate that *gate* makes, one for all.

    It is made with the first connection, for only then is the loop known.
    """
    made: list[Gate] = []

    def connect(**given: Any) -> asyncio.Protocol:
        if not made:
            made.append(gate())
        return _Queueing(made[0], **given)

    return connect


class _Queueing(HttpToolsProtocol):
    """One connection."""

    def __init__(self, gate: Gate, **given: Any) -> None:
        super().__init__(**given)
        self._gate = gate
        self._head_bytes = 0

    def on_message_begin(self) -> None:
        """A request begins to come in."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """More of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > _MOST_HEAD_BYTES:
            raise ValueError(f"a request line and headers of more than {_MOST_HEAD_BYTES:,} bytes")  # uvicorn: 400

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if cycle.scope["path"] in _EXEMPT:
            super()._start_asgi_task(cycle, app)
        else:
            self._gate.come(_Request(self, cycle, app))

    def start(self, cycle: Any, app: Any) -> None:
        """Hand the request to the application."""
        super()._start_asgi_task(cycle, app)

    def refuse(self, cycle: Any) -> None:
        """Answer 503 at once; the connection stays if the caller wants it to."""
        cycle.response_started = cycle.response_complete = True
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(_REFUSAL + end + (b"" if cycle.scope["method"] == "HEAD" else _BODY))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


class _Request:
    """One request of a connection."""

    __slots__ = ("_app", "_cycle", "_protocol")

    def __init__(self, protocol: _Queueing, cycle: Any, app: Any) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._app = app

    @property
    def is_gone(self) -> bool:
        """Whether the caller has hung up."""
        return bool(self._cycle.disconnected)

    def begin(self) -> None:
        """Serve it."""
        self._protocol.start(self._cycle, self._app)

    def refuse(self) -> None:
        """Answer 503."""
        self._protocol.refuse(self._cycle)
