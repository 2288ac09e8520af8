"""The guard: what keys, tokens and origins may do, and that refusals reveal nothing."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import httpx
import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import Signer, UserTokens, public_key_in
from nearline.errors import BadInput, Misconfigured
from nearline.guard import (
    _REMEMBERED,
    STATUS_RULES,
    AsgiApp,
    Guard,
    RoutePermission,
    Routes,
    address_of,
    callers_in,
    unruled,
)
from nearline.key_ring import KeyRing
from nearline.keys import EVERYTHING, USER_PER_MINUTE, Key, Permission, burst_of, encode_key, make_key, revoked
from nearline.log import Record
from nearline.telemetry import configure_logs, get_logger

PAGE = "https://shop.example"
RULES = (
    RoutePermission("POST", "/events", Permission.EVENTS, own=True),
    RoutePermission("GET", "/recommend/{user_id:path}", Permission.READ),
    RoutePermission("GET", "/users/{user_id}/similar", Permission.READ),
    RoutePermission("GET", "/trending", Permission.READ),
    RoutePermission("PUT", "/items/{item_id:path}", Permission.ITEMS),
    RoutePermission("DELETE", "/users/{user_id:path}", Permission.ADMIN),
    RoutePermission("GET", "/changes/{user_id}", Permission.READ, is_stream=True),
    RoutePermission("POST", "/click", Permission.EVENTS),
    *STATUS_RULES,
)
CALLS = [
    (rule, rule.method, rule.template.replace("{user_id:path}", "u1").replace("{user_id}", "u1"))
    for rule in RULES
    if rule.scope is not None
]
CALLS = [(rule, method, path.replace("{item_id:path}", "i1")) for rule, method, path in CALLS]


def echo() -> Starlette:
    """An application that says what reached it."""

    async def say(request: Request) -> JSONResponse:
        return JSONResponse({"reached": request.url.path})

    return Starlette(routes=[Route(rule.template, say, methods=[rule.method]) for rule in RULES])


class Ahead(int):
    """Seconds from when the test runs: it is collected long before."""


@dataclass
class World:
    """An application behind a guard, a shop with a signing key, and callers at any address."""

    ring: KeyRing = field(default_factory=KeyRing)
    offset: int = 0
    address: str = "203.0.113.5"
    read: bool = True
    signer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.guard = Guard(
            echo(),
            RULES,
            self.ring,
            tokens=UserTokens(),
            spend=AddressLimits().spend,
            is_near=callers_in("127.0.0.0/8, ::1"),
            is_read=lambda: self.read,
        )

    def put(self, key: Key) -> None:
        self.ring.apply(Record("api-keys", 0, self.offset, 0, key.id.encode(), encode_key(key)))
        self.offset += 1

    def key(self, *scopes: str, origins: tuple[str, ...] = (), per_minute: int | None = None) -> str:
        text, key = make_key("k", scopes, now_ms=1, origins=origins, per_minute=per_minute)
        self.put(key)
        return text

    def shop(self, *scopes: str) -> str:
        """The id of a key whose owner signs tokens; for read if no *scopes* are given."""
        public = self.signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        _, key = make_key("shop", scopes or ["read"], now_ms=1, token_key=public)
        self.put(key)
        return key.id

    def revoke(self, key_id: str) -> None:
        known = self.ring.get(key_id)
        assert known is not None
        self.put(revoked(known, now_ms=2))

    def send(self, method: str, path: str, key: str = "", **headers: str) -> httpx.Response:
        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(self.guard, client=(self.address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                known = {"Authorization": f"Bearer {key}"} if key else {}
                return await client.request(
                    method, path, headers=known | {n.replace("_", "-"): v for n, v in headers.items()}
                )

        return asyncio.run(exchange())

    def get(self, path: str, key: str = "", **headers: str) -> httpx.Response:
        return self.send("GET", path, key, **headers)

    def token(self, kid: str, signer: Any = None, algorithm: str = "EdDSA", **claims: Any) -> str:
        now = int(time.time())
        said = {"user_id": "u1", "scope": "read", "iat": now, "exp": now + 600} | claims
        said = {name: now + value if isinstance(value, Ahead) else value for name, value in said.items()}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, signer or self.signer, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture
def world() -> World:
    return World()


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """The one problem that a refusal names, in the form that all refusals of the APIs have."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"detail", "allowed"}
    (problem,) = body["detail"]
    assert set(problem) == {"field", "came", "problem"}
    return dict(problem)


# --- scopes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "method", "path"), CALLS, ids=[f"{m} {p}" for _, m, p in CALLS])
@pytest.mark.parametrize("scope", list(Permission))
def test_every_route_opens_for_its_scope_and_for_no_other(
    world: World, rule: RoutePermission, method: str, path: str, scope: Permission
) -> None:
    response = world.send(method, path, world.key(scope))
    if scope == rule.scope:
        assert response.json() == {"reached": path}
    else:
        problem = refused(response, 403)
        assert problem == {"field": "scope", "came": str(scope), "problem": f"needs a key for {rule.scope}"}
        assert f'scope="{rule.scope}"' in response.headers["www-authenticate"]


@pytest.mark.parametrize(("rule", "method", "path"), CALLS, ids=[f"{m} {p}" for _, m, p in CALLS])
def test_no_route_opens_without_a_key(world: World, rule: RoutePermission, method: str, path: str) -> None:
    problem = refused(response := world.send(method, path), 401)
    assert problem["problem"] == "this API needs a key"
    assert response.headers["www-authenticate"] == 'Bearer realm="nearline"'


def test_health_is_open_to_everybody(world: World) -> None:
    for path in ("/healthz", "/readyz"):
        assert world.get(path).status_code == 200
        assert world.send("HEAD", path).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json"])
def test_metrics_and_documentation_are_open_to_neighbours_who_come_themselves(world: World, path: str) -> None:
    assert world.get(path).status_code == 401
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        world.address = address
        assert world.get(path).status_code == 200
        for proxied in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
            assert world.get(path, **{proxied: "198.51.100.7"}).status_code == 401, "a proxy speaks for somebody else"
    assert world.get("/recommend/u1").status_code == 401, "nothing of users is open to neighbours"


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("localhost:8080", True), ("127.0.0.1:8080", True), ("[::1]:8080", True), ("retrieval:8080", True),
     ("Shop.example", True), ("other.example", False), ("shop.example.other.example", False), ("", False),
     ("[", False)],
)  # fmt: skip
def test_a_neighbour_needs_no_key_only_by_a_name_that_no_other_site_can_have(
    world: World, host: str, is_open: bool
) -> None:
    world.address = "127.0.0.1"
    world.guard._is_near = callers_in("127.0.0.0/8", ["shop.example"])
    for path in ("/metrics", "/openapi.json", "/docs"):
        assert world.get(path, Host=host).status_code == (200 if is_open else 401)


@pytest.mark.parametrize("text", ["300.0.0.0/8", "localhost", "10.0.0.1/8"])
def test_an_invalid_network_is_refused_at_start(text: str) -> None:
    with pytest.raises(Misconfigured, match="NEARLINE_OPEN_TO"):
        callers_in(text)


def test_a_key_may_come_as_bearer_or_as_x_api_key(world: World) -> None:
    key = world.key("read")
    assert world.get("/trending", key).status_code == 200
    assert world.get("/trending", X_API_Key=key).status_code == 200
    assert world.get("/trending", Authorization=f"bearer {key}").status_code == 200
    assert world.get("/trending", Authorization=f"Basic {key}").status_code == 401
    assert world.get("/trending", "nl_wrong", X_API_Key=key).status_code == 401, "what was said first counts"


# --- what is not there -----------------------------------------------------------------------------------------------


def test_an_unknown_route_looks_like_any_other_to_whoever_has_no_key(world: World) -> None:
    answers = [world.send(m, p) for m, p in (("GET", "/recommend/u1"), ("GET", "/secret"), ("PATCH", "/trending"))]
    assert len({(a.status_code, a.text, tuple(sorted(a.headers.items()))) for a in answers}) == 1
    wrong = "nl_" + "0" * 12 + "_" + "0" * 64
    answers = [world.send(m, p, wrong) for m, p in (("GET", "/recommend/u1"), ("GET", "/secret"), ("PATCH", "/x"))]
    assert len({(a.status_code, a.text) for a in answers}) == 1


def test_a_route_without_a_rule_is_refused_though_the_application_has_it() -> None:
    world = World()
    guard = Guard(
        echo(), RULES[:1], world.ring, tokens=UserTokens(), spend=AddressLimits().spend, is_near=callers_in("")
    )
    world.guard = guard
    key = world.key(*EVERYTHING)
    assert refused(world.get("/trending", key), 404)["problem"] == "there is no such route"
    response = world.get("/events", key)
    assert refused(response, 405)["problem"] == "this route accepts POST"
    assert response.headers["allow"] == "POST"


def test_a_web_socket_is_closed(world: World) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    asyncio.run(world.guard({"type": "websocket", "path": "/trending", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_missing_superfluous_and_shadowed_rules_are_reported() -> None:
    paths = ("/users/{user_id:path}", "/users/{user_id}/similar")
    rules = [RoutePermission("GET", path, None) for path in paths]
    routes = [("GET", "/users/{user_id}/similar"), ("GET", "/users/{user_id:path}")]
    assert unruled(routes, rules[::-1]) == []
    assert "comes before" in unruled(routes, rules)[0]
    assert unruled([*routes, ("PUT", "/x")], rules[::-1]) == ["PUT /x has no rule"]
    assert unruled(routes[:1], rules) == ["GET /users/{user_id:path} has a rule and no route"]


def test_an_id_may_hold_slashes_and_newlines_and_is_found_whole() -> None:
    found = Routes(RULES)
    assert found.find("GET", "/recommend/a/b\nc é") == (RULES[1], "a/b\nc é")
    assert found.find("GET", "/users/a/b/similar") == (None, None)
    listing = RoutePermission("GET", "/items/{item_id:text}/audience", Permission.READ)
    assert Routes([listing]).find("GET", "/items/a/b\n/audience") == (listing, None)
    assert found.find("GET", "/recommendx/u1") == (None, None)
    assert found.find("GET", "/trending/") == (None, None)


# --- wrong, revoked and unread keys ----------------------------------------------------------------------------------


def test_a_wrong_key_of_a_known_id_and_of_an_unknown_one_are_refused_alike(world: World) -> None:
    key = world.key("read")
    known = key[:-1] + ("0" if key[-1] != "0" else "1")
    unknown = "nl_" + "0" * 12 + key[15:]
    texts = {world.get("/trending", wrong).text for wrong in (known, unknown, "nonsense")}
    assert len(texts) == 1
    assert refused(world.get("/trending", known), 401)["problem"] == "no such key"


def test_a_revoked_key_opens_nothing_from_the_record_on(world: World) -> None:
    key = world.key("read")
    assert world.get("/trending", key).status_code == 200
    world.revoke(key[3:15])
    assert refused(world.get("/trending", key), 401)["problem"] == "this key was revoked"
    forged = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert refused(world.get("/trending", forged), 401)["problem"] == "no such key", "only its owner learns that"


def test_until_the_keys_are_read_requests_get_503_instead_of_401(world: World) -> None:
    world.read = False
    response = world.get("/trending", "nl_" + "0" * 12 + "_" + "0" * 64)
    refused(response, 503)
    assert response.headers["retry-after"] == "1"
    assert world.get("/trending", world.token("0" * 12)).status_code == 503


def test_wrong_keys_and_many_users_cost_no_memory_for_long(world: World) -> None:
    kid = world.shop()
    for n in range(100):
        world.get("/trending", f"nl_{n:012x}_{'0' * 64}")
        world.get("/trending", f"{n}")
        world.get("/recommend/u1", world.token(kid, user_id=f"u{n}", exp=1))
    assert world.guard._known == {}
    key, other = world.key("read"), world.key("read")
    world.get("/trending", key)
    (grant,) = world.guard._known.values()
    world.guard._known.update({b"%d" % n: grant for n in range(_REMEMBERED - 1)})
    assert len(world.guard._known) == _REMEMBERED
    assert world.get("/trending", other).status_code == 200
    assert len(world.guard._known) <= _REMEMBERED
    assert world.get("/trending", key).status_code == 200


# --- two scopes, and streams ---


def test_a_route_may_need_two_scopes(world: World) -> None:
    rule = RoutePermission("POST", "/events", Permission.EVENTS, also=Permission.READ)
    world.guard = Guard(
        echo(), [rule], world.ring, tokens=UserTokens(), spend=AddressLimits().spend, is_near=callers_in("")
    )
    assert world.send("POST", "/events", world.key("events", "read")).status_code == 200
    for alone, lacking in (("events", "read"), ("read", "events")):
        problem = refused(world.send("POST", "/events", world.key(alone)), 403)
        assert problem["problem"] == f"needs a key for {lacking}"


class Stream:
    """An answer of user u1's changes that goes on, one message at each ``say``, through a world's guard."""

    def __init__(self, world: World, key: str) -> None:
        self.sent: list[bytes] = []
        self.has_ended = False
        self._words: asyncio.Queue[bytes] = asyncio.Queue()
        self._said = asyncio.Event()
        world.guard._app = self._changes
        headers = [(b"authorization", b"Bearer " + key.encode())]
        self._scope = {"type": "http", "method": "GET", "path": "/changes/u1", "headers": headers}
        self._answer = asyncio.ensure_future(
            world.guard(self._scope | {"client": ("203.0.113.5", 1)}, self._stay, self._take)
        )

    async def _changes(self, scope: Any, receive: Any, send: Any) -> None:
        """The application: sends until its client has gone."""
        leaving = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not leaving.done():
            word = asyncio.ensure_future(self._words.get())
            await asyncio.wait((word, leaving), return_when=asyncio.FIRST_COMPLETED)
            if word.done():
                await send({"type": "http.response.body", "body": word.result(), "more_body": True})
                self._said.set()
            word.cancel()
        assert leaving.result() == {"type": "http.disconnect"}

    async def _stay(self) -> MutableMapping[str, Any]:
        """The client, which never leaves."""
        await asyncio.Event().wait()
        raise AssertionError

    async def _take(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            self.sent.append(message["body"])
            self.has_ended = not message["more_body"]

    async def say(self, word: bytes) -> None:
        self._said.clear()
        self._words.put_nowait(word)
        await asyncio.wait_for(self._said.wait(), 10)

    async def ended(self) -> None:
        """Wait until the application has stopped."""
        await asyncio.wait_for(self._answer, 10)


def test_a_stream_ends_before_the_next_message_once_its_key_is_revoked(world: World) -> None:
    async def story() -> None:
        key = world.key("read")
        stream = Stream(world, key)
        await stream.say(b"one")
        world.key("read")
        await stream.say(b"two")
        world.revoke(key[3:15])
        await stream.say(b"three")
        await stream.ended()
        assert (stream.sent, stream.has_ended) == ([b"one", b"two", b""], True)

    asyncio.run(story())


def test_a_stream_ends_when_the_key_lost_the_scope_that_opened_it(world: World) -> None:
    async def story() -> None:
        key = world.key("read")
        stream = Stream(world, key)
        await stream.say(b"one")
        known = world.ring.get(key[3:15])
        assert known is not None
        world.put(replace(known, scopes=frozenset((Permission.EVENTS,))))
        await stream.say(b"two")
        await stream.ended()
        assert stream.sent == [b"one", b""]

    asyncio.run(story())


def test_a_stream_ends_with_its_users_token(world: World) -> None:
    async def story() -> None:
        times = [time.time()]  # the token is 9 s over its time: clocks may differ by 10
        world.guard._now_s = lambda: times[0]
        stream = Stream(world, world.token(world.shop(), exp=Ahead(-9), iat=Ahead(-100)))
        await stream.say(b"one")
        deadline = time.monotonic() + 30
        while not stream.has_ended:
            times[0] += 1
            await stream.say(b"more")
            assert time.monotonic() < deadline
        await stream.ended()
        assert stream.sent[-1] == b""

    asyncio.run(story())


# --- publishable keys ------------------------------------------------------------------------------------------------


def test_a_pages_key_only_sends_events_and_only_from_its_pages(world: World) -> None:
    key = world.key("events", origins=(PAGE, "http://127.0.0.1:3000"))
    assert world.send("POST", "/events", key, Origin=PAGE).status_code == 200
    assert world.send("POST", "/events", key, Origin="http://127.0.0.1:3000").status_code == 200
    for origin in (
        "https://evil.example",
        "https://shop.example.evil.example",
        "null",
        PAGE + ":444",
        "http://shop.example",
    ):
        problem = refused(world.send("POST", "/events", key, Origin=origin), 403)
        assert (problem["field"], problem["came"]) == ("origin", origin)
    assert world.send("POST", "/events", key).status_code == 403, "a browser always says where it comes from"
    for _, method, path in CALLS:
        if path not in ("/events", "/click"):
            assert world.send(method, path, key, Origin=PAGE).status_code == 403


def until_refused(ask: Callable[[], httpx.Response]) -> tuple[int, httpx.Response]:
    """How many requests pass until one does not, and that one's answer."""
    deadline = time.monotonic() + 20
    for passed in count():
        response = ask()
        if response.status_code != 200:
            return passed, response
        assert time.monotonic() < deadline
    raise AssertionError


def test_one_address_may_send_so_much_and_the_next_address_as_much_again(world: World) -> None:
    key = world.key("events", per_minute=60)
    passed, response = until_refused(lambda: world.send("POST", "/events", key))
    assert passed >= 50
    assert refused(response, 429)["problem"] == "this key allows 60 requests or events per minute from one address"
    assert response.headers["retry-after"] == "1"
    world.address = "203.0.113.6"
    assert world.send("POST", "/events", key).status_code == 200
    world.address = "203.0.113.5"
    assert world.send("POST", "/events", world.key("events", per_minute=60)).status_code == 200, "each key counts alone"


def test_a_limit_recovers_after_what_it_said() -> None:
    limits = AddressLimits()
    waits = [limits.spend("k", "a", 60) for _ in range(51)]  # a burst of fifty, then one a second
    assert waits[:50] == [0.0] * 50
    assert 0 < waits[-1] <= 1
    deadline = time.monotonic() + 5
    while limits.spend("k", "a", 60) > 0:
        assert time.monotonic() < deadline


def test_several_events_are_as_many_units_and_are_refused_together() -> None:
    limits = AddressLimits()
    assert limits.spend("k", "a", 60, 49) == 0
    assert limits.spend("k", "a", 60, 2) > 0
    assert limits.spend("k", "a", 60, 1) == 0
    assert limits.spend("k", "b", 60, burst_of(60)) == 0


def test_limits_remember_a_bounded_number_of_addresses() -> None:
    limits = AddressLimits(addresses=100)
    for n in range(1_000):
        limits.spend("k", f"10.0.{n // 256}.{n % 256}", 600)
    assert len(limits._store._backend._client) <= 100
    assert len(limits._store._backend.expire_info) <= 100


def test_the_networks_of_one_ipv6_site_count_together_more_coarsely() -> None:
    limits = AddressLimits()

    def passed(networks: int, site: str) -> int:
        """How many of these networks of a site may send as much at once as one address may."""
        return sum(limits.spend("k", f"2001:db8:{site}:{n:x}::/64", 60, 10) <= 0 for n in range(1, networks + 1))

    assert passed(100, "1") == 16
    assert passed(1, "2") == 1, "another site"
    assert limits.spend("k", "user ::/64", 60, 10) == 0, "the id of a user is no network"


def test_an_ipv6_subscriber_is_one_address() -> None:
    def of(host: str) -> str:
        return address_of({"client": (host, 1)})

    assert of("2001:db8:1:2::3") == of("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert of("2001:db8:1:3::3") != of("2001:db8:1:2::3")
    assert of("::ffff:203.0.113.5") == of("203.0.113.5")
    assert address_of({"client": None}) == address_of({"client": ("/run/socket", 0)}) == "None"


# --- tokens of users -------------------------------------------------------------------------------------------------


def test_a_users_token_opens_what_is_about_that_user_and_nothing_else(world: World) -> None:
    token = world.token(world.shop())
    assert world.get("/recommend/u1", token).json() == {"reached": "/recommend/u1"}
    assert world.get("/users/u1/similar", token).status_code == 200
    for path in ("/recommend/u2", "/recommend/u1/", "/recommend/U1", "/users/u2/similar", "/trending"):
        assert refused(world.get(path, token), 403)["field"] == "user_id", path
    assert world.send("POST", "/events", token).status_code == 403
    assert world.send("DELETE", "/users/u1", token).status_code == 403
    assert world.get("/metrics", token).status_code == 403


def test_a_token_for_events_reaches_the_route_that_checks_its_user_and_only_if_its_key_has_events(world: World) -> None:
    both = world.shop("read", "events")
    for scope, events, read in (("events", 200, 403), ("read", 403, 200), ("read events", 200, 200)):
        token = world.token(both, scope=scope)
        assert world.send("POST", "/events", token).status_code == events
        assert world.get("/recommend/u1", token).status_code == read
        assert world.get("/recommend/u2", token).status_code == 403
        assert world.send("POST", "/click", token).status_code == 403
    assert world.send("POST", "/events", world.token(world.shop("read"), scope="events")).status_code == 403
    assert world.send("POST", "/events", world.token(world.shop("events"), scope="events")).status_code == 200


def test_a_user_with_tokens_has_a_limit_at_any_address_and_other_users_have_their_own(world: World) -> None:
    kid = world.shop()
    token, addresses = world.token(kid), count()

    def ask() -> httpx.Response:
        world.address = f"203.0.113.{next(addresses) % 250}"
        return world.get("/recommend/u1", token)

    passed, response = until_refused(ask)
    assert passed >= burst_of(USER_PER_MINUTE)
    assert "from one user" in refused(response, 429)["problem"]
    assert world.get("/recommend/u2", world.token(kid, user_id="u2")).status_code == 200


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, '"exp"'),
        ({"iat": None}, '"iat"'),
        ({"user_id": None}, '"user_id"'),
        ({"scope": None}, '"scope"'),
        ({"scope": "admin"}, "scope must be read"),
        ({"scope": ["read"]}, "scope must be read"),
        ({"scope": ""}, "scope must be read"),
        ({"scope": "read admin"}, "scope must be read"),
        ({"exp": 2_000_000_000_000}, "lives 3600 s at most"),
        ({"exp": Ahead(40_000)}, "lives 3600 s at most"),
        ({"exp": "9999999999"}, "whole seconds"),
        ({"exp": float("inf")}, "not a valid token"),
        ({"iat": Ahead(600), "exp": Ahead(900)}, "not yet valid"),
        ({"iat": Ahead(-600), "nbf": Ahead(600)}, "not yet valid"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": 7}, "user_id"),
        ({"user_id": "x" * 129}, "user_id"),
        ({"aud": "another-api"}, "audience"),
    ],
)
def test_a_token_that_says_too_much_or_too_little_opens_nothing(
    world: World, claims: dict[str, Any], said: str
) -> None:
    problem = refused(world.get("/recommend/u1", world.token(world.shop(), **claims)), 401)
    assert said in problem["problem"]


def test_forged_tokens_open_nothing(world: World) -> None:
    kid = world.shop()
    public = world.signer.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    good = world.token(kid)
    head, body, signature = good.split(".")
    none = jwt.encode({"user_id": "u1"}, "", algorithm="none", headers={"kid": kid})
    stored = world.ring.get(kid)
    assert stored is not None
    forged = {
        "signed by another": world.token(kid, Ed25519PrivateKey.generate()),
        "none": none,
        "none with the good signature": f"{none.split('.')[0]}.{body}.{signature}",
        "unsigned": f"{head}.{body}.",
        "the public key as a shared secret": _hs256(world, kid, raw),
        "its PEM as a shared secret": _hs256(world, kid, pem),
        "what the log keeps as a shared secret": _hs256(world, kid, stored.secret_sha256),
        "another algorithm": world.token(kid, generate_private_key(SECP256R1()), "ES256"),
        "another body": f"{head}.{jwt.encode({'user_id': 'u2'}, world.signer, 'EdDSA').split('.')[1]}.{signature}",
        "an unknown key": world.token("0" * 12),
        "a key that signs nothing": world.token(world.key("read")[3:15]),
        "no kid": jwt.encode({"user_id": "u1"}, world.signer, algorithm="EdDSA"),
        "half of it": good[: len(good) // 2],
        "too long": world.token(kid, padding="x" * 5_000),
        "deep": "W1tb" * 900 + ".e30.AA",
        "empty parts": "..",
    }
    for what, token in forged.items():
        assert world.get("/recommend/u1", token).status_code == 401, what
    assert world.get("/recommend/u1", good).status_code == 200


def _hs256(world: World, kid: str, secret: bytes) -> str:
    """A token made by hand: PyJWT itself refuses to use a public key as a secret."""
    import base64
    import hashlib
    import hmac

    import orjson

    now = int(time.time())
    claims = {"user_id": "u1", "scope": "read", "iat": now, "exp": now + 600}
    parts = [orjson.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}), orjson.dumps(claims)]
    said = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    proof = base64.urlsafe_b64encode(hmac.digest(secret, said, hashlib.sha256)).rstrip(b"=")
    return (said + b"." + proof).decode()


def test_a_token_ends_though_it_was_good_before(world: World) -> None:
    """Clocks may differ by ten seconds, so this one ends two from now."""
    now = int(time.time())
    token = world.token(world.shop(), iat=now - 600, exp=now - 8)
    assert world.get("/recommend/u1", token).status_code == 200
    assert len(world.guard._known) == 1
    while (response := world.get("/recommend/u1", token)).status_code in (200, 429):
        assert time.time() < now + 10
    assert "expired" in refused(response, 401)["problem"]


def test_the_tokens_of_a_revoked_key_end_with_it(world: World) -> None:
    kid = world.shop()
    token = world.token(kid)
    assert world.get("/recommend/u1", token).status_code == 200
    world.revoke(kid)
    assert refused(world.get("/recommend/u1", token), 401)["problem"] == "this key was revoked"


def test_the_tokens_that_our_own_signer_makes_are_good(world: World) -> None:
    signer = Signer()
    _, key = make_key("shop", ["read"], now_ms=1, token_key=signer.public)
    world.put(key)
    token = signer.token(key.id, "u1", now_s=int(time.time()))
    assert world.get("/recommend/u1", token).status_code == 200
    assert world.get("/recommend/u2", token).status_code == 403
    assert world.get("/recommend/u1", signer.token(key.id, "u1", now_s=1)).status_code == 401


def test_a_public_key_is_taken_and_a_private_one_never() -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert public_key_in(public) == private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    wrong = generate_private_key(SECP256R1()).public_key()
    for pem, said in (
        (private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "expected a public key"),
        (wrong.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "expected an Ed25519 key"),
        (b"", "expected a public key"),
    ):
        with pytest.raises(BadInput, match=said):
            public_key_in(pem)


# --- what is never said ----------------------------------------------------------------------------------------------


def test_no_log_and_no_refusal_ever_holds_a_secret(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Good, wrong, revoked and forged ones, through the guard and past it into an application that fails."""
    configure_logs("test", level="debug")
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        kid = world.shop()
        gone = world.key("read")
        world.revoke(gone[3:15])
        secrets = {
            "good": world.key(*EVERYTHING),
            "wrong": "nl_" + "1" * 12 + "_" + "ab" * 32,
            "revoked": gone,
            "token": world.token(kid),
            "expired": world.token(kid, exp=1),
            "forged": world.token(kid, Ed25519PrivateKey.generate()),
        }
        said = []
        for secret in secrets.values():
            for method, path in (("GET", "/recommend/u2"), ("POST", "/events"), ("GET", "/nowhere")):
                for headers in ({"Authorization": f"Bearer {secret}"}, {"X_API_Key": secret}):
                    response = world.send(method, path, **headers)
                    said.append(response.text + str(response.headers))
        get_logger().info("the log is read", keys=[repr(key) for key in world.ring.all()])
        logged = capfd.readouterr()
        said += [logged.out, logged.err]
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        logging.basicConfig(level=logging.WARNING, force=True, stream=sys.__stderr__)
    assert "the log is read" in logged.err
    for what, secret in secrets.items():
        telling = secret.rpartition("_")[2] if secret.startswith("nl_") else secret.rpartition(".")[2]
        assert not any(telling in text for text in said), what


@given(st.binary(max_size=200))
def test_no_authorization_header_crashes_the_guard(presented: bytes) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/trending",
        "headers": [(b"authorization", b"Bearer " + presented)],
    }
    asyncio.run(World().guard(scope, receive, send))
    assert sent[0]["status"] == 401


def test_lifespans_pass() -> None:
    reached: list[str] = []

    async def app(scope: MutableMapping[str, Any], receive: object, send: object) -> None:
        reached.append(scope["type"])

    world = World()
    world.guard._app = app
    nothing: Callable[..., Awaitable[Any]] = asyncio.sleep
    asyncio.run(world.guard({"type": "lifespan"}, nothing, nothing))
    assert reached == ["lifespan"]


def test_the_guard_is_an_application() -> None:
    app: AsgiApp = World().guard
    assert callable(app)
