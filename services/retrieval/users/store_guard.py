"""The store on the request path, behind a breaker."""

from collections.abc import Sequence

from nearline.store import StoredUser, UserStore
from nearline.telemetry import counter, gauge
from services.retrieval.breaker import Breaker

_PROBE = "nearline-probe"

_UP = gauge("store_up", "1 while the store answers reads")
_FAILED = counter("store_read_failures_total", "Reads of the store that failed within or at their deadline")


class GuardedStore:
    """Reads *store* through a breaker; reads fail until ``watch`` has opened the store."""

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self.is_remote = store.is_remote
        self._breaker = Breaker("the store", self._ask_anything, up=_UP, failed=_FAILED)
        self.watch, self.probe = self._breaker.watch, self._breaker.probe

    @property
    def answered(self) -> bool:
        """Whether the store has answered at least once."""
        return self._breaker.answered

    async def get(self, user_id: str) -> bytes | None:
        """The user's document or ``None``; ``Unavailable`` if the read fails, at once while the breaker is open."""
        return await self._breaker.ask(lambda: self._store.get(user_id))

    async def get_with_seen(self, user_id: str) -> StoredUser:
        """As ``get``, with the user's seen items."""
        return await self._breaker.ask(lambda: self._store.get_with_seen(user_id))

    async def get_many(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """As ``get`` for each id, in order, and cheaper; within the store's longer deadline, so not for a request."""
        return await self._breaker.ask(lambda: self._store.get_many(user_ids))

    async def close(self) -> None:
        """Close the store."""
        self._breaker.open()
        await self._store.close()

    async def _ask_anything(self) -> None:
        await self._store.open()
        await self._store.get(_PROBE)
