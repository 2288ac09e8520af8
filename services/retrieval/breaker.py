"""A circuit breaker: while a dependency is down, requests fail at once instead of at their deadline.

A few failures in a row open it; from then on every call is refused at once, and only ``watch`` keeps trying until the
dependency answers. So an outage costs a few requests one deadline each, not every request.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import Counter, Gauge

from nearline.errors import Unavailable
from nearline.telemetry import get_logger

T = TypeVar("T")

_FAILURES = 3


class Breaker:
    """Guards calls to *what* ("the store"); open until ``watch`` has got an answer to *probe*.

    *up* is 1 while it is closed, *failed* counts the calls that failed.
    """

    def __init__(self, what: str, probe: Callable[[], Awaitable[object]], *, up: Gauge, failed: Counter) -> None:
        self._what = what
        self._question = probe
        self._up, self._failed = up, failed
        self.is_closed = False  # requests may pass
        self._failures = 0
        self._reason = f"{what} has not answered yet"
        self.answered = False  # at least once

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to *question*; ``Unavailable`` if it fails, at once while the breaker is open."""
        self.check()
        try:
            answer = await question()
        except Unavailable as error:
            self._note_failure(error)
            raise
        self._failures = 0
        return answer

    def check(self) -> None:
        """Raise ``Unavailable`` while the breaker is open."""
        if not self.is_closed:
            raise Unavailable(self._reason)

    async def watch(self, every_s: float = 0.25) -> None:
        """Probe every *every_s* while the breaker is open; runs until cancelled."""
        while True:
            if not self.is_closed:
                await self.probe()
            await asyncio.sleep(every_s)

    def open(self) -> None:
        """Refuse all calls from now on, because the dependency is being closed."""
        self.is_closed = False

    async def probe(self) -> None:
        """Probe once; close the breaker if the probe succeeds."""
        try:
            await self._question()
        except Unavailable as error:
            self._reason = str(error)
            return
        self.is_closed = self.answered = True
        self._failures = 0
        self._up.set(1)
        get_logger().info(f"{self._what} answers")

    def _note_failure(self, error: Unavailable) -> None:
        self._failed.inc()
        self._failures += 1
        if self._failures >= _FAILURES and self.is_closed:
            self.is_closed, self._reason = False, str(error)
            self._up.set(0)
            get_logger().warning(f"{self._what} is down; answers are degraded", reason=self._reason)
