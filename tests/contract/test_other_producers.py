"""What producers of other people write: any codec, and transactions."""

import asyncio
import re
import uuid

import pytest

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.group_reader import GroupReader, unreadable
from nearline.adapters.kafka.table_reader import TableReader, newest_of
from nearline.adapters.kafka.transactions import Transactions
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.log import Record
from nearline.space import Space
from nearline.topics import CLICKS, ITEMS, USERS, Topic, all_topics
from nearline.user_commands import Erase, encode_command, is_to_look_up
from tests.support.other_producers import CODECS, send_in_transaction, send_packed, transaction

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0
SETTINGS = {topic.name: topic for topic in all_topics(Space(1, 64))}


def new_topic(broker: str, name: str, **config: str) -> str:
    """A topic of this test's own with the settings of *name*, but for *config*."""
    topic = Topic(f"{name}-{uuid.uuid4().hex[:8]}", 2, SETTINGS[name].config | config)
    topics = Topics(broker)
    topics.ensure([topic])
    topics.close()
    return topic.name


async def records_of(reader: TableReader | GroupReader, number: int) -> list[Record]:
    """The next *number* records."""
    records: list[Record] = []
    async with reader, asyncio.timeout(DEADLINE_S):
        while len(records) < number:
            records += await reader.poll()
    return records


async def keys_of(reader: TableReader | GroupReader, number: int) -> set[bytes | None]:
    """The keys of the next *number* records."""
    return {record.key for record in await records_of(reader, number)}


@pytest.mark.parametrize("kept_as", ["producer", "lz4"])
@pytest.mark.parametrize("name", [CLICKS, ITEMS, USERS])
async def test_all_readers_read_what_was_packed_with_any_codec(broker: str, name: str, kept_as: str) -> None:
    """``producer`` is what topics had before ``nearline init`` set lz4: those records are there for long."""
    topic = new_topic(broker, name, **{"compression.type": kept_as})
    keys = {f"{codec}-{n}".encode() for codec in CODECS for n in range(20)}
    for codec in CODECS:
        send_packed(broker, topic, codec, [(f"{codec}-{n}".encode(), b"a value " * 20) for n in range(20)])
    assert await keys_of(TableReader(broker, topic), len(keys)) == keys
    assert await keys_of(GroupReader(broker, topic, f"g-{topic}"), len(keys)) == keys


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
            await keys_of(reader, 4)
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


async def test_a_record_counts_once_its_transaction_is_committed(broker: str) -> None:
    """While any transaction that began before it is open, that is not known yet."""
    topic, key = new_topic(broker, CLICKS), b"always the same"
    transactions = Transactions(broker, topic)
    send_packed(broker, topic, "lz4", [(key, b"plain")])
    (first,) = await records_of(TableReader(broker, topic), 1)
    where, at = first.partition, first.offset
    assert transactions.is_committed(where, at)
    with transaction(broker) as aborted:
        aborted.produce(topic, b"aborted", key)
        aborted.flush()
        send_packed(broker, topic, "lz4", [(key, b"plain")])
        assert [transactions.is_committed(where, at + n) for n in (0, 1, 2)] == [True, None, None]
        aborted.abort_transaction()
    send_in_transaction(broker, topic, [(key, b"committed")], commit=True)
    # The fourth place is the end of the aborted transaction.
    assert [transactions.is_committed(where, at + n) for n in (0, 1, 2, 4)] == [True, False, True, True]
    transactions.close()


async def test_a_table_leaves_out_commands_of_aborted_transactions_and_keeps_the_clicks(broker: str) -> None:
    """As export, report and `user forget --check` read ``clicks``; the topic's name decides what is a command."""
    topics = Topics(broker)
    topics.ensure([SETTINGS[CLICKS]])
    topics.close()
    user = uuid.uuid4().hex
    erase = encode_command(Erase("c", user, 1_800_000_000_000))
    click = encode_event(Event("e", user, "i", "click", 1_800_000_000_000, context={"place": "command"}))
    send_in_transaction(broker, CLICKS, [(user.encode(), erase), (user.encode(), click)], commit=False)
    send_in_transaction(broker, CLICKS, [(user.encode(), erase)], commit=True)
    send_packed(broker, CLICKS, "none", [(user.encode(), erase)])
    found: list[bytes | None] = []
    async with TableReader(broker, CLICKS, look_up=is_to_look_up) as reader, asyncio.timeout(DEADLINE_S):
        while not reader.caught_up:
            found += [record.value for record in await reader.poll() if record.id == user]
    assert found == [click, erase, erase]


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
