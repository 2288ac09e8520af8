"""A store in memory for unit tests; it passes the same contract tests as the real engines."""

import time
from collections.abc import Callable, Mapping, Sequence

from nearline.errors import Unavailable
from nearline.seen import may_replace_seen
from nearline.store import JUST_NOW, StoredUser, expiry_ms
from nearline.user_documents import knows_all_of


class MemoryStore:
    """Keeps documents in a dict; with ``down = True`` it behaves like an engine that does not answer."""

    is_remote = False
    is_filled = True

    def __init__(self, *, ttl_ms: int, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._ttl_ms = ttl_ms
        self._now_ms = now_ms
        self._values: dict[str, tuple[int, bytes]] = {}
        self._seen: dict[str, tuple[int, bytes]] = {}
        self.down = False

    async def fill_again(self) -> None:
        """Do nothing."""

    async def open(self) -> None:
        """Do nothing."""
        self._check()

    async def close(self) -> None:
        """Do nothing."""

    async def get(self, user_id: str) -> bytes | None:
        """The user's document, or ``None``."""
        return self._live(self._values, user_id)

    async def get_with_seen(self, user_id: str) -> StoredUser:
        """The user's document and seen items."""
        return StoredUser(await self.get(user_id), self._live(self._seen, user_id))

    def _live(self, values: Mapping[str, tuple[int, bytes]], user_id: str) -> bytes | None:
        self._check()
        expires_ms, value = values.get(user_id, (0, b""))
        return value if expires_ms > self._now_ms() else None

    async def get_many(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """As ``get`` for each id, in order."""
        return [await self.get(user_id) for user_id in user_ids]

    async def put_many_if_newer(self, documents: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> int:
        """Write each document that is at least as new as the stored one in every version."""
        written = 0
        for user_id, value in documents.items():
            stored = await self.get(user_id)
            if stored is None or knows_all_of(value, stored):
                expires_ms = expiry_ms(user_id, since_ms, now_ms=self._now_ms(), lasts_ms=self._ttl_ms)
                self._values[user_id] = (expires_ms, value)
                written += 1
        return written

    async def put_seen_if_newer(self, snapshots: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> None:
        """Write each snapshot of seen items that is not older than the stored one."""
        for user_id, value in snapshots.items():
            stored = self._live(self._seen, user_id)
            if stored is None or may_replace_seen(value, stored):
                expires_ms = expiry_ms(user_id, since_ms, now_ms=self._now_ms(), lasts_ms=self._ttl_ms * 5 // 4)
                self._seen[user_id] = (expires_ms, value)

    async def delete(self, user_id: str) -> None:
        """Delete the user's document and seen items."""
        self._check()
        self._values.pop(user_id, None)
        self._seen.pop(user_id, None)

    async def delete_document(self, user_id: str) -> None:
        """Delete the user's document; the seen items stay."""
        self._check()
        self._values.pop(user_id, None)

    async def keep_house(self) -> None:
        """Delete what has expired."""
        now = self._now_ms()
        for values in (self._values, self._seen):
            for user_id in [user_id for user_id, (expires_ms, _) in values.items() if expires_ms <= now]:
                del values[user_id]

    def _check(self) -> None:
        if self.down:
            raise Unavailable("the store in memory is set to be down")
