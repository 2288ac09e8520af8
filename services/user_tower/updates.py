"""Telling the log which documents the store took, beside the write path: it never waits for this.

What can't be told is counted and forgotten, for whoever reads an update finds the truth in the store anyway.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from nearline.errors import NearlineError
from nearline.sequences import TriggerEvent
from nearline.space import Space
from nearline.telemetry import counter, get_logger
from nearline.topics import user_updates_topic
from nearline.user_documents import UserDocument
from nearline.user_updates import UserUpdate, encode_user_update

SendUpdates = Callable[[str, list[tuple[bytes, bytes | None]]], Awaitable[object]]
MOST_WAITING = 10_000  # users; the write path is faster than the log only while that is away

TOLD = counter("user_updates_total", "Written documents that were told of.")
LOST = counter("user_updates_lost_total", "Written documents that could not be told of.")


class Updates:
    """Sends one small record for each written document; of one user's that wait, the newest.

    One batch is under way at a time: what is written meanwhile waits for its acknowledgement, a millisecond or two.
    """

    def __init__(self, space: Space, publish: SendUpdates, *, most_waiting: int = MOST_WAITING) -> None:
        self._topic = user_updates_topic(space)
        self._publish = publish
        self._most_waiting = most_waiting
        self._waiting: dict[str, UserUpdate] = {}
        self._some = asyncio.Event()
        self._under_way = 0

    @property
    def waiting(self) -> int:
        """How many users' updates are not in the log yet."""
        return len(self._waiting) + self._under_way

    def announce(self, documents: Mapping[str, UserDocument], causes: Mapping[str, TriggerEvent]) -> None:
        """Note that the store has *documents* now, some because of the *causes* of their users; returns at once."""
        for user_id, document in documents.items():
            if user_id in self._waiting or len(self._waiting) < self._most_waiting:
                self._waiting[user_id] = _update(document, causes.get(user_id))
            else:
                LOST.inc()
        self._some.set()

    async def run(self) -> None:
        """Send what is announced until cancelled."""
        while True:
            await self._some.wait()
            await self.send()

    async def send(self) -> None:
        """Send all that waits; what the log does not take is counted and not tried again."""
        waiting, self._waiting = self._waiting, {}
        self._some.clear()
        self._under_way = len(waiting)
        try:
            await self._publish(
                self._topic, [(user_id.encode(), encode_user_update(update)) for user_id, update in waiting.items()]
            )
            TOLD.inc(len(waiting))
        except NearlineError as error:
            LOST.inc(len(waiting))
            get_logger().warning("user updates lost", count=len(waiting), reason=str(error))
        finally:
            self._under_way = 0


def _update(document: UserDocument, cause: TriggerEvent | None) -> UserUpdate:
    if cause is None:
        return UserUpdate(*document.order, document.stored_ms)
    return UserUpdate(*document.order, document.stored_ms, cause.event_id, cause.produced_ms, cause.traceparent)
