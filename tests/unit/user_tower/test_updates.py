"""User updates: announced once the document is stored, without holding up writes."""

import asyncio

import numpy as np
import pytest

from nearline.errors import Unavailable
from nearline.space import Space
from nearline.user_documents import UserDocument
from nearline.user_updates import UserUpdate, decode_user_update
from services.user_tower import updates
from services.user_tower.updates import Updates

SPACE = Space(7, 4)
NOTHING = np.zeros(0, np.uint64)

pytestmark = pytest.mark.anyio


class Log:
    """Keeps what it was given; ``down`` refuses, ``slow`` takes it when it is let."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, UserUpdate]] = []
        self.down = False
        self.slow: asyncio.Event | None = None

    async def __call__(self, topic: str, messages: list[tuple[bytes, bytes | None]]) -> None:
        if self.slow is not None:
            await self.slow.wait()
        if self.down:
            raise Unavailable("the log was told to be down")
        self.sent += [(topic, key.decode(), decode_user_update(value)) for key, value in messages]


def document(version: int) -> UserDocument:
    return UserDocument(None, version - 1, version, "e", 5, 100 + version, NOTHING, NOTHING, NOTHING, seen_version=1)


def lost() -> float:
    return updates.LOST._value.get()  # type: ignore[no-any-return]


async def test_an_update_names_the_versions_that_the_store_has_now() -> None:
    log = Log()
    told = Updates(SPACE, log)
    told.announce({"u": document(9), "v": document(3)}, {})
    await told.send()
    assert log.sent == [
        ("user-updates.7", "u", UserUpdate(9, 8, 1, 109)),
        ("user-updates.7", "v", UserUpdate(3, 2, 1, 103)),
    ]


async def test_while_kafka_is_slow_updates_do_not_block_and_the_newest_per_user_is_sent() -> None:
    log = Log()
    log.slow = asyncio.Event()
    told = Updates(SPACE, log)
    sending = asyncio.create_task(told.run())
    for version in (1, 2, 3):
        told.announce({"u": document(version)}, {})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    log.slow.set()
    while len(log.sent) < 2:
        await asyncio.sleep(0)
    sending.cancel()
    assert [update.history_version for _, _, update in log.sent] == [1, 3]


async def test_an_update_that_kafka_refuses_is_counted_and_the_next_is_sent() -> None:
    log, before = Log(), lost()
    told = Updates(SPACE, log)
    log.down = True
    told.announce({"u": document(1), "v": document(1)}, {})
    await told.send()
    log.down = False
    told.announce({"u": document(2)}, {})
    await told.send()
    assert lost() - before == 2
    assert [update.history_version for _, _, update in log.sent] == [2]


async def test_waiting_updates_are_bounded_and_dropped_ones_counted() -> None:
    log, before = Log(), lost()
    told = Updates(SPACE, log, most_waiting=2)
    told.announce({user_id: document(1) for user_id in "abcd"}, {})
    told.announce({"a": document(2)}, {})
    await told.send()
    assert lost() - before == 2
    assert [(user_id, update.history_version) for _, user_id, update in log.sent] == [("a", 2), ("b", 1)]
