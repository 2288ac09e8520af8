"""Whether a page is open: what users do is followed only then, because every click costs a poll of two topics."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from services.web.web_security import STATUS

LASTS_S = 60.0  # after its last request: a page may be read for a while before the next click
_LOOKED_AT_EVERY_S = 1.0


class OpenPages:
    """Counts open requests, event streams included; a page counts as open for *lasts_s* after its last one.

    At the start a page counts as open: most often the first request comes soon.
    """

    def __init__(self, *, lasts_s: float = LASTS_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts_s = lasts_s
        self._clock = clock
        self._requests = 0
        self._last = clock()
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def any(self) -> bool:
        """Whether a page is open."""
        return self._requests > 0 or self._clock() - self._last < self._lasts_s

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request for as long as the block runs."""
        self._requests += 1
        self._opened.set()
        try:
            yield
        finally:
            self._requests -= 1
            self._last = self._clock()

    async def opened(self) -> None:
        """Return once a page is open."""
        await self._opened.wait()

    async def closed(self, every_s: float = _LOOKED_AT_EVERY_S) -> None:
        """Return once no page is open."""
        while self.any:
            await asyncio.sleep(every_s)
        self._opened.clear()


class CountedPages:
    """The application *app*; its requests count as open *pages*, except those for the service's own status."""

    def __init__(self, app: ASGIApp, pages: OpenPages) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in STATUS:
            await self._app(scope, receive, send)
            return
        with self._pages.request():
            await self._app(scope, receive, send)
