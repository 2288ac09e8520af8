"""An open-loop load generator for HTTP GET: requests leave when they are due, whether or not the server keeps up.

Latency counts from the moment a request was due, so a stalled server cannot hide its stall (coordinated omission). One
thread, keep-alive connections and ``select``, whose timeout is exact to microseconds where an event loop's is to a
millisecond; it costs about 25 us a request, so it can share a small machine with what it measures.

    python -m benchmarks.load http://127.0.0.1:8080/recommend/u-1?k=50 --rps 1000 --seconds 10

It presents the key of NEARLINE_KEY, or of the data folder.
"""

import argparse
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from urllib.parse import urlsplit

import numpy as np

from nearline.key_file import own_key
from nearline.settings import load_settings

_GRACE_S = 5.0  # how long answers may still come after the last request was due


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to; latencies in ms from when each request was due."""

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

    def __str__(self) -> str:
        """One line of a table."""
        return (
            f"{self.wanted_rps:8.0f} rps wanted {self.achieved_rps:8.0f} achieved  p50 {self.p50_ms:6.2f}  "
            f"p90 {self.p90_ms:6.2f}  p99 {self.p99_ms:6.2f}  p99.9 {self.p999_ms:6.2f}  max {self.max_ms:7.2f} ms  "
            f"{self.errors} errors of {self.answered + self.errors}  generator {self.load_cpu:.0%} of a core"
        )


class _Connection:
    """One keep-alive connection: at most one request is under way on it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.due = 0.0
        self._buffer = b""
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self._address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """The status once the whole answer is here, else ``None``; ``OSError`` if the server hung up."""
        chunk = self.socket.recv(262_144)
        if not chunk:
            raise ConnectionResetError("the server hung up")
        answer = self._buffer + chunk if self._buffer else chunk
        head = answer.find(b"\r\n\r\n")
        if head < 0 or len(answer) < head + 4 + _content_length(answer, head):
            self._buffer = answer
            return None
        self._buffer = b""
        return int(answer[9:12])


def _content_length(answer: bytes, head: int) -> int:
    at = answer.find(b"content-length:", 0, head)
    if at < 0:
        at = answer.lower().index(b"content-length:", 0, head)
    return int(answer[at + 15 : answer.index(b"\r", at)])


class _Run:
    """One run: who is free, who waits for an answer, what came."""

    def __init__(self, address: tuple[str, int], connections: int) -> None:
        # In turn, so that none idles for so long that the server hangs up.
        self._free = deque(_Connection(address) for _ in range(connections))
        self._busy: set[_Connection] = set()
        self.waiting: deque[tuple[float, bytes]] = deque()  # due, and no connection was free
        self.latencies: list[float] = []
        self.errors = 0

    @property
    def free(self) -> int:
        """How many connections wait for a request."""
        return len(self._free)

    @property
    def is_idle(self) -> bool:
        return not self._busy and not self.waiting

    def send_waiting(self) -> None:
        while self.waiting and self._free:
            connection = self._free.popleft()
            due, request = self.waiting.popleft()
            try:
                connection.send(request, due)
                self._busy.add(connection)
            except OSError:
                self._fail(connection)

    def receive(self, timeout_s: float) -> None:
        if not self._busy:
            time.sleep(max(0.0, timeout_s))
            return
        for connection in select.select(list(self._busy), (), (), max(0.0, timeout_s))[0]:
            try:
                status = connection.receive()
            except OSError:
                self._busy.discard(connection)
                self._fail(connection)
                continue
            if status is not None:
                self._busy.discard(connection)
                self._free.append(connection)
                self._count(status, time.perf_counter() - connection.due)

    def _count(self, status: int, latency_s: float) -> None:
        if status == 200:
            self.latencies.append(latency_s)
        else:
            self.errors += 1

    def _fail(self, connection: _Connection) -> None:
        self.errors += 1
        connection.socket.close()
        try:
            connection.connect()
            self._free.append(connection)
        except OSError:
            self.errors += 0 if self._free or self._busy else len(self.waiting)
            if not self._free and not self._busy:
                self.waiting.clear()

    def close(self) -> None:
        self.errors += len(self._busy) + len(self.waiting)  # never answered
        for connection in (*self._free, *self._busy):
            connection.socket.close()


def open_loop(url_paths: Sequence[str], rps: float, seconds: float, connections: int = 32, *, key: str = "") -> Result:
    """Ask for *url_paths* (full URLs of one server) in turn, one every ``1 / rps`` s, for *seconds*, with *key*.

    A request that finds every connection busy waits for one; the wait is in its latency. Anything but a 200 is an
    error, and so is what never came.
    """
    parts = urlsplit(url_paths[0])
    requests = cycle([_request(url, key) for url in url_paths])
    run = _Run((parts.hostname or "127.0.0.1", parts.port or 80), connections)
    start = time.perf_counter()
    cpu = time.process_time()
    end, due, step = start + seconds, start, 1 / rps
    while (now := time.perf_counter()) < end + _GRACE_S and (due < end or not run.is_idle):
        while due <= now and due < end:
            run.waiting.append((due, next(requests)))
            due += step
        run.send_waiting()
        run.receive((due if due < end else now + 0.05) - time.perf_counter())
    took = min(time.perf_counter(), end + _GRACE_S) - start
    run.close()
    return _result(run, rps, max(took, seconds), time.process_time() - cpu)


def closed_loop(url: str, requests: Sequence[bytes], seconds: float, connections: int) -> Result:
    """Send whole *requests* in turn to *url*'s server for *seconds*, on each connection the next after its answer.

    This finds what a server takes when callers wait for it; latencies count from when a request was sent.
    """
    parts = urlsplit(url)
    in_turn = cycle(requests)
    run = _Run((parts.hostname or "127.0.0.1", parts.port or 80), connections)
    start, cpu = time.perf_counter(), time.process_time()
    while (now := time.perf_counter()) < start + seconds or (not run.is_idle and now < start + seconds + _GRACE_S):
        for _ in range(run.free if now < start + seconds else 0):
            run.waiting.append((time.perf_counter(), next(in_turn)))
            run.send_waiting()
        run.receive(0.05)
    took = time.perf_counter() - start
    run.close()
    return _result(run, float("nan"), took, time.process_time() - cpu)


def _request(url: str, key: str) -> bytes:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    known = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{known}\r\n".encode()


def _result(run: _Run, rps: float, took: float, cpu: float) -> Result:
    latencies = np.array(run.latencies or [np.nan]) * 1000
    p50, p90, p99, p999, most = np.percentile(latencies, [50, 90, 99, 99.9, 100]).tolist()
    answered = len(run.latencies)
    return Result(rps, answered / took, answered, run.errors, p50, p90, p99, p999, most, cpu / took)


def main() -> None:
    """Run once and print the line."""
    parser = argparse.ArgumentParser(description="Open-loop HTTP load: latency counts from when a request was due.")
    parser.add_argument("urls", nargs="+", help="full URLs of one server, asked for in turn")
    parser.add_argument("--rps", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    print(open_loop(given.urls, given.rps, given.seconds, given.connections, key=own_key(load_settings())))


if __name__ == "__main__":
    main()
