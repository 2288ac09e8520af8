"""Who may call the door: every route has a scope, and a key that stands in a page changes no item."""

import asyncio

import httpx

from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import UserTokens
from nearline.guard import Guard, callers_in, unruled
from nearline.key_ring import KeyRing
from nearline.keys import encode_key, make_key
from nearline.log import Record
from services.ingest.api import RULES
from tests.ingest_door import CLICK, LAMP, NOW_MS, Door


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    routes = Door().api.routes
    served = [(method, route.path) for route in routes for method in sorted(route.methods - {"HEAD"})]  # type: ignore[attr-defined]
    assert unruled(served, RULES) == []


def test_a_key_of_each_scope_opens_its_own_routes_only() -> None:
    door, ring = Door(), KeyRing()
    keys = {}
    for offset, scope in enumerate(("events", "items", "read")):
        keys[scope], key = make_key(scope, [scope], now_ms=NOW_MS)
        ring.apply(Record("api-keys", 0, offset, 0, key.id.encode(), encode_key(key)))
    spend = AddressLimits().spend
    guarded = Guard(door.app, RULES, ring, tokens=UserTokens(), spend=spend, is_near=callers_in(""))

    async def status(scope: str, method: str, path: str, body: object) -> int:
        transport = httpx.ASGITransport(guarded)  # type: ignore[arg-type]
        headers = {"Authorization": f"Bearer {keys[scope]}"} if scope else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            return (await client.request(method, path, json=body, headers=headers)).status_code

    async def main() -> None:
        for scope, events, items in (("events", 200, 403), ("items", 403, 200), ("read", 403, 403), ("", 401, 401)):
            assert await status(scope, "POST", "/events", CLICK) == events
            for item_id in ("lamp-1", "a%2Fb", "%C3%BC%0A"[:6]):
                assert await status(scope, "PUT", f"/items/{item_id}", LAMP) == items

    asyncio.run(main())
    assert len(door.clicks) == 1
