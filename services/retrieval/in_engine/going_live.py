"""Points the engine's alias to a space once the engine holds all of its items."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from nearline.errors import Unavailable
from nearline.item_engine import ItemEngine
from nearline.space import Space
from nearline.telemetry import get_logger

PartitionOffsets = Mapping[int, int]  # by partition


class GoingLive:
    """Waits until the consumer group has written all records that the topic had at the start, by whichever replica.

    *ends* gives the topic's end offsets, *written* the group's committed ones.
    """

    def __init__(
        self,
        engine: ItemEngine,
        space: Space,
        ends: Callable[[], Awaitable[PartitionOffsets]],
        written: Callable[[], Awaitable[PartitionOffsets]],
    ) -> None:
        self._engine = engine
        self._space = space
        self._ends = ends
        self._written = written
        self._wanted: PartitionOffsets | None = None
        self.complete = False

    async def run(self, every_s: float = 0.5) -> None:
        """Return once the space is complete and the alias is where it should be."""
        while not await self._try():
            await asyncio.sleep(every_s)

    async def _try(self) -> bool:
        try:
            self.complete = self.complete or await self._is_complete()
            if self.complete:
                await self._point()
        except Unavailable as error:
            get_logger().debug("waiting for the engine to be complete", reason=str(error))
            return False
        return self.complete

    async def _is_complete(self) -> bool:
        if self._wanted is None:
            self._wanted = await self._ends()
        written = await self._written()
        return all(written.get(partition, 0) >= end for partition, end in self._wanted.items())

    async def _point(self) -> None:
        """Move the alias, only forwards: a restarted replica of an older space must not move it back."""
        live = await self._engine.live()
        if live is None or live < self._space.number:
            await self._engine.make_live()
            get_logger().info("the engine's alias points here", space=self._space.number, before=live)
