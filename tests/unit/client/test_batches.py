"""Events that go out in the background: together, in their order, each once, and none forgotten without a word."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from local.layout import ROOT
from local.processes import wait_until
from nearline_client import (
    AsyncClient,
    Client,
    Event,
    NearlineError,
    NotLetIn,
    Problem,
    QueueFull,
    Refused,
    TooMany,
    Unavailable,
    event,
)
from nearline_client.answers import EventResults
from nearline_client.batches import AsyncEventQueue, EventQueue, WaitingEvents
from nearline_client.calls import MOST_BYTES_IN_A_BATCH
from nearline_client.retrying import Retries
from tests.support.ingest_door import Door
from tests.support.served import Weather, served

AWAY = Unavailable("away")
QUICK = Retries(first_s=0.001, most_s=0.002)


class Line:
    """Takes what a queue sends; *failures* are raised first, and while it is ``shut`` nothing is answered."""

    def __init__(self, *failures: NearlineError) -> None:
        self.failures = list(failures)
        self.taken: list[list[Event]] = []
        self.is_open = threading.Event()
        self.is_open.set()

    def __call__(self, events: list[Event]) -> EventResults:
        assert self.is_open.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(events)
        return {
            "accepted": len(events),
            "refused": 0,
            "results": [{"status": "accepted", "event_id": one["event_id"]} for one in events],
        }

    async def later(self, events: list[Event]) -> EventResults:
        while not self.is_open.is_set():
            await asyncio.sleep(0.001)
        return self(events)

    @property
    def items(self) -> list[str]:
        return [one["item_id"] for batch in self.taken for one in batch]


def queue(send: Callable[[list[Event]], EventResults], **options: Any) -> EventQueue:
    usual: dict[str, Any] = {"batch": 3, "linger_s": 60.0, "most": 10, "retries": QUICK, "close_s": 5.0}
    return EventQueue(send, **(usual | options))


def click(item_id: object) -> Event:
    return event("u", str(item_id))


def test_a_full_batch_goes_out_at_once_and_the_rest_when_it_is_closed() -> None:
    line = Line()
    events = queue(line)
    for n in range(7):
        events.add(click(n))
    assert wait_until(lambda: len(line.items) == 6, 5)
    events.close()
    assert [len(batch) for batch in line.taken] == [3, 3, 1]
    assert line.items == [str(n) for n in range(7)]


def test_a_single_event_waits_at_most_the_linger_time() -> None:
    line = Line()
    events = queue(line, linger_s=0.01)
    events.add(click("a"))
    assert wait_until(lambda: line.items == ["a"], 5)
    events.close()


def test_flush_does_not_linger_and_says_whether_all_is_sent() -> None:
    line = Line()
    events = queue(line)
    assert events.flush(0.0), "nothing waits"
    events.add(click("a"))
    assert events.flush(5.0)
    assert line.items == ["a"]
    line.is_open.clear()
    events.add(click("b"))
    assert not events.flush(0.01)
    line.is_open.set()
    events.close()
    assert line.items == ["a", "b"]


def test_a_queue_that_is_full_says_so_and_forgets_nothing() -> None:
    line = Line()
    line.is_open.clear()
    events = queue(line, most=4)
    for n in range(4):
        events.add(click(n))
    with pytest.raises(QueueFull, match="4 events wait"):
        events.add(click("more"))
    line.is_open.set()
    events.add(click("later"), block_s=5.0)
    events.close()
    assert line.items == ["0", "1", "2", "3", "later"]


def test_while_the_service_is_away_events_wait_and_then_go_out_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(AWAY, TooMany("slower", 0.001), AWAY)
    events = queue(line)
    with caplog.at_level(logging.WARNING, "nearline_client"):
        for n in range(5):
            events.add(click(n))
        assert events.flush(5.0)
    assert line.items == [str(n) for n in range(5)]
    assert [record.getMessage() for record in caplog.records].count("5 events wait to be sent, after: away") <= 1
    assert len(caplog.records) == 1, "said when it begins, not at every attempt"
    events.close()


def test_queue_full_names_the_last_failure() -> None:
    line = Line(*[AWAY] * 10_000)
    events = queue(line, most=3, close_s=0.0)
    for n in range(3):
        events.add(click(n))
    assert wait_until(lambda: len(line.failures) < 10_000, 5)
    with pytest.raises(QueueFull, match="failed: away"):
        events.add(click("more"))
    events.close()


def test_events_not_sent_before_close_are_reported_as_lost() -> None:
    lost: list[tuple[Sequence[Event], NearlineError | None]] = []
    line = Line(*[AWAY] * 10_000)
    events = queue(line, close_s=0.02, on_lost=lambda left, failure: lost.append((left, failure)))
    for n in range(4):
        events.add(click(n))
    events.close()
    ((left, failure),) = lost
    assert [one["item_id"] for one in left] == ["0", "1", "2", "3"]
    assert failure is AWAY
    with pytest.raises(QueueFull, match="closed"):
        events.add(click("too late"))
    events.close()
    assert len(lost) == 1, "to close again changes nothing"


def test_a_batch_that_can_never_succeed_is_dropped_and_the_next_is_sent() -> None:
    lost: list[str] = []
    line = Line(Refused(413, [Problem("", "too large")]), NotLetIn(401, [Problem("authorization", "no such key")]))
    events = queue(line, on_lost=lambda left, failure: lost.extend(one["item_id"] for one in left))
    for n in range(6):
        events.add(click(n))
    assert events.flush(5.0)
    assert lost == ["0", "1", "2"]
    assert line.items == ["3", "4", "5"], "a key may be good again"
    events.close()


def test_a_failing_callback_does_not_stop_the_sender(caplog: pytest.LogCaptureFixture) -> None:
    def listener(*_: object) -> None:
        raise RuntimeError("of the caller's making")

    line = Line(Refused(413, [Problem("", "too large")]))
    events = queue(line, batch=1, on_lost=listener)
    events.add(click("a"))
    events.add(click("b"))
    assert events.flush(5.0)
    assert line.items == ["b"]
    assert "of the caller's making" in caplog.text
    events.close()


def test_an_event_that_is_no_json_is_the_callers_mistake_at_once() -> None:
    events = queue(Line())
    with pytest.raises(ValueError, match="Out of range"):
        events.add(event("u", "i", value=float("nan")))
    with pytest.raises(TypeError):
        events.add(event("u", "i", context={"when": object()}))
    events.close()


def test_a_request_holds_no_more_bytes_than_the_service_takes() -> None:
    waiting = WaitingEvents(batch=500, most=500, retries=QUICK, draw=lambda: 0.0)
    for n in range(50):
        waiting.add(event("u", str(n), context={"note": "x" * 60_000}))
    batch = waiting.next_batch()
    assert 1 < len(batch) < 50
    assert len(json.dumps(batch, separators=(",", ":"))) <= MOST_BYTES_IN_A_BATCH + 2
    waiting.sent(len(batch))
    assert waiting.next_batch()[0]["item_id"] == str(len(batch))


def test_a_batch_that_never_fits_the_queue_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="1 to 10 events"):
        queue(Line(), batch=11)


def test_many_threads_lose_nothing_and_repeat_nothing() -> None:
    line = Line(AWAY, AWAY)
    events = queue(line, batch=50, most=500, linger_s=0.001)

    def work(who: int) -> None:
        for n in range(200):
            events.add(click(f"{who}-{n}"), block_s=10.0)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events.close()
    assert sorted(line.items) == sorted(f"{who}-{n}" for who in range(4) for n in range(200))
    for who in range(4):
        mine = [item for item in line.items if item.startswith(f"{who}-")]
        assert mine == [f"{who}-{n}" for n in range(200)], "each thread's events keep their order"


def test_the_async_queue_keeps_the_same_promises() -> None:
    async def story() -> None:
        line = Line(AWAY, Refused(413, [Problem("", "too large")]))
        lost: list[str] = []
        events = AsyncEventQueue(
            line.later,
            batch=3,
            linger_s=60.0,
            most=6,
            retries=QUICK,
            close_s=5.0,
            on_lost=lambda left, failure: lost.extend(one["item_id"] for one in left),
        )
        line.is_open.clear()
        for n in range(6):
            await events.add(click(n))
        with pytest.raises(QueueFull):
            await events.add(click("more"))
        assert not await events.flush(0.01)
        line.is_open.set()
        await events.add(click("later"), block_s=5.0)
        await events.close()
        assert lost == ["0", "1", "2"]
        assert line.items == ["3", "4", "5", "later"]
        with pytest.raises(QueueFull, match="closed"):
            await events.add(click("too late"))

    asyncio.run(story())


def test_the_async_queue_reports_what_it_could_not_send() -> None:
    async def story() -> None:
        lost: list[str] = []
        events = AsyncEventQueue(
            Line(*[AWAY] * 100_000).later,
            batch=2,
            linger_s=0.0,
            most=6,
            retries=QUICK,
            close_s=0.02,
            on_lost=lambda left, failure: lost.extend(one["item_id"] for one in left),
        )
        for n in range(3):
            await events.add(click(n))
        await events.close()
        assert lost == ["0", "1", "2"]

    asyncio.run(story())


def test_tracked_events_reach_the_log_and_refusals_reach_the_caller() -> None:
    refused: list[Any] = []
    door = Door()
    with (
        served(Weather(door.app, 503)) as url,
        Client(ingest=url, on_refused=refused.extend, linger_s=0.0) as client,
    ):
        client.track({"user_id": "u", "item_id": "a", "type": "click"})
        client.track({"user_id": "u", "item_id": "b", "type": "clack"})  # type: ignore[typeddict-item]
        assert client.flush(10.0)
    assert [json.loads(value or b"{}")["item_id"] for _, value in door.clicks] == ["a"]
    ((event_of, problem),) = refused
    assert (event_of["item_id"], problem.field, problem.reason) == ("b", "type", "unknown_type")


def test_leaving_the_async_block_sends_what_was_tracked() -> None:
    door = Door()

    async def story(url: str) -> None:
        async with AsyncClient(ingest=url) as client:
            await client.track(event("u", "a"))

    with served(door.app) as url:
        asyncio.run(story(url))
    assert len(door.clicks) == 1


def test_the_exit_of_a_program_sends_what_was_tracked() -> None:
    """Nobody closes the client: the program just ends."""
    door = Door()
    program = (
        "import sys\nfrom nearline_client import Client, event\nclient = Client(ingest=sys.argv[1], linger_s=60)\n"
        "for n in range(5): client.track(event('u', str(n)))\n"
    )
    with served(door.app) as url:
        subprocess.run([sys.executable, "-c", program, url], cwd=ROOT, check=True, timeout=60)
    assert [json.loads(value or b"{}")["item_id"] for _, value in door.clicks] == ["0", "1", "2", "3", "4"]
