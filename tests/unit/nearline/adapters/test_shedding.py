"""Shedding: bursts are served, too much is refused at once, and nobody is served who has waited too long."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn

from nearline.adapters.queueing import queueing
from nearline.shedding import Gate, Patience
from tests.support.servers import running

PATIENCE = Patience(burst_s=0.1, waited_s=0.08, hurried_s=0.005, at_once=2, most=200)
WORK_S = 0.001


class Loop:
    """An event loop whose clock moves only when a request is served: each takes a millisecond."""

    def __init__(
        self, patience: Patience = PATIENCE, refusal_s: float = 0.0, work_s: float = WORK_S, at_once: bool = False
    ) -> None:
        self.now_s = 100.0
        self._work_s = work_s
        self._at_once = at_once  # a request is served as it begins, and not when its task's turn comes
        self.refusal_s = refusal_s
        self._ready: list[Callable[[], None]] = []
        self.gate = Gate(self._ready.append, lambda: self.now_s, patience)
        self.served: list[float] = []  # how long each waited
        self.refused: list[float] = []

    def turn(self) -> None:
        """Do what was ready when it began."""
        ready, self._ready[:] = list(self._ready), []
        for work in ready:
            work()

    def come(self) -> "Asked":
        asked = Asked(self)
        self.gate.come(asked)
        return asked

    def begin(self, waited_s: float) -> None:
        self.served.append(waited_s)
        if self._at_once:
            self._work()
        else:
            self._ready.append(self._work)

    def _work(self) -> None:
        self.now_s += self._work_s

    def run(self, per_ms: float, turns: int) -> None:
        """Let *per_ms* requests come each millisecond; all are noted when the loop looks up."""
        came, start = 0, self.now_s
        for _ in range(turns):
            due = int((self.now_s - start) * 1000 * per_ms) + 1
            for _ in range(due - came):
                self.come()
            came = due
            before = self.now_s
            self.turn()
            if self.now_s == before:
                self.now_s += WORK_S / 10  # nothing to do


class Asked:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._came_s = loop.now_s
        self.is_gone = False

    def begin(self) -> None:
        self._loop.begin(self._loop.now_s - self._came_s)

    def refuse(self) -> None:
        self._loop.refused.append(self._loop.now_s - self._came_s)
        self._loop.now_s += self._loop.refusal_s


def test_a_request_without_a_queue_starts_at_once() -> None:
    loop = Loop()
    for _ in range(50):
        loop.come()
        assert loop.served[-1] == 0.0
        loop.turn()
        loop.turn()
    assert loop.refused == []


def test_a_burst_is_served_whole_and_in_order() -> None:
    loop = Loop()
    for _ in range(60):
        loop.come()
    for _ in range(40):
        loop.turn()
    assert len(loop.served) == 60
    assert loop.served == sorted(loop.served)
    assert (loop.refused, len(loop.gate)) == ([], 0)


def test_requests_that_seem_to_take_no_time_never_stop_it() -> None:
    """They wait for another server, or the clock is coarse; then some come that take their time."""
    loop = Loop(work_s=0.0)
    for _ in range(50_000):
        loop.come()
        loop.turn()
        loop.turn()
    loop.now_s += 0.001
    for _ in range(20):
        loop.come()
    loop.now_s += 0.001
    for _ in range(20):
        loop.turn()
    assert (len(loop.served), loop.refused, len(loop.gate)) == (50_020, [], 0)


def test_a_burst_after_a_long_silence_is_no_overload() -> None:
    loop = Loop()
    loop.run(0.5, 20)
    loop.now_s += 1_000
    loop.served.clear()
    for _ in range(30):
        loop.come()
    for _ in range(40):
        loop.turn()
    assert (len(loop.served), loop.refused) == (30, [])


def test_below_capacity_nobody_is_refused() -> None:
    loop = Loop()
    loop.run(0.8, 5_000)
    assert loop.refused == []
    assert max(loop.served) < 0.005


@pytest.mark.parametrize("at_once", [False, True])
def test_at_twice_the_capacity_half_is_refused_at_once_and_the_rest_hardly_waits(at_once: bool) -> None:
    loop = Loop(at_once=at_once)
    loop.run(2.0, 200)  # until it is known for what it is
    loop.served.clear()
    loop.refused.clear()
    loop.run(2.0, 3_000)
    assert 0.4 < len(loop.refused) / (len(loop.refused) + len(loop.served)) < 0.6
    assert max(loop.refused) == 0.0, "on arrival"
    assert max(loop.served) < 2 * PATIENCE.hurried_s
    assert len(loop.gate) < 20, "the queue stays short"


def test_callers_who_all_pause_for_a_moment_end_no_overload() -> None:
    """Else each pause would let a whole burst in, most of which is refused after it has waited."""
    loop = Loop()
    loop.run(2.0, 1_000)
    for _ in range(20):
        loop.run(0.0, 200)  # 20 ms
        loop.served.clear()
        loop.refused.clear()
        loop.run(2.0, 200)
        assert max(loop.served) < 2 * PATIENCE.hurried_s
        assert max(loop.refused) == 0.0, "on arrival"


def test_overload_ends_under_a_load_that_fits() -> None:
    """Nobody has to stop asking for it: nine tenths of the capacity go on being asked for."""
    loop = Loop()
    loop.run(3.0, 1_000)
    loop.run(0.9, 3_000)
    loop.refused.clear()
    for _ in range(30):
        loop.come()
    assert loop.refused == []


def test_it_serves_as_much_as_it_can_meanwhile() -> None:
    loop = Loop()
    start = loop.now_s
    loop.run(5.0, 2_000)
    assert len(loop.served) > 0.95 * (loop.now_s - start) / WORK_S


def test_half_of_the_time_is_for_those_who_are_served_however_many_ask_again_at_once() -> None:
    """500 who ask again the moment they are refused, and each refusal takes a twentieth of an answer."""
    loop = Loop(refusal_s=WORK_S / 20)

    def storm(looks: int) -> None:
        for _ in range(looks):
            for _ in range(500 - len(loop.gate)):
                loop.come()
            loop.turn()

    storm(50)
    start = loop.now_s
    loop.served.clear()
    storm(200)
    assert len(loop.served) * WORK_S > 0.45 * (loop.now_s - start)


def test_a_stall_of_the_machine_is_no_overload() -> None:
    loop = Loop()
    for _ in range(200):
        loop.run(0.5, 20)
        loop.now_s += 0.03  # meanwhile 15 came
        for _ in range(15):
            loop.come()
    assert loop.refused == []


def test_overload_is_forgotten_once_nobody_was_refused_for_a_while() -> None:
    loop = Loop()
    loop.run(3.0, 1_000)
    assert loop.refused
    loop.run(0.0, 2_000)
    loop.refused.clear()
    for _ in range(30):
        loop.come()
    assert loop.refused == []


def test_a_request_that_waited_too_long_is_refused() -> None:
    loop = Loop()
    for _ in range(10):
        loop.come()
    loop.now_s += 1.0  # something else held the loop up
    loop.turn()
    loop.turn()
    assert len(loop.served) == 2
    assert loop.refused == pytest.approx([1.0] * 8, abs=0.01)


def test_the_queue_is_bounded_whatever_comes() -> None:
    loop = Loop()
    for _ in range(5_000):
        loop.come()
    assert len(loop.gate) == PATIENCE.most
    assert len(loop.refused) == 5_000 - PATIENCE.most - PATIENCE.at_once


def test_requests_of_closed_connections_are_skipped() -> None:
    loop = Loop()
    asked = [loop.come() for _ in range(6)]
    asked[2].is_gone = asked[3].is_gone = True
    for _ in range(5):
        loop.turn()
    assert (len(loop.served), loop.refused) == (4, [])


# --- uvicorn behind the gate ---


class Served:
    """uvicorn on a free port, its application held up until ``go`` is set; *patience* as given."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.go = asyncio.Event()
        self.begun = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        if scope["path"] != "/healthz":
            await self.go.wait()
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        ours = queueing(lambda: Gate(lambda _: None, loop.time, self.patience))
        async with serving(self.app, ours) as port:
            try:
                yield port
            finally:
                self.go.set()


@contextlib.asynccontextmanager
async def serving(app: Any, http: Any) -> AsyncIterator[int]:
    """The port of a uvicorn that says nothing of its own."""
    quiet: dict[str, Any] = {"lifespan": "off", "log_config": None, "server_header": False, "date_header": False}
    server = uvicorn.Server(uvicorn.Config(app, http=http, interface="asgi3", **quiet))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    async with running(server) as port:
        yield port


async def ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    """The head and the body of one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await ask_on(reader, writer, request)
    finally:
        writer.close()


async def ask_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[bytes, bytes]:
    writer.write(request)
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
        return head, b"" if request.startswith(b"HEAD") else await reader.readexactly(size)


def get(path: str, headers: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


def test_a_refusal_is_a_503_that_says_when_to_come_back_and_the_connection_goes_on() -> None:
    async def story() -> None:
        served = Served(Patience(at_once=1, most=0))
        async with served.running() as port:
            first = asyncio.create_task(ask(port, get("/first")))
            async with asyncio.timeout(5):
                while not served.begun:
                    await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for method in ("GET", "HEAD", "POST"):
                more = "content-length: 3\r\n" if method == "POST" else ""
                request = get("/second", more, method) + (b"abc" if method == "POST" else b"")
                head, body = await ask_on(reader, writer, request)
                assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert b"\r\nretry-after: 1\r\n" in head
                assert (b"try again" in body) == (method != "HEAD")
            assert (await ask_on(reader, writer, get("/healthz")))[1] == b"/healthz"
            assert served.begun == 2
            served.go.set()
            assert (await first)[1] == b"/first"
            writer.close()

    asyncio.run(story())


def test_a_refused_caller_who_wants_to_hang_up_is_hung_up_on() -> None:
    async def story() -> None:
        served = Served(Patience(at_once=0, most=0))
        async with served.running() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head, _ = await ask_on(reader, writer, get("/a", "Connection: close\r\n"))
            assert b"\r\nconnection: close\r\n" in head
            assert await reader.read() == b""
            writer.close()

    asyncio.run(story())


JSON = [(b"content-type", b"application/json"), (b"content-length", b"5")]
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "whole": [{"status": 200, "headers": JSON}, {"body": b"whole"}],
    "of-one-more-body": [{"status": 200, "headers": JSON}, {"body": b"who", "more_body": True}, {"body": b"le"}],
    "of-no-told-length": [{"status": 200, "headers": JSON[:1]}, {"body": b"whole"}],
    "with-more-headers": [{"status": 429, "headers": [*JSON, (b"retry-after", b"1")]}, {"body": b"later"}],
    "that-hangs-up": [{"status": 200, "headers": [*JSON, (b"connection", b"close")]}, {"body": b"whole"}],
    "without-headers": [{"status": 204}, {}],
    "empty": [{"status": 200, "headers": [(b"content-length", b"0")]}, {"body": b""}],
    "too-short": [{"status": 200, "headers": JSON}, {"body": b"who"}],
    "too-long": [{"status": 200, "headers": JSON}, {"body": b"wholes"}],
    "of-two-heads": [{"status": 200, "headers": JSON}, {"status": 200, "headers": JSON}, {"body": b"whole"}],
    "of-no-body": [{"status": 200, "headers": JSON}],
    "of-a-smuggler": [{"status": 200, "headers": [*JSON, (b"x", b"y\r\nz: z")]}, {"body": b"whole"}],
    "of-nothing": [],
}


async def answer_of(scope: Any, receive: Any, send: Any) -> None:
    """The messages of ANSWERS that the path names, after its request has come; ``/raises`` begins one and fails."""
    await receive()
    await answer_at_once(scope, receive, send)


async def answer_at_once(scope: Any, _: Any, send: Any) -> None:
    name = scope["path"].strip("/")
    for message in ANSWERS.get(name, ANSWERS["whole"][:1]):
        await send({"type": "http.response.start" if "status" in message else "http.response.body", **message})
    if name not in ANSWERS:
        raise ValueError(name)


async def said_by(http: Any, requests: bytes, app: Any) -> bytes:
    """All that a server of *app* says to *requests* on one connection, until it hangs up."""
    async with serving(app, http) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(requests)
        said = await reader.read()
        writer.close()
        return said


LAST = get("/whole", "Connection: close\r\n")


@pytest.mark.parametrize(("app", "at_once"), [(answer_of, False), (answer_of, True), (answer_at_once, True)])
@pytest.mark.parametrize("name", [*ANSWERS, "raises"])
def test_behind_the_gate_everything_is_said_as_uvicorn_says_it(name: str, app: Any, at_once: bool) -> None:
    """Even where requests come one upon the other; an answer that fails before its body is a 500, not half of one."""

    async def story() -> list[bytes]:
        loop = asyncio.get_running_loop()  # a clock that stands still: a busy machine's delays refuse nothing
        ours = queueing(lambda: Gate(loop.call_soon, lambda: 0.0), lambda _: at_once)
        asked = [
            get(f"/{name}"),
            get(f"/{name}", method="HEAD"),
            get(f"/{name}", "content-length: 3\r\n", "POST") + b"abc",
        ]
        return await asyncio.gather(
            *(said_by(http, 2 * one + LAST, app) for one in asked for http in (ours, "httptools"))
        )

    said = asyncio.run(story())
    for method, ours, uvicorns in zip(("GET", "HEAD", "POST"), said[::2], said[1::2], strict=True):
        if name in ("of-no-body", "raises") and method != "HEAD":
            assert ours.startswith(b"HTTP/1.1 500 ")
            assert uvicorns.startswith(b"HTTP/1.1 200 ")
        else:
            assert ours == uvicorns


def test_an_application_runs_without_a_task_until_it_first_waits() -> None:
    had_task: list[bool] = []
    caught: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        had_task.append(asyncio.current_task() is not None)
        if scope["path"] == "/waits":
            await asyncio.sleep(0)
            had_task.append(asyncio.current_task() is not None)
            failing = loop.create_future()
            loop.call_soon(failing.set_exception, ValueError("failed"))
            try:
                await failing
            except ValueError as error:
                caught.append(str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await loop.create_future()
            caught.append("late")
        await answer_at_once({"path": "/whole"}, receive, send)

    async def story() -> bytes:
        loop = asyncio.get_running_loop()
        ours = queueing(lambda: Gate(loop.call_soon, lambda: 0.0), lambda _: True)
        return await said_by(ours, get("/waits-for-nothing") + get("/waits") + LAST, app)

    said = asyncio.run(story())
    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert caught == ["failed", "late"]
    assert had_task == [False, False, True, True], "one that begins as another's task ends is not taken for its part"
