"""Connections whose request heads are bounded in bytes and time: the protocol of every HTTP server here.

uvicorn and httptools bound neither: an unfinished head grows for ever, and a connection without a request stays open.
A request that comes in one piece costs two checks; a timer runs only for what is unfinished.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from nearline.telemetry import counter

_ENDED = counter(
    "connections_ended_total",
    "Connections ended because the next part of a request was too large or too late",
    "why",
    known=("body_too_slow", "head_too_large", "head_too_slow", "no_request"),
)
_NONE, _HEAD, _BODY = range(3)  # what the next bytes belong to; _NONE: the next request, if there is one


@dataclass(frozen=True, slots=True)
class HeadBounds:
    """How large a request's line and headers may be, and how long parts of a request may take.

    *rest_s* is for the rest of a body after its answer. Between two requests uvicorn's own keep-alive time counts.
    """

    head_bytes: int = 64 * 1024
    first_byte_s: float = 20.0
    head_s: float = 10.0
    rest_s: float = 10.0


def bounded(bounds: HeadBounds | None = None) -> Callable[..., asyncio.Protocol]:
    """The *http* argument of ``uvicorn.Config``: connections within *bounds*."""

    def connect(**given: Any) -> asyncio.Protocol:
        return BoundedConnection(bounds or HeadBounds(), **given)

    return connect


class BoundedConnection(HttpToolsProtocol):
    """One connection. A head beyond the bounds is answered 431 or 408 and the connection is closed.

    Trailers after a chunked body count as a head. The start of a head that came in one read with the end of the
    request before is not counted.
    """

    def __init__(self, bounds: HeadBounds, **given: Any) -> None:
        super().__init__(**given)
        self._bounds = bounds
        self._next = _NONE
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is open: a first byte must come in time."""
        super().connection_made(transport)
        # uvicorn ends its timer at the first byte and at the end of the connection.
        self.timeout_keep_alive_task = self.loop.call_later(self._bounds.first_byte_s, self._end, "no_request")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._unset_keepalive_if_required()
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse a head that is too large, and limit the time of what is unfinished."""
        self._head_bytes += len(data)
        if self._head_bytes > self._bounds.head_bytes:
            self._feed_in_pieces(data)
            return
        if self._next == _NONE:
            self._next = _HEAD
        super().data_received(data)
        if self._next == _NONE:
            self._stop_deadline()
        elif self._next == _HEAD:
            self._start_deadline(self._bounds.head_s)
        else:
            self._head_bytes = 0
            if self.cycle.response_complete:
                self._start_deadline(self._bounds.rest_s)
            else:
                self._stop_deadline()

    def _feed_in_pieces(self, data: bytes) -> None:
        """Feed what the bound allows of a head, and then the rest if that completed the head."""
        self._head_bytes -= len(data)
        at = 0
        while at < len(data) and not self.transport.is_closing():
            room = self._bounds.head_bytes - self._head_bytes
            if room <= 0:
                self._refuse(431, "head_too_large", f"at most {self._bounds.head_bytes:,} bytes are accepted")
                return
            self.data_received(data[at : at + room])
            at += room

    def on_message_begin(self) -> None:
        """A request begins."""
        self._next = _HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._next = _BODY
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Trailers follow, or a chunk of the body."""
        self._next, self._head_bytes = _HEAD, 0

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._next = _BODY
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._next, self._head_bytes = _NONE, 0
        super().on_message_complete()

    def _start_deadline(self, allowed_s: float) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(allowed_s, self._late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._is_answering():  # its answer comes first
            self._start_deadline(self._bounds.head_s)
        elif self._next == _HEAD:
            self._refuse(408, "head_too_slow", f"they must come within {self._bounds.head_s:g} s")
        else:
            self._end("body_too_slow")

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, why: str, problem: str) -> None:
        if not self.transport.is_closing() and not self._is_answering():
            self.transport.write(_refusal(status, f"request line and headers: {problem}"))
        self._end(why)

    def _end(self, why: str) -> None:
        if not self.transport.is_closing():
            _ENDED.labels(why).inc()
            self.transport.close()


def _refusal(status: int, problem: str) -> bytes:
    body = orjson.dumps({"detail": [{"field": "", "came": "", "problem": problem}], "allowed": {}})
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[status] + head + body
