"""Whether anybody looks at the page: following what users do costs every click something, and is for eyes only."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from services.web.web_security import STATUS

LASTS_S = 60.0  # whoever read a page a minute ago may click yet
_LOOKED_AT_EVERY_S = 1.0


class Attention:
    """There while a request is open, a stream of changes among them, and for *lasts_s* after the last one.

    It begins as there: a page that was just started is looked at before long.
    """

    def __init__(self, *, lasts_s: float = LASTS_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts_s = lasts_s
        self._clock = clock
        self._open = 0
        self._last = clock()
        self._begun = asyncio.Event()
        self._begun.set()

    @property
    def is_there(self) -> bool:
        """Whether somebody looks, or did lately."""
        return self._open > 0 or self._clock() - self._last < self._lasts_s

    @contextmanager
    def look(self) -> Iterator[None]:
        """Somebody looks for as long as the block runs."""
        self._open += 1
        self._begun.set()
        try:
            yield
        finally:
            self._open -= 1
            self._last = self._clock()

    async def begin(self) -> None:
        """Return once somebody looks."""
        await self._begun.wait()

    async def end(self, every_s: float = _LOOKED_AT_EVERY_S) -> None:
        """Return once nobody has looked for a while."""
        while self.is_there:
            await asyncio.sleep(every_s)
        self._begun.clear()


class Attended:
    """The application *app*, each of whose requests is a look, except those for the service's own state."""

    def __init__(self, app: ASGIApp, attention: Attention) -> None:
        self._app = app
        self._attention = attention

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in STATUS:
            await self._app(scope, receive, send)
            return
        with self._attention.look():
            await self._app(scope, receive, send)
