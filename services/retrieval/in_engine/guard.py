"""The engine on the request path, behind a breaker."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nearline.item_engine import EngineHits, ItemEngine
from nearline.telemetry import counter, gauge
from services.retrieval.breaker import Breaker

_PROBE = ["nearline-probe"]

_UP = gauge("engine_up", "1 while the item engine answers searches")
_FAILED = counter("engine_search_failures_total", "Searches of the item engine that failed within or at their deadline")


class GuardedEngine:
    """Searches *engine* through a breaker; searches fail until ``watch`` has opened the engine."""

    def __init__(self, engine: ItemEngine) -> None:
        self._engine = engine
        self._is_open = False
        self._breaker = Breaker("the item engine", self._ask_anything, up=_UP, failed=_FAILED)
        self.watch, self.probe = self._breaker.watch, self._breaker.probe

    @property
    def answered(self) -> bool:
        """Whether the engine has answered at least once."""
        return self._breaker.answered

    async def search(self, vector: NDArray[np.float32], limit: int, where: str) -> EngineHits:
        """As the engine's; ``Unavailable`` at once while the breaker is open."""
        return await self._breaker.ask(lambda: self._engine.search(vector, limit, where))

    async def vectors(self, item_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """As the engine's; ``Unavailable`` at once while the breaker is open."""
        return await self._breaker.ask(lambda: self._engine.vectors(item_ids))

    async def close(self) -> None:
        """Close the engine."""
        self._breaker.open()
        await self._engine.close()

    async def _ask_anything(self) -> None:
        if not self._is_open:  # once: the client reconnects by itself, and other calls use it
            await self._engine.open()
            self._is_open = True
        await self._engine.shown_versions(_PROBE)
