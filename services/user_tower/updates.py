"""Announces stored documents in the log; the write path never waits for it.

An update that cannot be sent is counted and dropped, since its readers find the document in the store anyway.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice

from nearline.errors import NearlineError
from nearline.log import Message
from nearline.sequences import TriggerEvent
from nearline.space import Space
from nearline.telemetry import counter, get_logger
from nearline.topics import user_updates_topic
from nearline.user_documents import UserDocument
from nearline.user_updates import MOST_USERS, UserUpdate, encode_user_updates

SendUpdates = Callable[[str, list[Message]], Awaitable[object]]
MOST_WAITING = 10_000  # users; the write path is faster than the log only while the log is down

TOLD = counter("user_updates_total", "Stored documents that were announced.")
LOST = counter("user_updates_lost_total", "Stored documents that could not be announced.")


class Updates:
    """Sends all waiting updates in one record; of a user's waiting ones only the newest.

    One record is sent at a time: further updates wait for its acknowledgement, a millisecond or two.
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
        """How many users' updates wait to be sent."""
        return len(self._waiting) + self._under_way

    def announce(self, documents: Mapping[str, UserDocument], causes: Mapping[str, TriggerEvent]) -> None:
        """Queue updates for the stored *documents*, with their users' *causes* if known; returns at once."""
        for user_id, document in documents.items():
            if user_id in self._waiting or len(self._waiting) < self._most_waiting:
                self._waiting[user_id] = _update(document, causes.get(user_id))
            else:
                LOST.inc()
        self._some.set()

    async def run(self) -> None:
        """Send announced updates until cancelled."""
        while True:
            await self._some.wait()
            await self.send()

    async def send(self) -> None:
        """Send all waiting updates; failed ones are counted and not retried."""
        waiting, self._waiting = self._waiting, {}
        self._some.clear()
        self._under_way = len(waiting)
        try:
            await self._publish(self._topic, _records(waiting))
            TOLD.inc(len(waiting))
        except NearlineError as error:
            LOST.inc(len(waiting))
            get_logger().warning("user updates lost", count=len(waiting), reason=str(error))
        finally:
            self._under_way = 0


def _records(waiting: Mapping[str, UserUpdate]) -> list[Message]:
    updates = iter(waiting.items())
    parts = iter(lambda: dict(islice(updates, MOST_USERS)), {})
    return [(None, encode_user_updates(part)) for part in parts]


def _update(document: UserDocument, cause: TriggerEvent | None) -> UserUpdate:
    if cause is None:
        return UserUpdate(*document.order, document.stored_ms)
    return UserUpdate(*document.order, document.stored_ms, cause.event_id, cause.produced_ms, cause.traceparent)
