"""Applications as a client meets them: behind a real socket, and in front of them what networks do to requests."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local.ports import HOST
from local.processes import wait_until

ANSWERED, CUT = 0, -1


@contextmanager
def served(app: ASGIApp, **changed: Any) -> Iterator[str]:
    """*app* on a free port of this machine, for as long as the block runs; its base URL. *changed*: of uvicorn's."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        quiet: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "off"}
        server = uvicorn.Server(uvicorn.Config(app, **quiet, timeout_graceful_shutdown=1, **changed))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            assert wait_until(lambda: server.started, 10)
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


class Stage:
    """An application that is whichever was put on it last, so that many tests share one server."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


@contextmanager
def staged() -> Iterator[Stage]:
    """A stage behind a real socket, for as long as the block runs."""
    stage = Stage()
    with served(stage) as stage.url:
        yield stage


class Weather:
    """What comes between a caller and *app*: *script* holds, request by request, what happens to it.

    A status is answered in the place of *app*, with the headers beside it; ``CUT`` lets *app* do it and loses the
    answer; ``ANSWERED``, and whatever comes after the script, is passed on. ``asked`` keeps what came: method, path,
    query, headers and body.
    """

    def __init__(self, app: ASGIApp, *script: tuple[int, dict[str, str]] | int) -> None:
        self._app = app
        self.script = [step if isinstance(step, tuple) else (step, {}) for step in script]
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _whole(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["raw_path"].decode()
        query = scope["query_string"].decode()
        self.asked.append({"method": scope["method"], "path": path, "query": query, "headers": headers, "body": body})
        status, more = self.script.pop(0) if self.script else (ANSWERED, {})
        if status == ANSWERED:
            await self._app(scope, _given(body), send)
        elif status == CUT:
            with suppress(Exception):
                await self._app(scope, _given(body), _nobody)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        else:
            said = [(name.encode(), value.encode()) for name, value in more.items()]
            await send({"type": "http.response.start", "status": status, "headers": said})
            await send({"type": "http.response.body", "body": b'{"detail":[{"field":"","problem":"weather"}]}'})


async def _whole(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _given(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _nobody(message: Message) -> None:
    """Take what is said to nobody."""
