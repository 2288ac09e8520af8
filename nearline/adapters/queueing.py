"""Connections behind a gate: a request begins when the gate lets it (nearline/shedding.py).

A refusal takes microseconds: no task, no cycle of ASGI messages, no application code. An answer with one body is
written with its head in one piece.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextvars import copy_context
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from nearline.adapters.connections import BoundedConnection, HeadBounds
from nearline.shedding import Gate

_EXEMPT = frozenset({"/healthz", "/readyz", "/metrics"})  # a health check must not get "too busy"
_BODY = orjson.dumps(
    {
        "detail": [{"field": "", "came": "", "problem": "more requests than this process can answer; try again"}],
        "allowed": {},
    }
)
_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n"
    b"content-type: application/json\r\nretry-after: 1\r\ncontent-length: %d\r\n"
)
_REFUSAL = _HEAD % len(_BODY)
_PLAIN = frozenset({b"cache-control", b"x-content-type-options"})


def never(_: Scope) -> bool:
    """The default of *waits_for_nothing*: every request gets a task."""
    return False


def queueing(
    gate: Callable[[], Gate],
    waits_for_nothing: Callable[[Scope], bool] = never,
    bounds: HeadBounds | None = None,
) -> Callable[..., asyncio.Protocol]:
    """The *http* argument of ``uvicorn.Config``: connections within *bounds* that all pass one gate, made by *gate*.

    The gate is made with the first connection, when the loop is known. A request that *waits_for_nothing* is
    answered without a task and a turn of the loop; if it waits after all, a task continues it.
    """
    made: list[Gate] = []
    bounds = bounds or HeadBounds()

    def connect(**given: Any) -> asyncio.Protocol:
        if not made:
            made.append(gate())
        return _Queueing(made[0], waits_for_nothing, bounds, **given)

    return connect


class _Queueing(BoundedConnection):
    """One connection."""

    def __init__(
        self, gate: Gate, waits_for_nothing: Callable[[Scope], bool], bounds: HeadBounds, **given: Any
    ) -> None:
        super().__init__(bounds, **given)
        self._gate = gate
        self._waits_for_nothing = waits_for_nothing

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if cycle.scope["path"] in _EXEMPT:
            super()._start_asgi_task(cycle, app)
        else:
            self._gate.come(_Request(self, cycle, app))

    def start(self, cycle: Any, app: Any) -> None:
        """Pass the request to the application."""
        app = _Whole(self, cycle, app)
        if not self._waits_for_nothing(cycle.scope) or asyncio.current_task(self.loop) is not None:
            super()._start_asgi_task(cycle, app)
            return
        serving, context = cycle.run_asgi(app), copy_context()
        try:
            awaited = context.run(serving.send, None)
        except StopIteration:
            return
        task = self.loop.create_task(_rest(serving, awaited), context=context)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def refuse(self, cycle: Any) -> None:
        """Answer 503 at once; the connection stays open if the caller keeps it alive."""
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.answer(cycle, _REFUSAL + end + (b"" if cycle.scope["method"] == "HEAD" else _BODY))

    def answer(self, cycle: Any, whole: bytes) -> None:
        """Write *whole* as the complete answer; the connection stays open if the caller keeps it alive."""
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        self.transport.write(whole)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


async def _rest(begun: Coroutine[Any, Any, None], awaited: Any) -> None:
    """Continue in a task a coroutine that was *begun* outside of one and waits for *awaited*."""
    await _Rest(begun, awaited)


class _Rest:
    """An awaitable that continues a begun coroutine, as ``yield from`` would (PEP 380)."""

    def __init__(self, begun: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._begun = begun
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        awaited = self._awaited
        while True:
            try:
                try:
                    given = yield awaited
                except BaseException as error:
                    awaited = self._begun.throw(error)
                else:
                    awaited = self._begun.send(given)
            except StopIteration:
                return


class _Request:
    """One request of a connection."""

    __slots__ = ("_app", "_cycle", "_protocol")

    def __init__(self, protocol: _Queueing, cycle: Any, app: Any) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._app = app

    @property
    def is_gone(self) -> bool:
        """Whether the caller has disconnected."""
        return bool(self._cycle.disconnected)

    def begin(self) -> None:
        """Serve it."""
        self._protocol.start(self._cycle, self._app)

    def refuse(self) -> None:
        """Answer 503."""
        self._protocol.refuse(self._cycle)


class _Whole:
    """Runs the application for one request: an answer with one body is written in one piece, any other by uvicorn."""

    __slots__ = ("_app", "_cycle", "_head", "_protocol")

    def __init__(self, protocol: _Queueing, cycle: Any, app: ASGIApp) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._app = app
        self._head: Message | None = None  # held back until the body comes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._app(scope, receive, self._send)

    async def _send(self, message: Message) -> None:
        head, self._head = self._head, None
        if head is None:
            if message["type"] == "http.response.start" and self._is_plain():
                self._head = message
            else:
                await self._cycle.send(message)
            return
        body = message.get("body", b"")
        ours = _OURS.of(self._protocol.server_state.default_headers)
        whole = not message.get("more_body") and ours is not None
        printed = _printed(head["status"], head.get("headers", ()), len(body), ours or b"") if whole else None
        if printed is not None and self._is_plain():
            self._protocol.answer(self._cycle, printed + body)
        else:
            await self._cycle.send(head)
            await self._cycle.send(message)

    def _is_plain(self) -> bool:
        cycle = self._cycle
        return (
            cycle.keep_alive
            and not (cycle.response_started or cycle.disconnected or self._protocol.flow.write_paused)
            and cycle.scope["method"] != "HEAD"
        )


class _ServersHeaders:
    """The server's own headers in one piece, printed once for each list of them: uvicorn makes one a second."""

    def __init__(self) -> None:
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._piece: bytes | None = b""

    def of(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """*headers* as written; ``None`` if uvicorn must write them."""
        if headers is not self._headers:
            is_plain = all(name in _PLAIN for name, _ in headers)
            self._piece = b"".join(b"%b: %b\r\n" % pair for pair in headers) if is_plain else None
            self._headers = headers
        return self._piece


_OURS = _ServersHeaders()


def _printed(status: int, headers: Sequence[tuple[bytes, bytes]], length: int, ours: bytes) -> bytes | None:
    """The head of an answer whose body has *length* bytes, with *ours* in it; ``None`` if uvicorn must write it."""
    pieces, told = [STATUS_LINE[status], ours], False
    for name, value in headers:
        if name == b"content-length":
            told = int(value) == length
        elif name != b"content-type":  # other headers may close the connection or hold invalid characters
            return None
        pieces += (name, b": ", value, b"\r\n")
    return b"".join((*pieces, b"\r\n")) if told else None
