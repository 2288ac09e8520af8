"""A data folder of the tree of 2026-11-22 under this one: keys, users, items and answers are as they were.

tools/upgrade_fixture.py made the archive and says what is in it.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("supervisor")

import httpx

from local.processes import wait_until
from local.system import System, embedded_system
from tests.e2e.test_whole_system import DEADLINE_S, bearer
from tools.upgrade_fixture import ARCHIVE, DELETED, ITEMS, SETTINGS, new_folder, unpack

_OF_THIS_ANSWER = {"request_id", "took_ms", "stored_ms"}  # the store may have been filled again


@dataclass(frozen=True)
class Upgraded:
    """The running system, and the answers of the old one before it was stopped."""

    system: System
    before: dict[str, Any]

    def read(self, path: str, **asked: str | int) -> dict[str, Any]:
        """What retrieval answers, with the status."""
        url = f"{self.system.retrieval}{path}"
        answer = httpx.get(url, params=asked, headers=bearer(self.system), timeout=20.0)
        return {**answer.json(), "status": answer.status_code}

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """What ingest answers, which must be a 200."""
        url = f"{self.system.ingest}{path}"
        answer = httpx.request(method, url, json=body, headers=bearer(self.system), timeout=20.0)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def click(self, user: str, item: str, event_id: str, time_ms: int = 0) -> None:
        """Send one event; a user's events are used in this order."""
        told = {"event_id": event_id, "user_id": user, "item_id": item, "type": "click"}
        assert self.call("POST", "/events", told | ({"time_ms": time_ms} if time_ms else {}))["accepted"] == 1

    def shown(self, user: str) -> list[str]:
        """The ids of all that the user is recommended."""
        return ids(self.read(f"/recommend/{user}", k=100))


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


@pytest.fixture(scope="module")
def upgraded() -> Iterator[Upgraded]:
    data = new_folder()
    try:
        unpack(ARCHIVE, data)
        before = json.loads((data / "expected.json").read_text())
        with embedded_system(data, settings=SETTINGS, say=print) as running:
            yield Upgraded(running, before)
    finally:
        shutil.rmtree(data)


def test_the_job_goes_on_from_the_old_checkpoint(upgraded: Upgraded) -> None:
    page = httpx.get(f"http://127.0.0.1:{upgraded.system.ports.job}/metrics", timeout=10.0).text
    restored = [line for line in page.splitlines() if line.startswith("nearline_job_restored_checkpoint_info{")]
    assert len(restored) == 1, page


def test_the_same_keys_open_the_same_doors(upgraded: Upgraded) -> None:
    keys, system = upgraded.before["keys"], upgraded.system

    def status(key: str, method: str, url: str, body: Any = None) -> int:
        return httpx.request(method, url, json=body, headers=bearer(system, keys[key]), timeout=10.0).status_code

    one = f"{system.retrieval}/users/fred"
    assert status("read", "GET", one) == 200
    assert status("items", "GET", f"{system.ingest}/items/teapot-1") == 200
    assert status("admin", "PUT", f"{system.ingest}/users/nina", {"country": "DE"}) == 200
    skipped = {"user_id": "nina", "item_id": "lamp-0", "type": "skip"}  # of no weight: the next tests' lists stay
    assert status("events", "POST", f"{system.ingest}/events", skipped) == 200
    assert status("events", "GET", one) == 403
    assert status("revoked", "GET", one) == 401


def test_who_was_known_is_known_with_the_same_history(upgraded: Upgraded) -> None:
    for user, before in upgraded.before["users"].items():
        now = upgraded.read(f"/users/{user}")
        if before["status"] == 200:
            fields = before.keys() - _OF_THIS_ANSWER
            assert {name: now.get(name) for name in fields} == {name: before[name] for name in fields}
        else:
            assert now["status"] == before["status"], f"{user} had left"


def test_answers_are_as_they_were(upgraded: Upgraded) -> None:
    for user, before in upgraded.before["recommend"].items():
        now = upgraded.read(f"/recommend/{user}", k=100)
        assert ids(now) == ids(before), user
        scores = [item["score"] for item in before["items"]]
        assert [item["score"] for item in now["items"]] == pytest.approx(scores, abs=1e-3), user
        assert now["history_version"] == before["history_version"]
    assert ids(upgraded.read("/recommend/fred", scenario="home")) == ids(upgraded.before["home"])


def test_items_with_their_filters_and_profiles_are_as_they_were(upgraded: Upgraded) -> None:
    similar = upgraded.before["similar"]
    assert ids(upgraded.read("/similar/teapot-1", k=10)) == ids(similar["teapot-1"])
    assert upgraded.call("GET", "/items/teapot-1")["item"] == upgraded.before["item"]["item"]
    assert upgraded.call("GET", "/users/bert")["profile"] == upgraded.before["profile"]["profile"]
    red = upgraded.read("/recommend/unknown", k=100, filter='attributes.colour = "red"')
    assert set(ids(red)) == {item_id for item_id, item in ITEMS.items() if item["title"].startswith("red")}
    assert DELETED not in upgraded.shown("unknown")


def test_a_click_goes_on_from_the_old_history(upgraded: Upgraded) -> None:
    before, shown = upgraded.before["users"]["anna"], upgraded.shown("anna")
    upgraded.click("anna", "lamp-3", "new-anna")
    assert wait_until(lambda: upgraded.read("/users/anna")["newest_event_id"] == "new-anna", DEADLINE_S)
    after = upgraded.read("/users/anna")
    assert after["events"] == 50
    assert after["seen"] == before["seen"] + 1
    assert after["purchased"] == before["purchased"]
    assert set(upgraded.shown("anna")) == set(shown) - {"lamp-3"}


def test_an_erased_user_and_a_removed_event_do_not_come_back(upgraded: Upgraded) -> None:
    old_ms = upgraded.before["users"]["anna"]["as_of_ms"]
    upgraded.click("cora", "clock-0", "e-64", old_ms)
    upgraded.click("emil", "clock-6", "e-72", old_ms)
    upgraded.click("emil", "clock-7", "new-emil")
    assert wait_until(lambda: upgraded.read("/users/emil")["newest_event_id"] == "new-emil", DEADLINE_S)
    assert "clock-6" in upgraded.shown("emil")
    upgraded.click("cora", "clock-1", "new-cora")
    assert wait_until(lambda: upgraded.read("/users/cora").get("newest_event_id") == "new-cora", DEADLINE_S)
    assert upgraded.read("/users/cora")["events"] == 1


def test_a_late_event_of_a_merged_session_is_its_users(upgraded: Upgraded) -> None:
    upgraded.click("s-1", "lamp-5", "late-of-session", upgraded.before["users"]["dora"]["as_of_ms"] + 1)
    assert wait_until(lambda: upgraded.read("/users/dora")["seen"] == 4, DEADLINE_S)
    assert "lamp-5" not in upgraded.shown("dora")


def test_items_of_before_change_and_go(upgraded: Upgraded) -> None:
    titles: dict[str, str] = {}

    def is_changed() -> bool:
        found = upgraded.read("/recommend/unknown", k=100)["items"]
        titles.update({item["item_id"]: item["title"] for item in found})
        return titles.get("lamp-0") == "a new title" and "lamp-1" not in ids({"items": found})

    upgraded.call("PATCH", "/items/lamp-0", {"title": "a new title"})
    upgraded.call("DELETE", "/items/lamp-1")
    assert wait_until(is_changed, DEADLINE_S), titles


def test_an_erasure_of_someone_of_before_is_whole(upgraded: Upgraded) -> None:
    begin_ms = time.time_ns() // 1_000_000
    upgraded.call("DELETE", "/users/fred")
    assert wait_until(lambda: upgraded.read("/users/fred")["status"] == 404, DEADLINE_S)
    upgraded.click("fred", "lamp-3", "late-fred", begin_ms - 1000)
    upgraded.click("fred", "teapot-0", "new-fred")
    assert wait_until(lambda: upgraded.read("/users/fred").get("newest_event_id") == "new-fred", DEADLINE_S)
    assert "lamp-3" in upgraded.shown("fred")
