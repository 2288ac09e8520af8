"""Connections before every server of ours: unfinished heads and silent callers end, and all others are answered."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn

from nearline.adapters.connections import BoundedConnection, HeadBounds, bounded
from nearline.adapters.http import bind, server_of, status_server
from nearline.adapters.queueing import queueing
from nearline.process import raise_open_files
from nearline.shedding import Gate
from tests.support.servers import running

pytestmark = pytest.mark.anyio
SOON = HeadBounds(first_byte_s=0.2, head_s=0.2, rest_s=0.2)
LATE = HeadBounds()  # no deadline passes within a test
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "line": b"GET /" + b"x" * 70_000,
    "header": b"GET / HTTP/1.1\r\nH: " + b"y" * 70_000,
    "headers": b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: %s\r\n" % (nth, b"y" * 900) for nth in range(80)),
    "finished": b"GET / HTTP/1.1\r\nH: " + b"y" * 70_000 + b"\r\n\r\n",
    "empty lines": b"\r\n" * 35_000,
    "second": GET + b"GET / HTTP/1.1\r\nH: " + b"y" * 140_000,
}
UNFINISHED = {"line": b"GET /heal", "headers": GET[:-2], "empty line": b"\r\n", "second": GET + GET[:-2]}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, and answers with its length."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await say(send, b"%d" % size)


async def hasty(scope: Any, receive: Any, send: Any) -> None:
    """Answers without reading."""
    await say(send, b"ok")


async def say(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


Server = Callable[[HeadBounds], contextlib.AbstractAsyncContextManager[int]]


def ingests(bounds: HeadBounds) -> contextlib.AbstractAsyncContextManager[int]:
    return running(server_of(app, http=bounded(bounds), timeout_keep_alive=60))


def retrievals(bounds: HeadBounds) -> contextlib.AbstractAsyncContextManager[int]:
    gated = queueing(lambda: Gate(asyncio.get_running_loop().call_soon, lambda: 0.0), bounds=bounds)
    return running(server_of(app, http=gated, timeout_keep_alive=60))


@contextlib.asynccontextmanager
async def statuses(bounds: HeadBounds) -> AsyncIterator[int]:
    listener = bind("127.0.0.1", 0)  # finds a free port
    port = listener.getsockname()[1]
    listener.close()
    async with status_server("127.0.0.1", port, dict, bounds):
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
        yield port


EVERY_SERVER = pytest.mark.parametrize("server", [ingests, retrievals, statuses])


async def until_closed(port: int, *sent: bytes) -> bytes:
    """All that the server says to *sent* until it closes the connection; nothing if it resets it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                for piece in sent:
                    writer.write(piece)
                    await writer.drain()
                while piece := await reader.read(10_000):
                    said += piece
    finally:
        writer.close()
    return said


async def answer(port: int, request: bytes = GET) -> bytes:
    """The head of one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head


@EVERY_SERVER
@pytest.mark.parametrize("name", ENDLESS)
async def test_a_head_of_more_than_64_kib_is_refused_and_others_are_answered(server: Server, name: str) -> None:
    async with server(LATE) as port:
        said, others = await asyncio.gather(until_closed(port, ENDLESS[name]), answer(port))
    assert said == b"" or b"HTTP/1.1 431 " in said  # the reset that follows may overtake the answer
    assert others.startswith(b"HTTP/1.1 200 ")


@EVERY_SERVER
@pytest.mark.parametrize("name", UNFINISHED)
async def test_an_unfinished_head_ends_at_the_deadline_and_others_are_answered(server: Server, name: str) -> None:
    async with server(SOON) as port:
        said, others = await asyncio.gather(until_closed(port, UNFINISHED[name]), answer(port))
    assert b"HTTP/1.1 408 " in said
    assert said.count(b"HTTP/1.1 200 ") == (name == "second")
    assert others.startswith(b"HTTP/1.1 200 ")


async def test_a_head_that_comes_byte_by_byte_ends_at_the_deadline_too() -> None:
    async with ingests(SOON) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answered = asyncio.create_task(reader.read())
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                writer.write(GET[:-2] + b"X: ")
                while not answered.done():
                    writer.write(b"x")
                    await asyncio.wait([answered], timeout=0.02)
            with contextlib.suppress(ConnectionError):
                assert (await answered).startswith(b"HTTP/1.1 408 ")
        writer.close()


@EVERY_SERVER
async def test_a_connection_without_a_request_is_closed(server: Server) -> None:
    async with server(SOON) as port:
        assert await until_closed(port) == b""


async def test_a_head_of_almost_64_kib_is_answered_and_so_are_large_bodies() -> None:
    body = b"b" * 1_000_000
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nH: " % len(body)
    full = head + b"y" * (LATE.head_bytes - len(head) - 4) + b"\r\n\r\n"
    last = GET[:-2] + b"Connection: close\r\n\r\n"
    async with ingests(LATE) as port:
        assert (await until_closed(port, 2 * (full + body) + last)).count(b"HTTP/1.1 200 ") == 3
        assert b"1000000" in await until_closed(port, full + body + last)


async def test_trailers_count_as_a_head() -> None:
    chunks = b"3\r\nabc\r\n" * 50_000
    last = GET[:-2] + b"Connection: close\r\n\r\n"
    async with ingests(LATE) as port:
        said = await until_closed(port, CHUNKED + chunks + b"0\r\nT: x\r\n\r\n" + last)
        assert said.count(b"HTTP/1.1 200 ") == 2
        assert b"150000" in said
        assert b"HTTP/1.1 200 " not in await until_closed(port, CHUNKED + b"0\r\nT: " + b"x" * 140_000)


async def test_the_rest_of_a_body_that_was_answered_has_a_deadline() -> None:
    async with running(server_of(hasty, http=bounded(SOON), timeout_keep_alive=60)) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"a")
        assert await reader.read() == b""
        writer.close()


async def test_an_answer_that_takes_longer_than_a_head_may_is_given() -> None:
    go = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await say(send, b"ok")

    bounds = HeadBounds(first_byte_s=0.05, head_s=0.05)
    async with running(server_of(slow, http=bounded(bounds), timeout_keep_alive=60)) as port:
        asking = asyncio.create_task(until_closed(port, GET + GET[:-2]))
        done, _ = await asyncio.wait([asking], timeout=0.2)  # several deadlines of the second head
        assert not done
        go.set()
        said = await asking
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


async def test_pieces_of_any_size_are_the_same_request() -> None:
    last = GET[:-2] + b"Connection: close\r\n\r\n"
    async with ingests(LATE) as port:
        for size in (1, 7, 40):
            whole = POST + b"abcde" + CHUNKED + b"2\r\nab\r\n0\r\n\r\n" + last
            said = await until_closed(port, *(whole[at : at + size] for at in range(0, len(whole), size)))
            assert said.count(b"HTTP/1.1 200 ") == 3


async def test_every_service_is_served_by_bounded_connections() -> None:
    config = server_of(app).config
    config.load()
    made = config.http_protocol_class(config=config, server_state=uvicorn.Server(config).server_state, app_state={})  # type: ignore[call-arg]
    assert isinstance(made, BoundedConnection)


def test_a_part_may_open_as_many_files_as_its_hard_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
