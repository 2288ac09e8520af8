"""Reads the user's document for an answer: from the store, or from the cache while the store is down."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.hashing import hash64
from nearline.space import Space
from nearline.telemetry import get_logger
from nearline.user_documents import UserDocument
from nearline.user_updates import UserUpdate
from services.retrieval.result import Degradation, Reason, Seen
from services.retrieval.users.cache import UserCache
from services.retrieval.users.store_guard import GuardedStore
from services.retrieval.users.trace_ends import TracedClicks
from services.retrieval.users.waiters import Waiters


@dataclass(frozen=True, slots=True)
class UserState:
    """A user's document, or ``None`` with *reason* and *degradation*, which say why it cannot be used.

    *fresh* says whether the document has used the event of ``after``; ``None`` if the request has no ``after``.
    """

    document: UserDocument | None = None
    seen: Seen = Seen.KNOWN
    reason: Reason | None = None
    degradation: Degradation | None = None
    fresh: bool | None = None


class UserReader:
    """Reads documents for answers, and waits for the document that has used a given event.

    ``heard`` gets the updates of ``user-updates``; *is_hearing* says whether that topic is being read up to its end.
    While it is not, a cached document may be outdated.
    """

    def __init__(
        self,
        store: GuardedStore,
        space: Space,
        *,
        waiters: Waiters | None = None,
        is_hearing: Callable[[], bool] = lambda: True,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        traced: TracedClicks | None = None,
    ) -> None:
        self._store = store
        self._cache = UserCache(space)
        self._waiters = Waiters() if waiters is None else waiters
        self._is_hearing = is_hearing
        self._now_ms = now_ms
        self._traced = traced

    def heard(self, user_id: str, update: UserUpdate) -> None:
        """Apply an update: the user's document was written."""
        self._cache.heard(user_id, update.order)
        if self._traced is not None:
            self._traced.heard(user_id, update)
        self._waiters.wake(user_id)

    async def read(self, user_id: str) -> UserState:
        """The user's current document; the cached one while the store is down."""
        try:
            document = await self._document(user_id)
        except Unavailable:
            return self._remembered(user_id)
        except (BadInput, SpaceMismatch) as error:
            get_logger().error("a user document was refused", user_id=user_id, reason=str(error))
            return _DAMAGED
        if document is None:
            return _UNKNOWN_USER
        seen = Seen.UNKNOWN if document.seen_beside else Seen.KNOWN
        return UserState(document.at(self._now_ms() // 1000), seen)

    async def _document(self, user_id: str) -> UserDocument | None:
        """The user's document with all seen items; still ``seen_beside`` if the store has lost their snapshot."""
        document = self._cache.decoded(user_id, await self._store.get_with_seen(user_id))
        if document is not None and document.seen_beside:
            # The snapshot is written first, but a store across a network may have been asked for it before that.
            document = self._cache.decoded(user_id, await self._store.get_with_seen(user_id))
        return document

    async def read_after(self, user_id: str, event_id: str, wait_ms: int) -> UserState:
        """As ``read``, once the document has used the event, or after *wait_ms*; at once if too many requests wait."""
        event = np.uint64(hash64(event_id))
        known = await self.read(user_id)
        if _has_used(known, event) or not wait_ms:
            return _state(known, event)
        if self._waiters.is_full:
            return _state(known, event, Degradation.WAIT_SKIPPED)
        with self._waiters.for_user(user_id) as written:
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    known = await self.read(user_id)  # it may have been written before the waiter was registered
                    while not _has_used(known, event):
                        await written.wait()
                        written.clear()
                        known = await self.read(user_id)
            except TimeoutError:
                known = await self.read(user_id)  # the update may have been lost
        return _state(known, event)

    def _remembered(self, user_id: str) -> UserState:
        document = self._cache.remembered(user_id)
        if document is None:
            return _STORE_DOWN
        seen = Seen.CACHED if self._is_hearing() else Seen.UNKNOWN
        return UserState(
            document.at(self._now_ms() // 1000), seen, Reason.STORE_UNAVAILABLE, Degradation.STORE_UNAVAILABLE
        )


_UNKNOWN_USER = UserState()
_STORE_DOWN = UserState(None, Seen.UNKNOWN, Reason.STORE_UNAVAILABLE, Degradation.STORE_UNAVAILABLE)
_DAMAGED = UserState(None, Seen.UNKNOWN, Reason.BAD_DOCUMENT, Degradation.BAD_DOCUMENT)


def _has_used(known: UserState, event: np.uint64) -> bool:
    return known.document is not None and bool((known.document.events == event).any())


def _state(known: UserState, event: np.uint64, degradation: Degradation | None = None) -> UserState:
    return UserState(
        known.document, known.seen, known.reason, known.degradation or degradation, _has_used(known, event)
    )
