"""The ingest service with a real broker: acknowledged events are in Kafka, even if the broker was killed meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
import psutil
import pytest

from local.broker import RunningBroker, running_broker
from local.layout import ROOT
from local.ports import HOST, free_ports
from local.processes import wait_until
from local.system import http_ok
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.table_reader import TableReader
from nearline.events import Event
from nearline.items import PURGE
from nearline.log import Record
from nearline.space import Space
from nearline.topics import CLICKS, ITEMS, all_topics
from nearline.user_commands import Erase, Merge, Remove, decode_entry
from services.ingest.bodies import MIB

pytestmark = pytest.mark.anyio
DEADLINE_S = 60.0
STARTER = ThreadPoolExecutor(1)  # a broker ends with the thread that started it: this one outlives the tests


class Door:
    """A running ingest process."""

    def __init__(self, kafka: str) -> None:
        self.port = free_ports(1)[0]
        settings = {
            "NEARLINE_KAFKA": kafka,
            "NEARLINE_INGEST_PORT": str(self.port),
            "NEARLINE_CORS_ORIGINS": "https://shop.example",
            "NEARLINE_AUTH": "off",
            "NEARLINE_INGEST_ACK_TIMEOUT_MS": "2000",
        }
        others = {name: value for name, value in os.environ.items() if not name.upper().startswith("NEARLINE_")}
        command = [sys.executable, "-m", "services.ingest"]
        self.process = subprocess.Popen(command, cwd=ROOT, env={**others, **settings})

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def is_ready(self) -> bool:
        return http_ok(self.port, "/readyz")()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One broker with every topic for all tests of this file: the event ids of each test begin with its own word."""
    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        topics = Topics(broker.bootstrap)
        topics.ensure(all_topics(Space(1, 64)))
        topics.close()
        yield broker


@contextmanager
def running_door(log: RunningBroker) -> Iterator[Door]:
    """A door that is ready; ended at exit."""
    running = Door(log.bootstrap)
    try:
        assert wait_until(running.is_ready, DEADLINE_S)
        yield running
    finally:
        running.process.terminate()
        try:
            running.process.wait(20)
        finally:
            running.process.kill()
            running.process.wait()


@pytest.fixture(scope="module")
def door(log: RunningBroker) -> Iterator[Door]:
    """One door for all tests of this file that do not end it."""
    with running_door(log) as running:
        yield running


async def everything(log: RunningBroker, topic: str) -> list[Record]:
    """All records of *topic*, from its beginning to its end of now."""
    records: list[Record] = []
    async with TableReader(log.bootstrap, topic) as reader, asyncio.timeout(DEADLINE_S):
        while not reader.caught_up:
            records += await reader.poll()
    return records


async def stored(log: RunningBroker, prefix: str) -> list[tuple[Record, Event]]:
    """The events in the log whose ids begin with *prefix*, each with its record, in the order of the log."""
    records = await everything(log, CLICKS)
    entries = [(record, decode_entry(record.value, append_ms=record.append_ms)) for record in records]
    return [
        (record, entry) for record, entry in entries if isinstance(entry, Event) and entry.event_id.startswith(prefix)
    ]


async def stored_ids(log: RunningBroker, prefix: str) -> set[str]:
    return {event.event_id for _, event in await stored(log, prefix)}


def click(event_id: str, user: int) -> dict[str, Any]:
    return {"event_id": event_id, "user_id": f"ü/{user}", "item_id": "i", "type": "click"}


async def test_accepted_events_and_items_are_in_kafka_under_the_usual_keys(log: RunningBroker, door: Door) -> None:
    async with httpx.AsyncClient(base_url=door.url) as client:
        many = await client.post("/events", json=[click(f"many-{n}", n % 7) for n in range(500)])
        assert (many.status_code, many.json()["accepted"]) == (200, 500)
        put = await client.put("/items/a%2Fb", json={"title": "Lamp", "price": 1})
        patched = await client.patch("/items/a%2Fb", json={"price": 2}, headers={"if-match": put.headers["etag"]})
        assert (patched.status_code, patched.json()["item"]["price"]) == (200, 2)
        gone = await client.delete("/items/a%2Fb", params={"purge": "true"})
        asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
        assert (await client.options("/events", headers=asked)).status_code == 200
    events = await stored(log, "many-")
    assert {event.event_id for _, event in events} == {f"many-{n}" for n in range(500)}
    assert all(record.id == event.user_id for record, event in events)
    for user in range(7):  # a user's events lie in one partition, in the order in which they were sent
        mine = [(record.partition, event.event_id) for record, event in events if event.user_id == f"ü/{user}"]
        assert len({partition for partition, _ in mine}) == 1
        assert [event_id for _, event_id in mine] == [f"many-{n}" for n in range(user, 500, 7)]
    changes = await everything(log, ITEMS)
    versions = [put.json()["version"], patched.json()["version"], gone.json()["version"]]
    assert [record.version for record in changes] == versions
    assert changes[-1].value is None
    assert changes[-1].headers == (PURGE,)


async def test_user_requests_are_in_kafka_in_the_order_of_their_responses(log: RunningBroker, door: Door) -> None:
    async with httpx.AsyncClient(base_url=door.url) as client:
        assert (await client.put("/users/a%2Fb", json={"country": "GB"})).json()["profile"]["country"] == "GB"
        assert (await client.put("/users/gone", json={"device": "phone"})).status_code == 200
        assert (await client.post("/events", json=click("one", 101))).status_code == 200
        assert (await client.delete("/users/%C3%BC%2F101/events/one")).status_code == 200
        assert (await client.post("/users/%C3%BC%2F101/merge", json={"session_id": "s"})).status_code == 200
        assert (await client.delete("/users/%C3%BC%2F101")).status_code == 200
        assert (await client.delete("/users/gone")).status_code == 200
    entries = [(r.id, decode_entry(r.value, append_ms=r.append_ms)) for r in await everything(log, CLICKS)]
    assert [type(entry) for key, entry in entries if key == "ü/101"] == [Event, Remove, Erase]
    assert [type(entry) for key, entry in entries if key == "s"] == [Merge]
    with running_door(log) as later:  # another process knows what this one was told
        async with httpx.AsyncClient(base_url=later.url) as client:
            assert (await client.get("/users/a%2Fb")).json()["profile"]["country"] == "GB"
            assert (await client.get("/users/gone")).status_code == 404


async def test_no_acknowledged_event_is_missing_after_the_broker_was_killed(log: RunningBroker, door: Door) -> None:
    """Callers send throughout; what was answered 200 is in the log, what was not gets a 503 and can be sent again."""
    acknowledged: set[str] = set()
    statuses: list[int] = []
    stop = asyncio.Event()

    async def send(caller: int) -> None:
        async with httpx.AsyncClient(base_url=door.url, timeout=30) as client:
            number = 0
            while not stop.is_set():
                batch = [click(f"killed-{caller}-{number}-{n}", n) for n in range(20)]
                answer = await client.post("/events", json=batch)
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    acknowledged.update(one["event_id"] for one in answer.json()["results"])
                else:
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                    await asyncio.sleep(0.05)
                number += 1

    async def until(condition: Any) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as callers:
        for caller in range(4):
            callers.create_task(send(caller))
        await until(lambda: len(acknowledged) > 1_000)
        log.kill()
        await until(lambda: statuses.count(503) >= 8)
        assert not door.is_ready()
        await asyncio.get_running_loop().run_in_executor(STARTER, log.start)
        before = len(acknowledged)
        await until(lambda: len(acknowledged) > before + 1_000)
        stop.set()
    assert wait_until(door.is_ready, DEADLINE_S)
    assert acknowledged - await stored_ids(log, "killed-") == set()


async def test_a_stopped_door_first_answers_what_it_took_on(log: RunningBroker) -> None:
    with running_door(log) as door:
        async with httpx.AsyncClient(base_url=door.url, timeout=30) as client:
            await client.post("/events", json=click("stopped-first", 1))
            sending = [asyncio.create_task(client.post("/events", json=click(f"stopped-{n}", n))) for n in range(50)]
            await sending[0]
            door.process.send_signal(signal.SIGTERM)
            results = await asyncio.gather(*sending, return_exceptions=True)
        assert await asyncio.to_thread(door.process.wait, 20) == 0
    answered = {
        f"stopped-{n}" for n, one in enumerate(results) if isinstance(one, httpx.Response) and one.status_code == 200
    }
    assert answered - await stored_ids(log, "stopped-") == set()
    assert answered


def test_a_port_in_use_is_said_in_one_line(log: RunningBroker, door: Door) -> None:
    settings = {**os.environ, "NEARLINE_KAFKA": log.bootstrap, "NEARLINE_INGEST_PORT": str(door.port)}
    done = subprocess.run(
        [sys.executable, "-m", "services.ingest"], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert f"ingest: cannot listen on {HOST}:{door.port}" in done.stderr


async def test_while_kafka_hangs_callers_get_503_at_once_and_memory_stays_flat(log: RunningBroker, door: Door) -> None:
    """A broker that is stopped takes connections and says nothing: the worst kind of away."""
    ours = psutil.Process(door.process.pid)
    context = {"note": "x" * 400}
    body = orjson.dumps([{**click(f"e{n}", n), "context": context} for n in range(500)])  # a quarter of a MiB
    statuses: Counter[int] = Counter()

    async def flood(client: httpx.AsyncClient, end: float) -> None:
        while time.monotonic() < end:
            statuses[(await client.post("/events", content=body)).status_code] += 1

    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=door.url, timeout=60, limits=limits) as client:
        assert (await client.post("/events", content=body)).status_code == 200
        sizes = [ours.memory_info().rss]
        log.process.send_signal(signal.SIGSTOP)
        try:
            for seconds in (3, 5):
                end = time.monotonic() + seconds
                await asyncio.gather(*(flood(client, end) for _ in range(200)))
                sizes.append(ours.memory_info().rss)
        finally:
            log.process.send_signal(signal.SIGCONT)
        assert statuses.keys() <= {429, 503}
        # On a crowded machine bodies arrive so slowly that they meet a log known to be away, and not each other.
        assert statuses.total() > 50
        # 200 connections at once, each with its buffers, cost once; what comes after costs nothing more.
        assert sizes[1] - sizes[0] < 500 * MIB, sizes
        assert sizes[2] - sizes[1] < 50 * MIB, sizes

        async def accepted() -> None:
            while (await client.post("/events", content=body)).status_code != 200:
                await asyncio.sleep(0.1)

        await asyncio.wait_for(accepted(), DEADLINE_S)
    print(f"sizes {[size // MIB for size in sizes]} MiB; {statuses}")
