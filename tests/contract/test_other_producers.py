"""What producers of other people write: any codec, and transactions."""

import asyncio
import re
import uuid

import pytest

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.group_reader import GroupReader, unreadable
from nearline.adapters.kafka.table_reader import TableReader, newest_of
from nearline.errors import Unavailable
from nearline.log import Record
from nearline.space import Space
from nearline.topics import CLICKS, ITEMS, USERS, Topic, all_topics
from tests.support.other_producers import CODECS, send_in_transaction, send_packed

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0
SETTINGS = {topic.name: topic for topic in all_topics(Space(1, 64), history_ttl_ms=1_000_000)}


def new_topic(broker: str, name: str, **config: str) -> str:
    """A topic of this test's own with the settings of *name*, but for *config*."""
    topic = Topic(f"{name}-{uuid.uuid4().hex[:8]}", 2, SETTINGS[name].config | config)
    topics = Topics(broker)
    topics.ensure([topic])
    topics.close()
    return topic.name


async def everything(reader: TableReader | GroupReader, number: int) -> set[bytes | None]:
    """The keys of the next *number* records."""
    records: list[Record] = []
    async with reader, asyncio.timeout(DEADLINE_S):
        while len(records) < number:
            records += await reader.poll()
    return {record.key for record in records}


@pytest.mark.parametrize("kept_as", ["producer", "lz4"])
@pytest.mark.parametrize("name", [CLICKS, ITEMS, USERS])
async def test_all_readers_read_what_was_packed_with_any_codec(broker: str, name: str, kept_as: str) -> None:
    """``producer`` is what topics had before ``nearline init`` set lz4: those records are there for long."""
    topic = new_topic(broker, name, **{"compression.type": kept_as})
    keys = {f"{codec}-{n}".encode() for codec in CODECS for n in range(20)}
    for codec in CODECS:
        send_packed(broker, topic, codec, [(f"{codec}-{n}".encode(), b"a value " * 20) for n in range(20)])
    assert await everything(TableReader(broker, topic), len(keys)) == keys
    assert await everything(GroupReader(broker, topic, f"g-{topic}"), len(keys)) == keys


async def test_what_cannot_be_read_is_named_with_its_place_and_the_cause(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a broker that is away: the reader is where the mend has to be."""
    topic = new_topic(broker, ITEMS, **{"compression.type": "producer"})
    send_packed(broker, topic, "none", [(b"a", b"1"), (b"a", b"2"), (b"a", b"3")])
    send_packed(broker, topic, "zstd", [(b"a", b"a value " * 50)])
    monkeypatch.setattr("kafka.codec.zstd", None)  # as where the library is not installed
    place = f"{topic}, partition [01], offset 3 cannot be read.*zstd"
    for reader in (TableReader(broker, topic), GroupReader(broker, topic, f"g-{topic}")):
        with pytest.raises(Unavailable, match=place):
            await everything(reader, 4)
    with pytest.raises(Unavailable, match=place):
        await newest_of(broker, topic, b"a")
    found = await asyncio.to_thread(unreadable, broker, f"g-{topic}", [topic], deadline_s=DEADLINE_S)
    assert re.match(place, found or "all can be read")


async def test_init_has_the_broker_pack_anew_what_others_write(broker: str) -> None:
    """Topics of earlier releases get the setting from the next ``nearline init``."""
    topics = Topics(broker)
    before = [
        Topic(name, SETTINGS[name].partitions, {"compression.type": "producer"}) for name in (CLICKS, ITEMS, USERS)
    ]
    topics.ensure(before)
    done = topics.ensure(SETTINGS.values())
    assert all("compression.type" in done[name] for name in (CLICKS, ITEMS, USERS))
    found = topics.settings_of(SETTINGS)
    topics.close()
    packed_anew = {name for name in SETTINGS if found[name]["compression.type"] == "lz4"}
    assert packed_anew == {CLICKS, ITEMS, USERS}


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "aborted"])
async def test_after_a_transaction_nothing_is_left_to_read(broker: str, commit: bool) -> None:
    """Its end takes an offset in each partition, which no reader ever gets as a record."""
    topic, group = new_topic(broker, CLICKS), f"g-{uuid.uuid4().hex[:8]}"
    messages = [(f"{n}".encode(), b"1") for n in range(20)]
    send_in_transaction(broker, topic, messages, commit=commit)
    table = TableReader(broker, topic)
    async with table, asyncio.timeout(DEADLINE_S):
        while not table.caught_up or table.lag:
            await table.poll()
    reader = GroupReader(broker, topic, group)
    read = 0
    topics = Topics(broker)
    async with reader, asyncio.timeout(DEADLINE_S):
        while read < len(messages) or reader.lag:
            records = await reader.poll()
            reader.done(records)
            read += len(records)
    assert topics.group_lag(group, topic) == 0
    send_packed(broker, topic, "none", messages[:3])
    assert (topics.group_lag(group, topic) or 0) >= 3  # what ends the transaction before them may count
    topics.close()
