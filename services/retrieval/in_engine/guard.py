"""The engine on the request path: one that is away costs a request nothing.

As with the store (store_guard.py): a few failures in a row close the path, and ``watch`` alone asks until it answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nearline.errors import Unavailable
from nearline.item_engine import Found, ItemEngine
from nearline.telemetry import counter, gauge, get_logger

T = TypeVar("T")

_FAILURES = 3
_PROBE = ["nearline-probe"]

_UP = gauge("engine_up", "1 while the item engine answers searches")
_FAILED = counter("engine_search_failures_total", "Searches of the item engine that failed within or at their deadline")


class GuardedEngine:
    """Searches of *engine* for requests; nothing is asked of it before ``watch`` has opened it."""

    def __init__(self, engine: ItemEngine) -> None:
        self._engine = engine
        self._open = self._up = False
        self._failures = 0
        self._reason = "the item engine has not answered yet"
        self.answered = False  # once, ever

    async def search(self, vector: NDArray[np.float32], limit: int, where: str) -> Found:
        """As the engine's; ``Unavailable`` at once if it is known to be away."""
        return await self._ask(lambda: self._engine.search(vector, limit, where))

    async def vectors(self, item_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """As the engine's; ``Unavailable`` at once if it is known to be away."""
        return await self._ask(lambda: self._engine.vectors(item_ids))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        if not self._up:
            raise Unavailable(self._reason)
        try:
            answer = await question()
        except Unavailable as error:
            self._note_failure(error)
            raise
        self._failures = 0
        return answer

    async def watch(self, every_s: float = 0.25) -> None:
        """Open the engine, and ask it again and again while it is away; runs until cancelled."""
        while True:
            if not self._up:
                await self._probe()
            await asyncio.sleep(every_s)

    async def close(self) -> None:
        """Close the engine."""
        self._up = False
        await self._engine.close()

    async def _probe(self) -> None:
        try:
            if not self._open:  # once: the connection comes back by itself, and others are using it
                await self._engine.open()
                self._open = True
            await self._engine.shown_versions(_PROBE)
        except Unavailable as error:
            self._reason = str(error)
            return
        self._up = self.answered = True
        self._failures = 0
        _UP.set(1)
        get_logger().info("the item engine answers")

    def _note_failure(self, error: Unavailable) -> None:
        _FAILED.inc()
        self._failures += 1
        if self._failures >= _FAILURES and self._up:
            self._up, self._reason = False, str(error)
            _UP.set(0)
            get_logger().warning("the item engine is away; answers are degraded", reason=self._reason)
