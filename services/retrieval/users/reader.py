"""Reads the user's document for an answer: from the store, or from the cache while the store is down."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.events import EARLIEST_MS
from nearline.hashing import hash64
from nearline.space import Space
from nearline.telemetry import get_logger
from nearline.user_documents import UserDocument
from nearline.user_updates import UserUpdate
from services.retrieval.result import Degradation, EventOutcome, Reason, Seen
from services.retrieval.users.cache import UserCache
from services.retrieval.users.store_guard import GuardedStore
from services.retrieval.users.trace_ends import TracedClicks
from services.retrieval.users.waiters import Waiters


@dataclass(frozen=True, slots=True)
class UserState:
    """A user's document, or ``None`` with *reason* and *degradation*, which say why it cannot be used.

    *after* says what became of the event of ``after``; ``None`` if the request has no ``after``. *erased_ms* is the
    time of the user's erasure if nothing came since.
    """

    document: UserDocument | None = None
    seen: Seen = Seen.KNOWN
    reason: Reason | None = None
    degradation: Degradation | None = None
    after: EventOutcome | None = None
    erased_ms: int = 0

    @property
    def is_fresh(self) -> bool:
        """Whether the document is as new as the event of ``after``."""
        return self.after in (EventOutcome.USED, EventOutcome.PASSED)


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
        erased_ms = document.history_version if document.erased else 0
        return UserState(document.at(self._now_ms() // 1000), seen, erased_ms=erased_ms)

    async def _document(self, user_id: str) -> UserDocument | None:
        """The user's document with all seen items; still ``seen_beside`` if the store has lost their snapshot."""
        document = self._cache.decoded(user_id, await self._store.get_with_seen(user_id))
        if document is not None and document.seen_beside:
            # The snapshot is written first, but a store across a network may have been asked for it before that.
            document = self._cache.decoded(user_id, await self._store.get_with_seen(user_id))
        return document

    async def read_after(
        self, user_id: str, event_id: str, wait_ms: int, time_ms: int | None = None, holder: str | None = None
    ) -> UserState:
        """As ``read``, once the document has used the event, or after *wait_ms*; at once if too many requests wait.

        Also at once if the event's *time_ms* is known and shows that the event will not be used. *holder* is whose
        share of the waiting requests this is one of.
        """
        event = _Event(np.uint64(hash64(event_id)), time_ms)
        known = await self.read(user_id)
        if event.is_decided(known) or not wait_ms:
            return event.state(known)
        with self._waiters.for_user(user_id, holder) as written:
            if written is None:
                return event.state(known, Degradation.WAIT_SKIPPED)
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    known = await self.read(user_id)  # it may have been written before the waiter was registered
                    while not event.is_decided(known):
                        await written.wait()
                        written.clear()
                        known = await self.read(user_id)
            except TimeoutError:
                known = await self.read(user_id)  # the update may have been lost
        return event.state(known)

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


@dataclass(frozen=True, slots=True)
class _Event:
    """The event that a request waits for; *time_ms* is ``None`` if the request does not say it."""

    hashed: np.uint64
    time_ms: int | None

    def is_decided(self, known: UserState) -> bool:
        """Whether waiting longer changes nothing."""
        return self._outcome(known) is not EventOutcome.UNKNOWN

    def state(self, known: UserState, degradation: Degradation | None = None) -> UserState:
        """*known* with what became of the event."""
        return replace(known, degradation=known.degradation or degradation, after=self._outcome(known))

    def _outcome(self, known: UserState) -> EventOutcome:
        document = known.document
        if document is not None and (document.events == self.hashed).any():
            return EventOutcome.USED
        if self.time_ms is None:
            return EventOutcome.UNKNOWN
        if self.time_ms <= known.erased_ms or self.time_ms < EARLIEST_MS:
            return EventOutcome.REFUSED
        is_passed = document is not None and self.time_ms < document.window_from_ms
        return EventOutcome.PASSED if is_passed else EventOutcome.UNKNOWN
