"""The store on the request path: a store that is down costs a request nothing.

A few failures in a row close the path; from then on every read is refused at once, while ``watch`` alone goes on asking
until the store answers. So an outage costs some requests one deadline each, not every request.
"""

import asyncio

from nearline.errors import Unavailable
from nearline.store import UserStore
from nearline.telemetry import counter, gauge, get_logger

_FAILURES = 3
_PROBE = "nearline-probe"

_UP = gauge("store_up", "1 while the store answers reads")
_FAILED = counter("store_read_failures_total", "Reads of the store that failed within or at their deadline")


class GuardedStore:
    """Reads of *store* for requests; nothing is read before ``watch`` has opened it."""

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self._up = False
        self._failures = 0
        self._reason = "the store has not answered yet"
        self.answered = False  # once, ever

    async def get(self, user_id: str) -> bytes | None:
        """The user's stored bytes or ``None``; ``Unavailable``, at once if the store is known to be down."""
        if not self._up:
            raise Unavailable(self._reason)
        try:
            raw = await self._store.get(user_id)
        except Unavailable as error:
            self._note_failure(error)
            raise
        self._failures = 0
        return raw

    async def watch(self, every_s: float = 0.25) -> None:
        """Open the store, and ask it again and again while it is down; runs until cancelled."""
        while True:
            if not self._up:
                await self._probe()
            await asyncio.sleep(every_s)

    async def close(self) -> None:
        """Close the store."""
        self._up = False
        await self._store.close()

    async def _probe(self) -> None:
        try:
            await self._store.open()
            await self._store.get(_PROBE)
        except Unavailable as error:
            self._reason = str(error)
            return
        self._up = self.answered = True
        self._failures = 0
        _UP.set(1)
        get_logger().info("the store answers")

    def _note_failure(self, error: Unavailable) -> None:
        _FAILED.inc()
        self._failures += 1
        if self._failures >= _FAILURES and self._up:
            self._up, self._reason = False, str(error)
            _UP.set(0)
            get_logger().warning("the store is down; answers are degraded", reason=self._reason)
