"""The breaker: something that is away costs a request nothing.

A few failures in a row open it; from then on every question is refused at once, while ``watch`` alone goes on asking
until there is an answer. So an outage costs some requests one deadline each, not every request.
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
    """Between requests and *what* ("the store"); open until ``watch`` has had an answer to *probe*.

    *up* is 1 while it is closed, *failed* counts the questions that failed.
    """

    def __init__(self, what: str, probe: Callable[[], Awaitable[object]], *, up: Gauge, failed: Counter) -> None:
        self._what = what
        self._question = probe
        self._up, self._failed = up, failed
        self.is_closed = False  # what it stands before answers, as far as anybody knows
        self._failures = 0
        self._reason = f"{what} has not answered yet"
        self.answered = False  # once, ever

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to *question*; ``Unavailable``, at once if what is asked is known to be away."""
        self.check()
        try:
            answer = await question()
        except Unavailable as error:
            self._note_failure(error)
            raise
        self._failures = 0
        return answer

    def check(self) -> None:
        """``Unavailable`` while it is open."""
        if not self.is_closed:
            raise Unavailable(self._reason)

    async def watch(self, every_s: float = 0.25) -> None:
        """Ask again and again while it is away; runs until cancelled."""
        while True:
            if not self.is_closed:
                await self.probe()
            await asyncio.sleep(every_s)

    def open(self) -> None:
        """Refuse everything from now on: what is behind it is being closed."""
        self.is_closed = False

    async def probe(self) -> None:
        """Ask whether it answers, and close if it does."""
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
            get_logger().warning(f"{self._what} is away; answers are degraded", reason=self._reason)
