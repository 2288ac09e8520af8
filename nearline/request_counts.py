"""Counts and times the requests of an HTTP service by route and status, in the same way for every service.

A route is the first word of a path, as the service's table of routes has it; every other path is ``other``.
"""

import time
from collections.abc import Iterable, MutableMapping
from typing import Any

from nearline.guard import AsgiApp, AsgiMessage, AsgiReceive, AsgiScope, AsgiSend, RoutePermission
from nearline.telemetry import begin, counter, seconds

OTHER = "other"
# Statuses that every service may return; the series of any other starts with its first request.
STATUSES = ("200", "401", "403", "404", "422", "429", "500", "503")

_REQUESTS = counter("requests_total", "Answered requests by the first word of their path", "route", "status")
_TOOK = seconds("request_seconds", "From a request's first byte to the start of its answer", "route")


class RouteCounts:
    """The counts of one service's routes, those in *rules*."""

    def __init__(self, rules: Iterable[RoutePermission]) -> None:
        self._routes = frozenset(_first_word(rule.template) for rule in rules)
        every = sorted({*self._routes, OTHER})
        begin(_REQUESTS, [(route, status) for route in every for status in STATUSES])
        begin(_TOOK, every)
        self._counts: MutableMapping[tuple[str, int], Any] = {}
        self._times = {route: _TOOK.labels(route) for route in every}

    def note(self, path: str, status: int, took_s: float) -> str:
        """Count an answered request to *path*; return its route."""
        word = _first_word(path)
        route = word if word in self._routes else OTHER
        count = self._counts.get((route, status))
        if count is None:
            count = self._counts[route, status] = _REQUESTS.labels(route, str(status))
        count.inc()
        self._times[route].observe(took_s)
        return route


class Counted:
    """Wraps an application and counts its answers."""

    def __init__(self, app: AsgiApp, rules: Iterable[RoutePermission]) -> None:
        self._app = app
        self._counts = RouteCounts(rules)

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_counted(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                self._counts.note(scope["path"], message["status"], time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, send_counted)


def _first_word(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""
