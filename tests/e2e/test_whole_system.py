"""The whole system as processes on free ports: what a click changes, and what kill -9 does not."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("supervisor")

import httpx

from local.processes import wait_until
from local.system import System, embedded_system, http_ok
from nearline.adapters.kafka import Producer, Topics
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.items import Item, encode_item
from nearline.topics import CLICKS, CLICKS_DLQ, ITEMS

DEADLINE_S = 240.0  # on a crowded machine the job alone takes a minute and more to come back
KINDS = ("lantern", "teapot", "cushion")
CATALOGUE = {
    f"{kind}-{n}": Item(f"{colour} {kind} number {n}", category=f"{kind}s", price=n + 1.0)
    for kind in KINDS
    for n, colour in enumerate(("red", "blue", "green", "white", "black", "pink", "grey", "gold", "small", "large"))
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("system") / "data", say=print) as running:
        append(running, ITEMS, [(item_id, encode_item(item)) for item_id, item in CATALOGUE.items()])
        everything = set(CATALOGUE)
        assert wait_until(lambda: everything <= set(shown(running, "nobody", k=500)), DEADLINE_S), "items never came"
        yield running


def append(system: System, topic: str, messages: Sequence[tuple[str, bytes | None]]) -> None:
    """Append, again and again while the log is away: the same events sent twice change nothing."""

    async def send() -> None:
        async with Producer(system.bootstrap) as producer:
            await producer.send_all(topic, [(key.encode(), value) for key, value in messages])

    def sent() -> bool:
        try:
            asyncio.run(send())
        except Unavailable:
            return False
        return True

    assert wait_until(sent, DEADLINE_S)


def event(user_id: str, item_id: str, kind: str = "click") -> Event:
    return Event(f"e2e-{uuid.uuid4().hex}", user_id, item_id, kind, time.time_ns() // 1_000_000)


def click(system: System, *events: Event) -> None:
    append(system, CLICKS, [(each.user_id, encode_event(each)) for each in events])


def answer(system: System, user_id: str, k: int = 10) -> dict[str, Any]:
    """The user's answer, empty while retrieval is away."""
    try:
        response = httpx.get(f"{system.retrieval}/recommend/{user_id}", params={"k": k}, timeout=5.0)
    except httpx.HTTPError:
        return {"items": [], "newest_event_id": None}
    assert response.status_code in (200, 503), response.text
    return dict(response.json()) if response.status_code == 200 else {"items": [], "newest_event_id": None}


def shown(system: System, user_id: str, k: int = 10) -> list[str]:
    return [item["item_id"] for item in answer(system, user_id, k)["items"]]


def uses(system: System, last: Event) -> bool:
    return bool(answer(system, last.user_id)["newest_event_id"] == last.event_id)


def test_a_click_is_in_the_next_answer_and_says_so(system: System) -> None:
    first = event("anna", "teapot-1")
    click(system, first)
    assert wait_until(lambda: uses(system, first), DEADLINE_S)
    before = answer(system, "anna", k=30)
    second = event("anna", "lantern-2")
    click(system, second)
    assert wait_until(lambda: uses(system, second), DEADLINE_S)
    after = answer(system, "anna", k=30)
    assert after["history_version"] > before["history_version"]
    assert "lantern-2" in {item["item_id"] for item in before["items"]}
    assert not {"lantern-2", "teapot-1"} & {item["item_id"] for item in after["items"]}
    assert not after["degraded"]


def test_a_click_by_http_is_in_the_next_answer(system: System) -> None:
    body = {"user_id": "clara/ü 7", "item_id": "teapot-3", "type": "click", "context": {"device": "phone"}}
    sent = httpx.post(f"{system.ingest}/events", json=body, timeout=10.0)
    assert sent.status_code == 200, sent.text
    event_id = sent.json()["results"][0]["event_id"]
    assert wait_until(lambda: answer(system, quote("clara/ü 7"))["newest_event_id"] == event_id, DEADLINE_S)


def test_an_item_by_http_comes_is_hidden_and_goes(system: System) -> None:
    url = f"{system.ingest}/items/lantern%2Fnew"

    def is_shown() -> bool:
        return "lantern/new" in shown(system, "nobody", k=500)

    assert httpx.put(url, json={"title": "a new lantern", "category": "lanterns"}, timeout=10.0).status_code == 200
    assert wait_until(is_shown, DEADLINE_S)
    assert httpx.patch(url, json={"available": False}, timeout=10.0).status_code == 200
    assert wait_until(lambda: not is_shown(), DEADLINE_S)
    assert httpx.patch(url, json={"available": True}, timeout=10.0).json()["item"]["title"] == "a new lantern"
    assert wait_until(is_shown, DEADLINE_S)
    assert httpx.delete(url, timeout=10.0).status_code == 200
    assert wait_until(lambda: not is_shown(), DEADLINE_S)


def test_a_new_item_comes_and_a_deleted_one_goes(system: System) -> None:
    append(system, ITEMS, [("teapot-new", encode_item(Item("a new teapot", category="teapots")))])
    assert wait_until(lambda: "teapot-new" in shown(system, "nobody", k=500), DEADLINE_S)
    append(system, ITEMS, [("teapot-new", None)])
    assert wait_until(lambda: "teapot-new" not in shown(system, "nobody", k=500), DEADLINE_S)


def test_nonsense_becomes_a_dead_letter_and_the_clicks_behind_it_count(system: System) -> None:
    good = event("berta", "cushion-3")
    append(system, CLICKS, [("berta", b"{"), ("berta", b'{"v":1,"user":"berta"}'), ("berta", encode_event(good))])
    assert wait_until(lambda: uses(system, good), DEADLINE_S)
    topics = Topics(system.bootstrap)
    try:
        assert wait_until(lambda: topics.end_offset(CLICKS_DLQ) >= 2, DEADLINE_S)
    finally:
        topics.close()


@pytest.mark.parametrize("part", ["triton", "user_tower", "item_tower", "retrieval", "ingest", "last_n", "broker"])
def test_a_part_is_killed_and_no_click_is_lost(system: System, part: str) -> None:
    """Every user's newest click of before, amid and after the kill is used by that user's answer."""
    users = [f"{part}-{n}" for n in range(20)]
    click(system, *(event(user, "lantern-1") for user in users))
    pid = system.supervisor.pid_of(part)
    os.kill(pid, signal.SIGKILL)
    amid = [event(user, "cushion-1") for user in users]
    click(system, *amid[:10])
    assert wait_until(lambda: system.supervisor.pid_of(part) not in (0, pid), DEADLINE_S)
    after = [event(user, "teapot-2") for user in users[10:]]
    click(system, *amid[10:], *after)
    for last in (*amid[:10], *after):
        assert wait_until(lambda last=last: uses(system, last), DEADLINE_S), f"{part} killed: {last.user_id}'s is lost"


def test_every_part_is_ready_again_after_all_that(system: System) -> None:
    for part in system.parts():
        assert wait_until(part.is_ready, DEADLINE_S), part.name
    assert http_ok(system.ports.retrieval, "/healthz")()
