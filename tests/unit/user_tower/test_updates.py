"""User updates: announced once the document is stored, without holding up writes."""

import asyncio

import numpy as np
import pytest

from nearline.errors import Unavailable
from nearline.log import Message, Record
from nearline.space import Space
from nearline.user_documents import UserDocument
from nearline.user_updates import MOST_USERS, UserUpdate, decode_user_updates
from services.user_tower import updates
from services.user_tower.updates import Updates

SPACE = Space(7, 4)
NOTHING = np.zeros(0, np.uint64)

pytestmark = pytest.mark.anyio


class Log:
    """Keeps what it was given; ``down`` refuses, ``slow`` takes it when it is let."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, UserUpdate]] = []
        self.records = 0
        self.down = False
        self.slow: asyncio.Event | None = None

    async def __call__(self, topic: str, messages: list[Message]) -> None:
        if self.slow is not None:
            await self.slow.wait()
        if self.down:
            raise Unavailable("the log was told to be down")
        for key, value in messages:
            updates_of = decode_user_updates(Record(topic, 0, 0, 0, key, value))
            self.sent += [(topic, user_id, update) for user_id, update in updates_of.items()]
            self.records += 1


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
    assert log.records == 1, "a record for each user would cost the log and its readers more than the write"


async def test_more_users_than_fit_into_a_record_are_all_announced() -> None:
    log = Log()
    told = Updates(SPACE, log)
    told.announce({f"u{n}": document(9) for n in range(MOST_USERS + 1)}, {})
    await told.send()
    assert (log.records, len(log.sent)) == (2, MOST_USERS + 1)


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
