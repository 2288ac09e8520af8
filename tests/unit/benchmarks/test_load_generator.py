"""The benchmarks' load generator: its schedule, what it counts, and what it makes of a real server's answers."""

import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.load import LoadCounts, Schedule, closed_loop, get, open_loop, post

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
DEGRADED = b'HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{"degraded":true}'
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
SLOWER = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def server(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server that gives each request's bytes to *answer*; it hangs up where that returns none."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            while (request := connection.recv(65_536)) and (reply := answer(request)):
                connection.sendall(reply)

    def accept() -> None:
        while True:
            try:
                connections.append(listener.accept()[0])
            except OSError:
                return
            threading.Thread(target=serve, args=(connections[-1],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def in_turn(*answers: bytes) -> Callable[[bytes], bytes]:
    """Gives *answers* one after the other, again and again."""
    count = iter(range(10**9))
    return lambda request: answers[next(count) % len(answers)]


def test_requests_are_due_at_even_times_whatever_became_of_those_before() -> None:
    schedule = Schedule(10.0, 10.5, rps=10)
    assert list(schedule.take(10.0)) == [10.0]
    assert schedule.next == pytest.approx(10.1)
    # The generator was held up for a third of a second: what was due meanwhile keeps its own time.
    assert list(schedule.take(10.35)) == pytest.approx([10.1, 10.2, 10.3])
    assert list(schedule.take(99.0)) == pytest.approx([10.4])
    assert schedule.next == math.inf


def test_refusals_degraded_answers_and_errors_are_told_apart() -> None:
    counted = LoadCounts()
    for answer, latency_s in ((OK, 0.010), (DEGRADED, 0.030), (BUSY, 0.002), (SLOWER, 0.004), (BROKEN, 0.5)):
        counted.answer(answer, latency_s)
    result = counted.result(wanted_rps=5, took_s=2, cpu_s=0.5)
    assert (result.answered, result.degraded, result.refused, result.errors) == (2, 1, 2, 1)
    assert result.first_error.startswith("HTTP/1.1 500")
    assert (result.p50_ms, result.max_ms, result.refused_p50_ms) == pytest.approx((20, 30, 3))
    assert (result.achieved_rps, result.load_cpu) == (1, 0.25)


def test_refused_requests_do_not_improve_the_latency() -> None:
    served = LoadCounts(latencies=[0.001] * 995)
    assert served.result(1, 1, 0).p99_of_all_ms == pytest.approx(1)
    served.refusals = [0.002] * 4
    assert served.result(1, 1, 0).p99_of_all_ms == pytest.approx(1)
    served.refusals = [0.002] * 40
    assert served.result(1, 1, 0).p99_of_all_ms == 5_000


def test_a_run_without_responses_has_no_latency() -> None:
    result = LoadCounts().result(wanted_rps=5, took_s=1, cpu_s=0)
    assert math.isnan(result.p99_ms)
    assert math.isnan(result.refused_p99_ms)


def test_the_open_loop_sends_what_is_due_and_counts_what_comes() -> None:
    with server(in_turn(OK, BUSY, DEGRADED, BROKEN)) as url:
        result = open_loop(url, [get(f"{url}/recommend/u?k=5", "key")], rps=200, seconds=0.2, connections=1)
    assert (result.answered, result.degraded, result.refused, result.errors) == (20, 10, 10, 10)
    assert result.achieved_rps == pytest.approx(100, rel=0.1)


def test_a_request_that_waits_for_a_connection_counts_from_when_it_was_due() -> None:
    first = threading.Timer(0.2, lambda: None)

    def slow_at_first(request: bytes) -> bytes:
        if not first.ident:
            first.start()
        first.join(5)
        return OK

    with server(slow_at_first) as url:
        result = open_loop(url, [get(url)], rps=100, seconds=0.1, connections=1)
    assert result.answered == 10
    # The last was due 110 ms or more before the server began to answer: its own wait was short, its time is not.
    assert 80 < result.p50_ms < result.max_ms
    assert result.max_ms >= 190


def test_a_server_that_hangs_up_is_an_error_and_the_next_request_has_a_connection() -> None:
    with server(in_turn(OK, b"")) as url:
        result = open_loop(url, [get(url)], rps=100, seconds=0.2, connections=1)
    assert (result.answered, result.errors) == (10, 10)
    assert "hung up" in result.first_error


def test_the_closed_loop_sends_whole_requests_in_turn() -> None:
    seen: list[bytes] = []

    def keep(request: bytes) -> bytes:
        seen.append(request)
        return OK

    with server(keep) as url:
        requests = [post(f"{url}/events", b'{"n":1}', "key"), get(f"{url}/a?b=c")]
        result = closed_loop(url, requests, seconds=0.1, connections=1)
    assert result.errors == 0
    assert len(seen) == result.answered
    host = url.removeprefix("http://").encode()
    assert seen[0].startswith(b"POST /events HTTP/1.1\r\nHost: " + host + b"\r\nAuthorization: Bearer key\r\n")
    assert seen[0].endswith(b'Content-Length: 7\r\n\r\n{"n":1}')
    assert seen[1] == b"GET /a?b=c HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
