"""Logs: each line tells its request and its trace, and never who the user is."""

import asyncio
import io
import json
from typing import Any

import pytest
import structlog

from nearline.hashing import pseudonym
from nearline.log import Record
from nearline.telemetry import LoggedRequest, configure_logs, get_logger, in_request
from tests.support.ingest_door import CLICK, Door
from tests.unit.retrieval.test_reading import Replica, Store, run
from tests.unit.user_tower.test_worker import Stage

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

pytestmark = pytest.mark.anyio


@pytest.fixture
def lines():  # type: ignore[no-untyped-def]
    """What was logged since, as objects; logging is as it was before afterwards."""
    written, before = io.StringIO(), structlog.get_config()
    configure_logs("test", level="debug", key="k")
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=written))

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in written.getvalue().splitlines()]

    yield read
    structlog.configure(**before)
    configure_logs("test")
    structlog.configure(**before)


def test_a_line_tells_the_request_the_trace_and_a_hash_of_the_user(lines: Any) -> None:
    async def story() -> None:
        in_request(LoggedRequest("r-1", "maria@example.org", TRACEPARENT))
        get_logger().info("something")

    asyncio.run(story())
    get_logger().info("something else", user_id="maria@example.org")
    inside, outside = lines()
    assert inside["request_id"] == "r-1"
    assert inside["trace_id"] == TRACEPARENT.split("-")[1]
    assert inside["user"] == outside["user"] == pseudonym("maria@example.org", "k")
    assert "request_id" not in outside
    assert all("maria" not in json.dumps(line) for line in (inside, outside))


def test_a_hash_depends_on_the_key_and_on_nothing_else() -> None:
    assert pseudonym("u") == pseudonym("u", "") != pseudonym("u", "k")
    assert len({pseudonym(f"u{n}", "k" * 100) for n in range(1_000)}) == 1_000


async def test_each_request_at_the_door_is_a_line_at_level_debug(lines: Any) -> None:
    await Door().send(CLICK, headers={"x-request-id": "r-7", "traceparent": TRACEPARENT})
    (line,) = lines()
    told = {name: line[name] for name in ("event", "level", "request_id", "trace_id", "route", "status")}
    assert told == {
        "event": "request",
        "level": "debug",
        "request_id": "r-7",
        "trace_id": TRACEPARENT.split("-")[1],
        "route": "events",
        "status": 200,
    }


async def test_at_level_info_it_is_none(lines: Any) -> None:
    configure_logs("test")
    written = io.StringIO()
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=written))
    await Door().send(CLICK)
    assert written.getvalue() == ""


def test_a_damaged_document_is_told_of_without_its_user(lines: Any) -> None:
    async def ask() -> None:
        replica = Replica(Store())
        await replica.open()
        replica.store._values["maria@example.org"] = (10**16, b"NU damaged")
        in_request(LoggedRequest("r-2", "maria@example.org"))
        await replica.ask("maria@example.org")

    run(ask())
    line = lines()[-1]
    assert (line["request_id"], line["user"]) == ("r-2", pseudonym("maria@example.org", "k"))
    assert "maria" not in json.dumps(lines())


async def test_a_refused_sequence_is_told_of_without_what_it_holds(lines: Any) -> None:
    stage = Stage([Record("user-sequences", 3, 9, 1, b"maria", b'{"v":1,"user_id":"maria"}')])
    await stage.worker.step()
    (line,) = (one for one in lines() if one["event"] == "sequence refused")
    assert (line["reason"], line["record"]) == ("bad_sequence", "user-sequences/3/9")
    assert "maria" not in json.dumps(line)
