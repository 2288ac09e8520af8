"""The layers in front of every service's API: trusted proxies, CORS, and the guard with the API keys of the log."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import UserTokens
from nearline.errors import Misconfigured
from nearline.followers import Follower
from nearline.guard import AsgiApp, AsgiReceive, AsgiScope, AsgiSend, Guard, RoutePermission, callers_in
from nearline.key_ring import KeyRing
from nearline.reasons import reasons_of
from nearline.settings import Settings
from nearline.telemetry import get_logger
from nearline.topics import API_KEYS

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# Of every answer of an API, as uvicorn's Config takes them: it may be about one user, and it is what its type says.
API_HEADERS = [("cache-control", "no-store"), ("x-content-type-options", "nosniff")]
_PEER = "nearline.peer"  # in the scope: who is connected, before the proxy's headers are read
_SHOWN = ("ETag", "Retry-After", "WWW-Authenticate", "X-Request-ID")


class HttpFront:
    """Puts the guard in front of an application; ``run`` follows the API keys in the log."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ring = KeyRing()
        self._follower = Follower(
            API_KEYS,
            lambda: TableReader(settings.brokers, API_KEYS),
            self._ring.apply,
            reasons=reasons_of("keys", "key_ring"),
        )
        self._is_near = callers_in(settings.open_to, (settings.host, *settings.web_hosts.split(",")))

    @property
    def is_guarded(self) -> bool:
        """Whether a caller needs a key."""
        return self._settings.auth == "keys"

    def before(self, app: AsgiApp, rules: Iterable[RoutePermission]) -> AsgiApp:
        """*app* behind the guard with *rules*, and in front of that the layers for browsers and proxies."""
        served = app
        if self.is_guarded:
            served = Guard(
                app,
                rules,
                self._ring,
                tokens=UserTokens(),
                spend=AddressLimits().spend,
                is_near=self._is_near,
                is_read=lambda: self._follower.caught_up,
            )
        return _for_pages(_behind_proxies(served, self._settings.trusted_proxies), self._settings.cors_origins)

    def readiness(self) -> Mapping[str, bool]:
        """Whether the keys are read; empty if no caller needs one."""
        return {"keys": self._follower.caught_up} if self.is_guarded else {}

    async def run(self) -> None:
        """Follow the keys until cancelled; if no caller needs one, log that and return."""
        if self.is_guarded:
            await self._follower.run()
        else:
            get_logger().warning(
                "NEARLINE_AUTH=off: anyone who reaches this port may do anything", host=self._settings.host
            )


def _for_pages(app: Any, origins: str) -> AsgiApp:
    """Add CORS outermost, so that a page can read a refusal too and its preflight needs no key."""
    allowed = [one.strip() for one in origins.split(",") if one.strip()]
    if not allowed:
        return app  # type: ignore[no-any-return]
    return CORSMiddleware(
        app, allow_origins=allowed, allow_methods=_METHODS, allow_headers=["*"], expose_headers=_SHOWN, max_age=600
    )


def _behind_proxies(app: Any, trusted: str) -> AsgiApp:
    proxies = [one.strip() for one in trusted.split(",") if one.strip()]
    for one in proxies:
        try:
            ipaddress.ip_network(one)
        except ValueError as error:
            raise Misconfigured(
                f"NEARLINE_TRUSTED_PROXIES: expected addresses or networks, came {one!r} ({error})"
            ) from None
    if not proxies:
        return app  # type: ignore[no-any-return]
    named: Any = ProxyHeadersMiddleware(_or_peer(app), trusted_hosts=proxies)  # type: ignore[arg-type]

    async def served(scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        await named({**scope, _PEER: scope.get("client")}, receive, send)

    return served


def _or_peer(app: AsgiApp) -> AsgiApp:
    """*app* for the caller that a proxy named, or for the proxy itself where it named no address."""

    async def served(scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        peer = scope.pop(_PEER, None)
        try:
            ipaddress.ip_address((scope.get("client") or ("",))[0])
        except ValueError:
            scope["client"] = peer
        await app(scope, receive, send)

    return served
