"""What a caller of ingest may send: how much at once, how many events, and of which users."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import Signer, UserTokens
from nearline.events import MAX_EVENT_BYTES
from nearline.guard import Guard, callers_in
from nearline.key_ring import KeyRing
from nearline.keys import encode_key, make_key
from nearline.log import Record
from services.ingest.api import RULES
from services.ingest.bodies import LEAST, Bounds
from tests.support.ingest_door import CLICK, NOW_MS, Door

pytestmark = pytest.mark.anyio


class GuardedDoor:
    """Ingest behind the guard, and its keys by name."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.door = Door(bounds)
        self.signer = Signer()
        self._ring = KeyRing()
        self.guard = Guard(
            self.door.app,
            RULES,
            self._ring,
            tokens=UserTokens(),
            spend=AddressLimits().spend,
            is_near=callers_in(""),
        )

    def key(self, *scopes: str, **more: Any) -> str:
        text, key = make_key("k", scopes, now_ms=NOW_MS, **more)
        self._ring.apply(Record("api-keys", 0, len(self._ring.all()), 0, key.id.encode(), encode_key(key)))
        return text

    def token(self, user_id: str, scope: str = "events") -> str:
        key = self.key("read", "events", token_key=self.signer.public)
        return self.signer.token(key[3:15], user_id, now_s=int(time.time()), scope=scope)

    async def ask(self, key: str, method: str, path: str, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.guard), base_url="http://door") as client:
            headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
            return await client.request(method, path, headers=headers, **more)

    async def send(self, key: str, *events: Any) -> httpx.Response:
        return await self.ask(key, "POST", "/events", json=list(events))

    @contextlib.asynccontextmanager
    async def unfinished(self, key: str, count: int, *, announced: int, sent: bytes = b"[") -> AsyncIterator[None]:
        """*count* requests whose bodies were announced with a length, and of which only *sent* comes."""
        waiting, ended = asyncio.Semaphore(0), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield sent
            waiting.release()
            await ended.wait()

        headers = {"content-length": str(announced)}
        asked = [
            asyncio.create_task(self.ask(key, "POST", "/events", content=body(), headers=headers)) for _ in range(count)
        ]
        async with asyncio.timeout(5):
            for _ in range(count):
                await waiting.acquire()
        try:
            yield
        finally:
            ended.set()
            await asyncio.gather(*asked)


def events(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{**CLICK, "event_id": f"e-{nth}", **more} for nth in range(count)]


def reasons(answer: httpx.Response) -> set[str]:
    return {one["reason"] for one in answer.json().get("results", answer.json().get("detail"))}


# --- room for bodies --------------------------------------------------------------------------------------------------


async def test_bodies_that_are_announced_and_never_come_keep_nobody_out() -> None:
    guarded = GuardedDoor(Bounds(body=10 * LEAST, in_flight=20 * LEAST, public_body=4 * LEAST))
    async with guarded.unfinished(guarded.key("events"), 8, announced=4 * LEAST):
        assert (await guarded.send(guarded.key("events", "items"), CLICK)).status_code == 200
        assert (await guarded.send(guarded.key("events"), CLICK)).status_code == 200


async def test_a_key_holds_at_most_half_of_the_room_and_all_public_callers_together_too() -> None:
    guarded = GuardedDoor(Bounds(body=LEAST, in_flight=8 * LEAST))
    backend, page = guarded.key("events", "items"), guarded.key("events")
    for holder, fellow in ((backend, None), (page, guarded.key("events")), (page, guarded.token("u"))):
        async with guarded.unfinished(holder, 4, announced=9):
            refused = await guarded.send(fellow or holder, CLICK)
            assert (refused.status_code, reasons(refused)) == (429, {"overloaded"})
            other = page if holder == backend else backend
            assert (await guarded.send(other, CLICK)).status_code == 200
        assert (await guarded.send(fellow or holder, CLICK)).status_code == 200, "room is given back"


async def test_while_no_room_is_left_a_user_is_erased_and_an_event_removed() -> None:
    guarded = GuardedDoor(Bounds(body=LEAST, in_flight=32 * LEAST))
    admin = guarded.key("admin")
    async with (
        guarded.unfinished(guarded.key("events", "items"), 15, announced=9),
        guarded.unfinished(guarded.key("events", "read"), 15, announced=9),
    ):
        assert (await guarded.ask(admin, "PUT", "/users/u", json={"country": "GB"})).status_code == 429
        assert (await guarded.ask(admin, "DELETE", "/users/u")).status_code == 200
        assert (await guarded.ask(admin, "DELETE", "/users/u/events/e")).status_code == 200


async def test_a_pages_bodies_are_small() -> None:
    guarded = GuardedDoor()
    large = events(2, context={"note": "x" * (MAX_EVENT_BYTES * 3 // 4)})
    for public in (guarded.key("events"), guarded.token("u")):
        assert (await guarded.send(public, *large)).status_code == 413
        announced = {"content-length": "4000000"}
        assert (await guarded.ask(public, "POST", "/events", content=b"", headers=announced)).status_code == 413
        assert (await guarded.send(public, large[0])).status_code == 200
    assert (await guarded.send(guarded.key("events", "items"), *large)).status_code == 200


# --- events, and the users that they are of ---------------------------------------------------------------------------


async def test_each_event_of_a_batch_counts_against_the_limit() -> None:
    guarded = GuardedDoor()
    page = guarded.key("events", per_minute=60)
    answers = [await guarded.send(page, *events(20)) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert reasons(answers[-1]) == {"limit"}
    assert 0 < int(answers[-1].headers["retry-after"]) <= 20
    assert len(guarded.door.clicks) == 40


async def test_a_page_sends_at_most_fifty_events_at_once_and_a_backend_what_its_limit_allows() -> None:
    guarded = GuardedDoor()
    for scopes in (("events",), ("events", "items")):
        assert reasons(await guarded.send(guarded.key(*scopes, per_minute=60), *events(51))) == {"wrong_count"}
        assert (await guarded.send(guarded.key(*scopes, per_minute=60), *events(50))).status_code == 200
    assert reasons(await guarded.send(guarded.token("u"), *events(51))) == {"wrong_count"}
    assert (await guarded.send(guarded.token("u"), *events(50))).status_code == 200
    assert reasons(await guarded.send(guarded.key("events", per_minute=0), *events(51))) == {"wrong_count"}
    assert (await guarded.send(guarded.key("events", "items"), *events(500))).status_code == 200


async def test_a_token_sends_events_of_its_own_user_only() -> None:
    guarded = GuardedDoor()
    token = guarded.token("u")
    answer = await guarded.send(token, CLICK, {**CLICK, "user_id": "u2"})
    assert answer.status_code == 207
    assert [one["status"] for one in answer.json()["results"]] == ["accepted", "refused"]
    assert reasons(await guarded.send(token, {**CLICK, "user_id": "u2"})) == {"other_user"}
    assert (await guarded.ask(token, "DELETE", "/users/u")).status_code == 403
    assert [orjson.loads(value or b"")["user_id"] for _, value in guarded.door.clicks] == ["u"]


async def test_only_admins_send_events_of_the_systems_own_users() -> None:
    guarded = GuardedDoor()
    canary = {**CLICK, "user_id": "canary:3"}
    for key in (guarded.key("events"), guarded.key("events", "items", "read"), guarded.token("canary:3")):
        answer = await guarded.send(key, canary)
        assert (answer.status_code, reasons(answer)) == (422, {"synthetic_user"})
    assert (await guarded.send(guarded.key("events", "admin"), canary)).status_code == 200
