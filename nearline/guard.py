"""Checks who may call which route: an ASGI layer in front of an API, driven by a table of its routes.

A route that is not in the table does not exist for any caller. A caller presents a key, or a user's token signed for
a key. The grant of a verified key or token is cached under its digest until any key changes; invalid ones are not
cached, so they cost no memory.
"""

import hashlib
import ipaddress
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from nearline.errors import BadInput, Misconfigured
from nearline.guarded_streams import GuardedStream
from nearline.key_ring import KeyRing
from nearline.keys import USER_PER_MINUTE, Key, Permission, id_in, is_proven
from nearline.telemetry import counter

AsgiScope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
AsgiReceive = Callable[[], Awaitable[AsgiMessage]]
AsgiSend = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[AsgiScope, AsgiReceive, AsgiSend], Awaitable[None]]

# Keys in the ASGI scope of a request that passed with a key or token: its grant, and what spends more of its limit.
GRANT = "nearline.grant"
CHARGE = "nearline.charge"
MAX_TOKEN_BYTES = 4_096
_REMEMBERED = 10_000  # cached grants; each browser adds one token per user and hour
_FORWARDING = {b"forwarded", b"x-forwarded-for", b"x-real-ip"}
_CHALLENGE = b'Bearer realm="nearline"'
_HOW = {"authorization": "Bearer <key>, or Bearer <token of a user>; or X-API-Key: <key>"}

REASONS = (
    "bad_token",
    "expired_token",
    "foreign_token",
    "foreign_user",
    "keys_unread",
    "limit",
    "no_key",
    "no_route",
    "revoked_key",
    "wrong_key",
    "wrong_origin",
    "wrong_scope",
)
_REFUSED = counter("requests_refused_total", "Requests that the guard refused", "reason", known=REASONS)


@dataclass(frozen=True, slots=True)
class RoutePermission:
    """The permission that a route needs: *scope*, and *also* if there is one; none if *scope* is ``None``.

    With *is_stream*, its answer goes on for long, and ends once the key or token that opened it no longer does.
    *template* is the route's path as its application declares it (``/users/{user_id:path}``). With *near*, callers from
    the operator's trusted networks need no key. With *own*, a route whose path names no user opens for a user's token
    too: the application itself checks that the request is about that user only.
    """

    method: str
    template: str
    scope: Permission | None
    also: Permission | None = None
    is_stream: bool = False
    near: bool = False
    own: bool = False

    @property
    def is_about_a_user(self) -> bool:
        """Whether its path names a user, whose token then gives access."""
        return "{user_id" in self.template


# Load balancers need the health routes. Metrics and documentation reveal more, but nothing about users.
STATUS_RULES = (
    RoutePermission("GET", "/healthz", None),
    RoutePermission("GET", "/readyz", None),
    RoutePermission("GET", "/metrics", Permission.ADMIN, near=True),
    *(RoutePermission("GET", f"/{page}", Permission.READ, near=True) for page in ("openapi.json", "docs")),
)


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a user's token with a verified signature."""

    user_id: str
    expires_s: float
    scopes: frozenset[Permission] = frozenset((Permission.READ,))


class Tokens(Protocol):
    """Verifies user tokens (nearline/adapters/tokens.py)."""

    def key_id(self, token: str) -> str | None:
        """The id of the key that *token* claims to be signed with; ``None`` if it is no token."""

    def claims(self, token: str, public_key: bytes) -> Claims:
        """The claims of *token*; ``BadInput`` unless *public_key* verifies it and it is valid now."""


class Spend(Protocol):
    """Counts requests and events against limits (nearline/adapters/limits.py)."""

    def __call__(self, key_id: str, address: str, per_minute: int, units: int = 1) -> float:
        """Seconds until *units* are allowed, 0 if they are now."""


# (scope, further events) -> seconds until the limit of the request's caller allows them, 0 if it does now.
Charge = Callable[[AsgiScope, int], float]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a verified key or token permits."""

    key: Key
    scopes: frozenset[Permission]
    user_id: str | None = None  # of a token: its only user
    expires_s: float = math.inf

    @property
    def is_public(self) -> bool:
        """Whether a page may hold it, so that anybody may: a user's token, or a key for events only."""
        return self.user_id is not None or self.key.is_publishable

    @property
    def holder(self) -> str | None:
        """Whose share of bounded things its requests take: its key's, or that of all public callers, since one who has
        a page's key may have a user's token too; ``None`` for admins, who have no share.
        """
        if Permission.ADMIN in self.scopes:
            return None
        return "public" if self.is_public else self.key.id

    @property
    def per_minute(self) -> int | None:
        """How many requests and events an address, or of a token the user, may send per minute."""
        return self.key.per_minute or (None if self.user_id is None else USER_PER_MINUTE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer; *came* never holds the presented key or token."""

    status: int
    reason: str
    field: str
    came: str
    problem: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def body(self) -> bytes:
        """The body, in the form of all errors of the APIs."""
        detail = [{"field": self.field, "came": self.came, "problem": self.problem}]
        return orjson.dumps({"detail": detail, "allowed": _HOW if self.status in (401, 403) else {}})


def _unproven(reason: str, problem: str, *, came: str = "(not repeated here)") -> Refusal:
    challenge = _CHALLENGE + (b', error="invalid_token"' if came else b"")
    return Refusal(401, reason, "authorization", came, problem, ((b"www-authenticate", challenge),))


_NO_KEY = _unproven("no_key", "this API needs a key", came="")
_WRONG_KEY = _unproven("wrong_key", "no such key")
_REVOKED = _unproven("revoked_key", "this key was revoked")
_NOT_YET = Refusal(
    503, "keys_unread", "authorization", "", "the keys are not read yet, try again", ((b"retry-after", b"1"),)
)


class Routes:
    """Finds a request's rule: the first in the table whose path matches, as in the application's router."""

    def __init__(self, rules: Iterable[RoutePermission]) -> None:
        self._by_method: dict[str, list[tuple[re.Pattern[str], RoutePermission]]] = {}
        for rule in rules:
            self._by_method.setdefault(rule.method, []).append((_pattern(rule.template), rule))

    def find(self, method: str, path: str) -> tuple[RoutePermission | None, str | None]:
        """The rule, and the user in the path; ``None`` for a missing one."""
        for pattern, rule in self._by_method.get("GET" if method == "HEAD" else method, ()):
            found = pattern.fullmatch(path)
            if found is not None:
                return rule, found["user_id"] if rule.is_about_a_user else None
        return None, None

    def methods(self, path: str) -> list[str]:
        """The methods that have a rule for *path*."""
        return [method for method in self._by_method if self.find(method, path)[0] is not None]


def _pattern(template: str) -> re.Pattern[str]:
    """The pattern of a path: a plain parameter is one segment, one with a converter (``:path``) may hold slashes."""
    parts = re.split(r"\{(\w+(?::\w+)?)\}", template)
    for at, part in enumerate(parts):
        name, _, converter = part.partition(":")
        parts[at] = re.escape(part) if at % 2 == 0 else f"(?P<{name}>{'.*' if converter else '[^/]+'})"
    return re.compile("".join(parts), re.DOTALL)


def unruled(routes: Iterable[tuple[str, str]], rules: Sequence[RoutePermission]) -> list[str]:
    """The mismatches, as sentences, between an application's *routes*, (method, template) in order, and its rules."""
    served, ruled = list(dict.fromkeys(routes)), [(rule.method, rule.template) for rule in rules]
    wrong = [f"{method} {path} has no rule" for method, path in served if (method, path) not in ruled]
    wrong += [f"{method} {path} has a rule and no route" for method, path in ruled if (method, path) not in served]
    return wrong or [
        f"{method} {first} comes before {second} in the application and after it in the rules, and may match its paths"
        for at, (method, first) in enumerate(served)
        for other, second in served[at + 1 :]
        if other == method and ruled.index((method, first)) > ruled.index((method, second))
        if _pattern(first).fullmatch(second) or _pattern(second).fullmatch(first)
    ]


def describe(document: dict[str, Any], rules: Iterable[RoutePermission]) -> None:
    """Add each route's permission and the guard's errors to *document*, an OpenAPI document."""
    schemes = {
        "key": {"type": "http", "scheme": "bearer", "description": "a key, or a token of the user whom the path names"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document.setdefault("components", {})["securitySchemes"] = schemes
    for rule in rules:
        route = document["paths"].get(re.sub(r":\w+}", "}", rule.template), {}).get(rule.method.lower())
        if route is not None and rule.scope is not None:
            route["security"] = [{"key": []}, {"header": []}]
            route["x-scope"] = str(rule.scope)
            for status, about in _REFUSALS.items():
                route["responses"].setdefault(status, {"description": about, "content": _REFUSAL_CONTENT})


_REFUSALS = {
    "401": "the key or token is missing or invalid",
    "403": "wrong scope, user or origin",
    "429": "too many requests from this address; Retry-After says when to try again",
    "503": "the keys are not read yet",
}
_TEXT = {"type": "string"}
_REFUSAL_CONTENT = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["detail", "allowed"],
            "properties": {
                "detail": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["field", "came", "problem"],
                        "properties": {"field": _TEXT, "came": _TEXT, "problem": _TEXT},
                    },
                },
                "allowed": {"type": "object", "additionalProperties": _TEXT},
            },
        }
    }
}


class Guard:
    """Passes on the requests that the rules and the caller's key or token allow, and refuses all others."""

    def __init__(
        self,
        app: AsgiApp,
        rules: Iterable[RoutePermission],
        ring: KeyRing,
        *,
        tokens: Tokens,
        spend: Spend,
        is_near: Callable[[AsgiScope], bool],
        is_read: Callable[[], bool] = lambda: True,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        rules = tuple(rules)
        self._app = app
        self._routes = Routes(rules)
        self._has_streams = any(rule.is_stream for rule in rules)
        self._ring = ring
        self._tokens = tokens
        self._spend = spend
        self._is_near = is_near
        self._is_read = is_read
        self._now_s = now_s
        self._known: dict[bytes, Grant] = {}
        self._generation = ring.generation

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Serve or refuse one request."""
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                _REFUSED.labels(refusal.reason).inc()
                await _send(send, refusal)
                return
            holds = self._holding(scope) if self._has_streams else None
            if holds is not None:
                stream = GuardedStream(receive, send, holds)
                receive, send = stream.receive, stream.send
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _holding(self, scope: AsgiScope) -> Callable[[], bool] | None:
        """A check whether the key or token of a stream still opens it; ``None`` for any other request."""
        rule, _ = self._routes.find(scope["method"], scope["path"])
        presented = _presented(scope["headers"])
        if rule is None or not rule.is_stream or presented is None or (rule.near and self._is_near(scope)):
            return None

        def holds() -> bool:
            grant = self._grant(presented)
            if isinstance(grant, Grant) and {rule.scope, rule.also or rule.scope} <= grant.scopes:
                return True
            _REFUSED.labels("wrong_scope" if isinstance(grant, Grant) else grant.reason).inc()
            return False

        return holds

    def _refusal(self, scope: AsgiScope) -> Refusal | None:
        rule, user_id = self._routes.find(scope["method"], scope["path"])
        if rule is not None and (rule.scope is None or (rule.near and self._is_near(scope))):
            return None
        presented = _presented(scope["headers"])
        if presented is None:
            return _NO_KEY
        grant = self._grant(presented)
        if isinstance(grant, Refusal):
            return grant
        if rule is None or rule.scope is None:
            return self._no_route(scope)
        if rule.also is not None and rule.also not in grant.scopes:
            return _wrong_scope(rule.also, grant)
        if rule.scope not in grant.scopes:
            return _wrong_scope(rule.scope, grant)
        if grant.user_id is not None and grant.user_id != user_id and not rule.own:
            return _foreign_user(grant.user_id)
        if grant.key.origins and _header(scope, b"origin") not in grant.key.origins:
            return _wrong_origin(_header(scope, b"origin"))
        scope[GRANT], scope[CHARGE] = grant, self._charge
        return self._too_many(scope, grant)

    def _grant(self, presented: bytes) -> Grant | Refusal:
        if self._generation != self._ring.generation:
            self._known.clear()
            self._generation = self._ring.generation
        mark = hashlib.sha256(presented).digest()
        known = self._known.get(mark)
        if known is not None and (known.user_id is None or self._now_s() < known.expires_s):
            return known
        examined = self._examine(presented)
        if isinstance(examined, Grant):
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[mark] = examined
        return examined

    def _examine(self, presented: bytes) -> Grant | Refusal:
        text = presented.decode("latin-1")
        key_id = id_in(text)
        if key_id is None:
            return self._examine_token(text)
        key = self._ring.get(key_id)
        if not is_proven(key, text):
            return _WRONG_KEY if self._is_read() else _NOT_YET
        assert key is not None
        return Grant(key, key.scopes) if key.revoked_ms is None else _REVOKED

    def _examine_token(self, text: str) -> Grant | Refusal:
        key_id = self._tokens.key_id(text) if len(text) <= MAX_TOKEN_BYTES else None
        if key_id is None:
            return _WRONG_KEY
        key = self._ring.get(key_id)
        if key is None or key.token_key is None:
            return _unproven("foreign_token", "no key with that kid signs tokens") if self._is_read() else _NOT_YET
        try:
            claims = self._tokens.claims(text, key.token_key)
        except BadInput as error:
            return _unproven(error.reason, str(error))
        if key.revoked_ms is not None:
            return _REVOKED
        return Grant(key, claims.scopes & key.scopes, claims.user_id, claims.expires_s)

    def _no_route(self, scope: AsgiScope) -> Refusal:
        came = f"{scope['method']:.20} {scope['path']:.80}"
        methods = self._routes.methods(scope["path"])
        if not methods:
            return Refusal(404, "no_route", "path", came, "there is no such route")
        allow = ((b"allow", ", ".join(methods).encode()),)
        return Refusal(405, "no_route", "method", came, f"this route accepts {', '.join(methods)}", allow)

    def _too_many(self, scope: AsgiScope, grant: Grant) -> Refusal | None:
        if grant.per_minute is None:
            return None
        wait_s = self._charge(scope, 1)
        if wait_s <= 0:
            return None
        problem = f"this key allows {limit_of(grant)}"
        return Refusal(429, "limit", "address", "", problem, ((b"retry-after", b"%d" % math.ceil(wait_s)),))

    def _charge(self, scope: AsgiScope, units: int) -> float:
        """Spend *units* of the caller's limit; seconds until they are allowed, 0 if they are now."""
        grant: Grant = scope[GRANT]
        if grant.per_minute is None:
            return 0.0
        by = address_of(scope) if grant.user_id is None else f"user {grant.user_id}"
        return self._spend(grant.key.id, by, grant.per_minute, units)


def holder_of(scope: AsgiScope) -> str | None:
    """Whose share a request takes; ``None`` if its caller needs no key or is an admin."""
    grant: Grant | None = scope.get(GRANT)
    return None if grant is None else grant.holder


def limit_of(grant: Grant) -> str:
    """The limit in words."""
    return f"{grant.per_minute} requests or events per minute from one {'address' if grant.user_id is None else 'user'}"


def _wrong_scope(needed: Permission, grant: Grant) -> Refusal:
    challenge = _CHALLENGE + f', error="insufficient_scope", scope="{needed}"'.encode()
    came = ", ".join(sorted(grant.scopes))
    return Refusal(403, "wrong_scope", "scope", came, f"needs a key for {needed}", ((b"www-authenticate", challenge),))


def _foreign_user(user_id: str) -> Refusal:
    return Refusal(403, "foreign_user", "user_id", f"{user_id:.128}", "this token opens what is about its user only")


def _wrong_origin(origin: str) -> Refusal:
    return Refusal(403, "wrong_origin", "origin", f"{origin:.80}", "this key is for the pages of other origins")


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key or token in a request's Authorization header, or else in X-API-Key."""
    other = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip())
        if name == b"x-api-key":
            other = bytes(value.strip())
    return other


def _header(scope: AsgiScope, name: bytes) -> str:
    return next((bytes(value).decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _send(send: AsgiSend, refusal: Refusal) -> None:
    body = refusal.body
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def address_of(scope: AsgiScope) -> str:
    """The address that limits count by: the caller's, or for IPv6 its /64, which one subscriber gets."""
    address = _client(scope)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def callers_in(networks: str, names: Iterable[str] = ()) -> Callable[[AsgiScope], bool]:
    """A check whether a request comes directly from *networks* (comma separated); ``Misconfigured`` if malformed.

    A request through a proxy never passes: the proxy may be in a trusted network, but its caller need not be. Nor does
    one whose Host is a name with a dot that is not among *names*: another site's name can be made to resolve to this
    machine, so that the site's page asks in a browser here. An address, or a name of the local network, is no site's.
    """
    ours = frozenset(name.strip().casefold() for name in names)
    try:
        known = [ipaddress.ip_network(one.strip()) for one in networks.split(",") if one.strip()]
    except ValueError as error:
        raise Misconfigured(f"NEARLINE_OPEN_TO={networks!r}: expected networks as 127.0.0.0/8, ::1 ({error})") from None

    def is_near(scope: AsgiScope) -> bool:
        address = _client(scope)
        if address is None or any(name in _FORWARDING for name, _ in scope["headers"]):
            return False
        if not _is_local_name(_header(scope, b"host"), ours):
            return False
        return any(address in network for network in known)

    return is_near


def _is_local_name(host: str, ours: frozenset[str]) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").casefold()
    except ValueError:
        return False
    return bool(name) and ("." not in name or name in ours or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _client(scope: AsgiScope) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
