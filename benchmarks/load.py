"""A load generator for HTTP: open loop, where requests are sent when due whatever the server does, or closed.

In the open loop latency counts from the moment a request was due, so a stalled server cannot hide its stall
(coordinated omission). One thread, keep-alive connections and one wait that is exact to microseconds where an event
loop's is to a millisecond; a request costs it some 50 us, so it can share a small machine with what it measures. It
says how much of a core it used and how late it was itself, and lets Python collect no garbage meanwhile.

    python -m benchmarks.load http://127.0.0.1:8080/recommend/u-1?k=50 --rps 1000 --seconds 10

It uses the key in NEARLINE_KEY or the data folder.
"""

import argparse
import gc
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

import numpy as np

from nearline.key_file import own_key
from nearline.settings import load_settings

_GRACE_S = 5.0  # how long answers may still come after the last request was due
_REFUSALS = (429, 503)  # the server says "not now": neither an answer nor an error
_DEGRADED = b'"degraded":true'
_ABOUT = 2_048  # bytes of an answer within which it says whether it is degraded; the items come later
_TOLD = 400  # characters of the first error


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run; latencies in ms from when each request was due, ``nan`` without any."""

    wanted_rps: float
    achieved_rps: float
    answered: int
    errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    load_cpu: float  # share of one core that the generator itself used
    late_p99_ms: float = 0.0  # how late the generator itself was with a request; part of the latencies
    degraded: int = 0  # of those answered
    refused: int = 0  # 429 and 503
    refused_p50_ms: float = float("nan")
    refused_p99_ms: float = float("nan")
    p99_of_all_ms: float = float("nan")  # what was refused or failed counts as five seconds
    first_error: str = ""

    def __str__(self) -> str:
        """One line of a table."""
        refused = f"{self.refused} refused in {self.refused_p99_ms:.2f} ms (p99)  " if self.refused else ""
        return (
            f"{self.wanted_rps:8.0f} rps wanted {self.achieved_rps:8.0f} achieved  p50 {self.p50_ms:6.2f}  "
            f"p90 {self.p90_ms:6.2f}  p99 {self.p99_ms:6.2f}  p99.9 {self.p999_ms:6.2f}  max {self.max_ms:7.2f} ms  "
            f"{refused}{self.errors} errors of {self.answered + self.errors + self.refused}  "
            f"generator {self.load_cpu:.0%} of a core, late by {self.late_p99_ms:.2f} ms (p99)"
            f"{f'; the first error: {self.first_error}' if self.first_error else ''}"
        )


@dataclass(slots=True)
class LoadCounts:
    """What has come so far, in seconds."""

    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    degraded: int = 0
    errors: int = 0
    first_error: str = ""

    def answer(self, answer: bytes, latency_s: float) -> None:
        """Count one whole *answer* by what it is: one that was asked for, a refusal, or an error."""
        status = int(answer[9:12])
        if status == 200:
            self.latencies.append(latency_s)
            self.degraded += answer.find(_DEGRADED, 0, _ABOUT) >= 0
        elif status in _REFUSALS:
            self.refusals.append(latency_s)
        else:
            self.error(answer.decode(errors="replace"))

    def error(self, what: str) -> None:
        """Count one request that got no answer."""
        self.errors += 1
        self.first_error = self.first_error or what[:_TOLD]

    def result(self, wanted_rps: float, took_s: float, cpu_s: float) -> Result:
        """The figures of a run that took *took_s*, of which the generator computed for *cpu_s*."""
        p50, p90, p99, p999, most = _percentiles_ms(self.latencies, 50, 90, 99, 99.9, 100)
        refused_p50, refused_p99 = _percentiles_ms(self.refusals, 50, 99)
        answered = len(self.latencies)
        unserved = [_GRACE_S] * (len(self.refusals) + self.errors)
        return Result(
            wanted_rps,
            answered / took_s,
            answered,
            self.errors,
            p50,
            p90,
            p99,
            p999,
            most,
            cpu_s / took_s,
            late_p99_ms=_percentiles_ms(self.late or [0.0], 99)[0],
            degraded=self.degraded,
            refused=len(self.refusals),
            refused_p50_ms=refused_p50,
            refused_p99_ms=refused_p99,
            p99_of_all_ms=_percentiles_ms([*self.latencies, *unserved], 99)[0],
            first_error=self.first_error,
        )


def _percentiles_ms(seconds: Sequence[float], *quantiles: float) -> list[float]:
    found: list[float] = np.percentile(np.array(seconds or [np.nan]) * 1000, quantiles).tolist()
    return found


class Schedule:
    """When requests are due: one every ``1 / rps`` s from *start* to *end*, whatever became of those before."""

    def __init__(self, start: float, end: float, rps: float) -> None:
        self._start, self._end, self._rps = start, end, rps
        self._taken = 0

    @property
    def next(self) -> float:
        """When the next request is due; infinite when there is none any more."""
        due = self._start + self._taken / self._rps
        return due if due < self._end else float("inf")

    def take(self, now: float) -> Iterator[float]:
        """The due times up to *now* that were not taken yet: after a pause all of them, each with its own."""
        while (due := self.next) <= now:
            self._taken += 1
            yield due


class _Connection:
    """One keep-alive connection: at most one request is under way on it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.due = 0.0
        self.busy = False
        self._buffer = b""
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self._address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The answer once all of it is here, else ``None``; ``OSError`` if the server hung up."""
        chunk = self.socket.recv(262_144)
        if not chunk:
            raise ConnectionResetError("the server hung up")
        answer = self._buffer + chunk if self._buffer else chunk
        head = answer.find(b"\r\n\r\n")
        if head < 0 or len(answer) < head + 4 + _content_length(answer, head):
            self._buffer = answer
            return None
        self._buffer = b""
        return answer


def _content_length(answer: bytes, head: int) -> int:
    at = answer.find(b"content-length:", 0, head)
    if at < 0:
        at = answer.lower().index(b"content-length:", 0, head)
    return int(answer[at + 15 : answer.index(b"\r", at)])


class _LoadRun:
    """One run: who is free, who waits for an answer, what came."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        address = parts.hostname or "127.0.0.1", parts.port or 80
        # epoll's own timeout is in milliseconds; select waits for it to the microsecond, at a cost that does not grow
        # with the connections.
        self._ready = select.epoll()
        self._by_fd: dict[int, _Connection] = {}
        # In turn, so that none idles for so long that the server hangs up.
        self._free: deque[_Connection] = deque()
        for _ in range(connections):
            self._open(_Connection(address))
        self.waiting: deque[tuple[float, bytes]] = deque()  # due, and no connection was free
        self.counted = LoadCounts()

    @property
    def free(self) -> int:
        """How many connections wait for a request."""
        return len(self._free)

    @property
    def is_idle(self) -> bool:
        return len(self._free) == len(self._by_fd) and not self.waiting

    def send_waiting(self) -> None:
        while self.waiting and self._free:
            connection = self._free.popleft()
            due, request = self.waiting.popleft()
            connection.busy = True
            try:
                connection.send(request, due)
            except OSError as error:
                self._fail(connection, error)

    def receive(self, timeout_s: float) -> None:
        """Count the answers that are there, or that begin to come within *timeout_s*."""
        if not select.select([self._ready], (), (), max(0.0, timeout_s))[0]:
            return
        for fd, _ in self._ready.poll(0):
            connection = self._by_fd[fd]
            try:
                answer = connection.receive()
            except OSError as error:
                self._fail(connection, error)
                continue
            if answer is not None:
                connection.busy = False
                self._free.append(connection)
                self.counted.answer(answer, time.perf_counter() - connection.due)

    def _open(self, connection: _Connection) -> None:
        connection.busy = False
        self._by_fd[connection.socket.fileno()] = connection
        self._ready.register(connection.socket, select.EPOLLIN)
        self._free.append(connection)

    def _fail(self, connection: _Connection, error: OSError) -> None:
        """Begin anew; what was under way is an error, an idle connection that the server closed is none."""
        if connection.busy:
            self.counted.error(repr(error))
        else:
            self._free.remove(connection)
        del self._by_fd[connection.socket.fileno()]
        connection.socket.close()
        try:
            connection.connect()
            self._open(connection)
        except OSError:
            if not self._by_fd:
                self.counted.errors += len(self.waiting)
                self.waiting.clear()

    def close(self) -> None:
        self.counted.errors += len(self._by_fd) - len(self._free) + len(self.waiting)  # never answered
        for connection in self._by_fd.values():
            connection.socket.close()
        self._ready.close()


def open_loop(url: str, requests: Sequence[bytes], rps: float, seconds: float, connections: int = 32) -> Result:
    """Send whole *requests* in turn to *url*'s server, one every ``1 / rps`` s, for *seconds*.

    A request that finds every connection busy waits for one; the wait is in its latency. Anything but 200, 429 and 503
    is an error, and so is what never came.
    """
    run, in_turn = _LoadRun(url, connections), cycle(requests)
    with _uncollected():
        start, cpu = time.perf_counter(), time.process_time()
        end = start + seconds
        schedule = Schedule(start, end, rps)
        while (now := time.perf_counter()) < end + _GRACE_S and (now < end or schedule.next < end or not run.is_idle):
            for due in schedule.take(now):
                run.waiting.append((due, next(in_turn)))
                run.counted.late.append(now - due)
            run.send_waiting()
            run.receive(min(schedule.next, end if now < end else now + 0.05) - time.perf_counter())
        took = min(time.perf_counter(), end + _GRACE_S) - start
        used = time.process_time() - cpu
    run.close()
    return run.counted.result(rps, max(took, seconds), used)


def closed_loop(url: str, requests: Sequence[bytes], seconds: float, connections: int) -> Result:
    """Send whole *requests* in turn to *url*'s server for *seconds*, on each connection the next after its answer.

    This finds what a server takes when callers wait for it; latencies count from when a request was sent.
    """
    run, in_turn = _LoadRun(url, connections), cycle(requests)
    with _uncollected():
        start, cpu = time.perf_counter(), time.process_time()
        while (now := time.perf_counter()) < start + seconds or (not run.is_idle and now < start + seconds + _GRACE_S):
            for _ in range(run.free if now < start + seconds else 0):
                run.waiting.append((time.perf_counter(), next(in_turn)))
                run.send_waiting()
            run.receive(0.05)
        took, used = time.perf_counter() - start, time.process_time() - cpu
    run.close()
    return run.counted.result(float("nan"), took, used)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: a full one of a catalogue of 100,000 items would be a pause of the server's."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def get(url: str, key: str = "") -> bytes:
    """A whole GET request of *url* with *key*."""
    parts, target = urlsplit(url), _target(url)
    return f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{_known(key)}\r\n".encode()


def post(url: str, body: bytes, key: str = "") -> bytes:
    """A whole POST request of JSON to *url* with *key*."""
    about = f"Host: {urlsplit(url).netloc}\r\n{_known(key)}Content-Type: application/json\r\n"
    return f"POST {_target(url)} HTTP/1.1\r\n{about}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _known(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n" if key else ""


def main() -> None:
    """Run once and print the line."""
    parser = argparse.ArgumentParser(description="Open-loop HTTP load: latency counts from when a request was due.")
    parser.add_argument("urls", nargs="+", help="full URLs of one server, asked for in turn")
    parser.add_argument("--rps", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    key = own_key(load_settings())
    requests = [get(url, key) for url in given.urls]
    print(open_loop(given.urls[0], requests, given.rps, given.seconds, given.connections))


if __name__ == "__main__":
    main()
