"""What an answer knows of its user: the document as the store holds it, or as it was last read while that is down."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.hashing import hash64
from nearline.log import Record
from nearline.space import Space
from nearline.telemetry import get_logger
from nearline.user_documents import UserDocument
from nearline.user_updates import decode_user_update
from services.retrieval.answer import Reason, Seen, Step
from services.retrieval.hot_users import HotUsers
from services.retrieval.store_guard import GuardedStore
from services.retrieval.traced import TracedClicks
from services.retrieval.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Knowledge:
    """A user's document, if there is one that may be used; *reason* and *step* say what stood in the way of it.

    *fresh* says whether the event that the answer should use was used; ``None`` if none was named.
    """

    document: UserDocument | None = None
    seen: Seen = Seen.KNOWN
    reason: Reason | None = None
    step: Step | None = None
    fresh: bool | None = None


class Reading:
    """Reads documents for answers, and waits for those that are on their way.

    ``hear`` is given the records of the updates' topic; *is_hearing* says whether they come in now. While they do not,
    nobody can say that a remembered document is the newest.
    """

    def __init__(
        self,
        store: GuardedStore,
        space: Space,
        *,
        waiting: Waiting | None = None,
        is_hearing: Callable[[], bool] = lambda: True,
        now_s: Callable[[], float] = time.time,
        traced: TracedClicks | None = None,
    ) -> None:
        self._store = store
        self._hot = HotUsers(space)
        self._waiting = Waiting() if waiting is None else waiting
        self._is_hearing = is_hearing
        self._now_s = now_s
        self._traced = traced

    def hear(self, record: Record) -> None:
        """Take in one record of the updates' topic; ``BadInput`` if it is none."""
        update = decode_user_update(record.value)
        self._hot.heard(record.id, update.order)
        if self._traced is not None:
            self._traced.heard(record.id, update)
        self._waiting.wake(record.id)

    async def read(self, user_id: str) -> Knowledge:
        """What is known of the user now."""
        try:
            raw = await self._store.get(user_id)
            if raw is None:
                self._hot.forget(user_id)
                return _NOTHING
            return Knowledge(self._hot.decoded(user_id, raw).at(int(self._now_s())))
        except Unavailable:
            return self._remembered(user_id)
        except (BadInput, SpaceMismatch) as error:
            get_logger().error("a user document was refused", user_id=user_id, reason=str(error))
            return _DAMAGED

    async def read_after(self, user_id: str, event_id: str, wait_ms: int) -> Knowledge:
        """As ``read``, once the document has used the event, or after *wait_ms*; at once if too many wait."""
        event = np.uint64(hash64(event_id))
        known = await self.read(user_id)
        if _has_used(known, event) or not wait_ms:
            return _told(known, event)
        if self._waiting.is_full:
            return _told(known, event, Step.WAIT_SKIPPED)
        with self._waiting.for_user(user_id) as written:
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    known = await self.read(user_id)  # it may have come before anybody listened
                    while not _has_used(known, event):
                        await written.wait()
                        written.clear()
                        known = await self.read(user_id)
            except TimeoutError:
                known = await self.read(user_id)  # the word of it may have been lost
        return _told(known, event)

    def _remembered(self, user_id: str) -> Knowledge:
        document = self._hot.remembered(user_id)
        if document is None:
            return _STORE_DOWN
        seen = Seen.CACHED if self._is_hearing() else Seen.UNKNOWN
        return Knowledge(document.at(int(self._now_s())), seen, Reason.STORE_UNAVAILABLE, Step.STORE_UNAVAILABLE)


_NOTHING = Knowledge()
_STORE_DOWN = Knowledge(None, Seen.UNKNOWN, Reason.STORE_UNAVAILABLE, Step.STORE_UNAVAILABLE)
_DAMAGED = Knowledge(None, Seen.UNKNOWN, Reason.BAD_DOCUMENT, Step.BAD_DOCUMENT)


def _has_used(known: Knowledge, event: np.uint64) -> bool:
    return known.document is not None and bool((known.document.events == event).any())


def _told(known: Knowledge, event: np.uint64, step: Step | None = None) -> Knowledge:
    return Knowledge(known.document, known.seen, known.reason, known.step or step, _has_used(known, event))
