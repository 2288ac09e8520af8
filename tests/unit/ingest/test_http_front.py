"""Access to ingest: every route needs a scope, and the key of a page cannot change items."""

import asyncio
from collections import Counter

import httpx

from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import UserTokens
from nearline.events import Event
from nearline.guard import Guard, callers_in, unruled
from nearline.key_ring import KeyRing
from nearline.keys import encode_key, make_key
from nearline.log import Record
from nearline.user_commands import Erase, Merge, Remove, decode_entry
from services.ingest.api import RULES
from tests.support.ingest_door import CLICK, LAMP, NOW_MS, Door


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    routes = Door().api.routes
    served = [(method, route.path) for route in routes for method in sorted(route.methods - {"HEAD"})]  # type: ignore[attr-defined]
    assert unruled(served, RULES) == []


def test_nothing_new_is_stored_under_an_id_that_clients_take_out_of_a_path() -> None:
    door = Door()

    async def told(method: str, path: str, body: object) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door.app), base_url="http://door") as client:
            return (await client.request(method, path, json=body)).status_code

    async def main() -> None:
        for one_id in (".", ".."):
            escaped = one_id.replace(".", "%2E")
            assert await told("PUT", f"/items/{escaped}", LAMP) == 422
            assert await told("PUT", f"/users/{escaped}", {"country": "GB"}) == 422
            assert await told("POST", f"/users/{escaped}/merge", {"session_id": "s"}) == 422
            assert await told("POST", "/events", {**CLICK, "user_id": one_id}) == 422
            assert await told("DELETE", f"/users/{escaped}", None) == 200, "an older build stored such ids"

    asyncio.run(main())


def test_a_key_of_each_scope_opens_its_own_routes_only() -> None:
    door, ring = Door(), KeyRing()
    keys = {}
    for offset, scope in enumerate(("events", "items", "read", "admin")):
        keys[scope], key = make_key(scope, [scope], now_ms=NOW_MS)
        ring.apply(Record("api-keys", 0, offset, 0, key.id.encode(), encode_key(key)))
    spend = AddressLimits().spend
    guarded = Guard(door.app, RULES, ring, tokens=UserTokens(), spend=spend, is_near=callers_in(""))

    async def status(scope: str, method: str, path: str, body: object) -> int:
        transport = httpx.ASGITransport(guarded)
        headers = {"Authorization": f"Bearer {keys[scope]}"} if scope else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            return (await client.request(method, path, json=body, headers=headers)).status_code

    async def main() -> None:
        opened = {"events": 200, "items": 200, "read": 200, "admin": 200}
        for scope in (*opened, ""):
            of = {one: (status if one == scope else 403) if scope else 401 for one, status in opened.items()}
            assert await status(scope, "POST", "/events", CLICK) == of["events"]
            for one_id in ("lamp-1", "a%2Fb", "%C3%BC"):
                assert await status(scope, "PUT", f"/items/{one_id}", LAMP) == of["items"]
                assert await status(scope, "PUT", f"/users/{one_id}", {"country": "GB"}) == of["admin"]
                assert await status(scope, "POST", f"/users/{one_id}/merge", {"session_id": "s"}) == of["admin"]
                assert await status(scope, "DELETE", f"/users/{one_id}/events/c-1", None) == of["admin"]
        for scope in (*opened, ""):  # everybody's profile is known by now
            of = {one: (status if one == scope else 403) if scope else 401 for one, status in opened.items()}
            assert await status(scope, "GET", "/users/a%2Fb", None) == of["read"]
            assert await status(scope, "DELETE", "/users/a%2Fevents%2Fb", None) == of["admin"]

    asyncio.run(main())
    entries = [decode_entry(value, append_ms=NOW_MS) for _, value in door.clicks]
    assert Counter(map(type, entries)) == {Event: 1, Merge: 3, Remove: 3, Erase: 1}
