"""The Kafka adapter against a real broker."""

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from nearline.adapters.kafka.admin import Topics, committed, log_extent, wait_for_topics
from nearline.adapters.kafka.group_reader import GroupReader
from nearline.adapters.kafka.producer import Producer, heartbeat_keys
from nearline.adapters.kafka.table_reader import TableReader
from nearline.errors import BadInput, Misconfigured, Unavailable
from nearline.log import Record
from nearline.space import Space
from nearline.topics import Topic, all_topics

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0


@pytest.fixture
def topic(broker: str) -> str:
    """A compacted topic of this test's own."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    topics = Topics(broker)
    topics.ensure([Topic(name, 4, {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"})])
    topics.close()
    return name


async def read(reader: TableReader | GroupReader, number: int) -> list[Record]:
    """Poll until *number* records came."""
    records: list[Record] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(records) < number:
            records += await reader.poll()
    return records


def test_init_creates_every_topic_once_and_mends_what_differs(broker: str) -> None:
    wanted = all_topics(Space(1, 64))
    topics = Topics(broker)
    topics.ensure(wanted)  # other tests share this broker, and may have made the topics in their own way
    assert set(topics.ensure(wanted).values()) == {"as it should be"}
    earlier = [Topic(t.name, t.partitions, t.config | {"cleanup.policy": "compact,delete"}) for t in wanted[1:2]]
    assert topics.ensure(earlier) == {"user-sequences": "changed cleanup.policy"}
    assert topics.ensure(wanted)["user-sequences"] == "changed cleanup.policy"
    assert set(topics.ensure(wanted).values()) == {"as it should be"}
    topics.close()


def test_a_topic_with_another_number_of_partitions_is_refused(broker: str, topic: str) -> None:
    topics = Topics(broker)
    with pytest.raises(Misconfigured, match=f"{topic} has 4 partitions, expected 8.*NEARLINE_PARTITIONS=4"):
        topics.ensure([Topic(topic, 8), Topic(f"{topic}-missing", 8)])
    assert f"{topic}-missing" not in topics.names(), "nothing is created beside it in the wrong number"
    topics.close()


def test_services_wait_for_topics_and_name_what_creates_them(broker: str, topic: str) -> None:
    wait_for_topics(broker, [topic], deadline_s=DEADLINE_S)
    with pytest.raises(Unavailable, match="missing topics: never-made; run `nearline init`"):
        wait_for_topics(broker, [topic, "never-made"], deadline_s=0.5)


async def test_a_table_is_read_whole_and_then_followed(broker: str, topic: str) -> None:
    async with Producer(broker) as producer, TableReader(broker, topic) as empty:
        assert empty.caught_up
        places = await producer.send_all(topic, [(b"a", b"1"), (b"b", b"2"), (b"a", None)])
        async with TableReader(broker, topic) as reader:
            assert not reader.caught_up
            records = await read(reader, 3)
            assert reader.caught_up
            async with asyncio.timeout(DEADLINE_S):
                while reader.lag:  # brought up to date once a second
                    await reader.poll()
            assert {(r.id, r.value) for r in records} == {("a", b"1"), ("b", b"2"), ("a", None)}
            assert all(record.append_ms > 1_600_000_000_000 for record in records)
            assert {(r.append_ms, r.partition, r.offset) for r in records} == set(places)
            (place,) = await producer.send_all(topic, [(b"c", b"3", 2)], [("why", b"later")])
            (later,) = await read(reader, 1)
            assert (later.partition, later.order) == (2, place.order)
            assert later.headers == (("why", b"later"),)


async def test_a_key_keeps_its_partition_and_its_order(broker: str, topic: str) -> None:
    async with Producer(broker) as producer, TableReader(broker, topic) as reader:
        await producer.send_all(topic, [(b"k%d" % (n % 5), b"%d" % n) for n in range(200)])
        records = await read(reader, 200)
    for key in {r.key for r in records}:
        mine = [r for r in records if r.key == key]
        assert len({r.partition for r in mine}) == 1
        values = [int(r.value or b"") for r in mine]
        assert values == sorted(values)


async def test_send_soon_then_flush_keeps_the_order(broker: str, topic: str) -> None:
    async with Producer(broker) as producer, TableReader(broker, topic) as reader:
        for n in range(50):
            await producer.send_soon(topic, [(b"k", b"%d" % n)])
        await producer.flush()
        records = await read(reader, 50)
        assert [record.value for record in records] == [b"%d" % n for n in range(50)]


async def test_a_flush_says_what_never_got_into_the_log(broker: str) -> None:
    narrow = Topic(f"t-{uuid.uuid4().hex[:8]}", 1, {"max.message.bytes": "1000"})
    topics = Topics(broker)
    topics.ensure([narrow])
    topics.close()
    async with Producer(broker) as producer:
        await producer.send_soon(narrow.name, [(b"k", os.urandom(2_000))])
        with pytest.raises(Unavailable, match="1 records are not in the log"):
            await producer.flush()
        await producer.flush()


async def test_members_share_two_topics_alike_so_that_a_key_has_one_reader(broker: str) -> None:
    """Three partitions, which two members would share otherwise if partitions were dealt out like cards."""
    both = [f"t-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    topics = Topics(broker)
    topics.ensure([Topic(name, 3) for name in both])
    topics.close()
    keys, group = [b"%d" % n for n in range(40)], f"g-{uuid.uuid4().hex[:8]}"

    async def readers(producer: Producer, members: list[GroupReader], mark: bytes) -> dict[tuple[str, bytes], set[int]]:
        """Which members read each key of a round."""
        for name in both:
            await producer.send_all(name, [(key, mark) for key in keys])
        found: dict[tuple[str, bytes], set[int]] = {}
        while len(found) < 2 * len(keys):
            for who, records in enumerate(await asyncio.gather(*(member.poll() for member in members))):
                for record in records:
                    if record.value == mark:
                        found.setdefault((record.topic, record.key or b""), set()).add(who)
        return found

    members = GroupReader(broker, both, group), GroupReader(broker, both, group)
    async with Producer(broker) as producer, members[0] as one, members[1] as two:
        async with asyncio.timeout(DEADLINE_S):
            found: dict[tuple[str, bytes], set[int]] = {}
            for number in count():  # until both are in, and nothing was read twice because one of them came
                found = await readers(producer, [one, two], b"%d" % number)
                if sorted(set(map(tuple, found.values()))) == [(0,), (1,)]:
                    break
    assert all(found[both[0], key] == found[both[1], key] for key in keys)


async def test_records_not_marked_done_are_read_again_by_the_next_group_member(broker: str, topic: str) -> None:
    group = f"g-{uuid.uuid4().hex[:8]}"
    async with Producer(broker) as producer:
        await producer.send_all(topic, [(b"k", b"%d" % n) for n in range(10)])
    async with GroupReader(broker, topic, group) as first:
        records = await read(first, 10)
        first.done(records[:4])
    async with GroupReader(broker, topic, group) as second:
        assert [r.value for r in await read(second, 6)] == [b"%d" % n for n in range(4, 10)]
    topics = Topics(broker)
    assert topics.group_lag(group, topic) == 6
    assert topics.group_lag("nobody", topic) is None
    topics.close()


async def test_a_group_that_starts_over_reads_everything_again(broker: str, topic: str) -> None:
    """A store was lost: what its group had committed says nothing about the new one."""
    group = f"g-{uuid.uuid4().hex[:8]}"
    async with Producer(broker) as producer:
        await producer.send_all(topic, [(b"k", b"%d" % n) for n in range(10)])
    async with GroupReader(broker, topic, group) as first:
        first.done(await read(first, 10))
        await first.poll()
        with pytest.raises(Unavailable):  # a member would go on from where it is
            async with GroupReader(broker, topic, group) as other:
                await other.start_over()
    again = GroupReader(broker, topic, group)
    await again.start_over()
    async with again:
        assert len(await read(again, 10)) == 10


async def test_an_idle_member_commits_how_far_it_read_past_what_is_no_longer_there(broker: str, topic: str) -> None:
    """A partition may end in records that compaction took away: nobody can deal with those."""
    group = f"g-{uuid.uuid4().hex[:8]}"
    async with Producer(broker) as producer:
        await producer.send_all(topic, [(b"k", b"%d" % n) for n in range(10)])
    assert await committed(broker, group, topic) == {}
    async with GroupReader(broker, topic, group) as reader:
        reader.done((await read(reader, 10))[:4])
        await reader.settle()
    end = (await log_extent(broker, [topic])).topics[topic].end
    assert await committed(broker, group, topic) == end


async def test_what_is_done_while_the_group_deals_its_partitions_anew_is_committed_all_the_same(
    broker: str, topic: str
) -> None:
    """Such a commit fails, and a partition that stays with its member is not read again."""
    group = f"g-{uuid.uuid4().hex[:8]}"
    async with Producer(broker) as producer, GroupReader(broker, topic, group) as first:
        await producer.send_all(topic, [(b"%d" % n, b"1") for n in range(40)])
        ends = (await log_extent(broker, [topic])).topics[topic].end
        read_by_first = await read(first, 40)
        async with GroupReader(broker, topic, group) as late, GroupReader(broker, topic, group) as new:
            async with asyncio.timeout(DEADLINE_S):
                while not first._consumer.assignment() or len(late._consumer.assignment()) != 2:
                    late.done((await asyncio.gather(first.poll(), late.poll()))[1])
                joining = asyncio.ensure_future(new.poll())
                while not first._consumer._coordinator.rebalance_in_progress():  # until `late` joins again
                    await first.poll()
                first.done(read_by_first)
                await first.poll()
                new.done(await joining)
                while await committed(broker, group, topic) != ends:
                    polls = await asyncio.gather(*(member.poll() for member in (first, late, new)))
                    for member, records in zip((first, late, new), polls, strict=True):
                        member.done(records)


async def test_a_member_that_stays_loses_nothing_of_the_partitions_that_it_is_given_meanwhile(
    broker: str, topic: str
) -> None:
    group = f"g-{uuid.uuid4().hex[:8]}"
    async with Producer(broker) as producer, GroupReader(broker, topic, group) as staying:
        async with GroupReader(broker, topic, group) as leaving, asyncio.timeout(DEADLINE_S):
            while not len(staying._consumer.assignment()) == len(leaving._consumer.assignment()) == 2:
                await asyncio.gather(staying.poll(), leaving.poll())
        await producer.send_all(topic, [(b"%d" % n, b"1") for n in range(40)])
        async with asyncio.timeout(DEADLINE_S):
            while len(staying._consumer.assignment()) < 4:
                await staying.stay()
            for _ in range(3):
                await staying.stay()
            assert len(await read(staying, 40)) == 40


async def test_a_member_that_stays_keeps_its_place_and_reads_nothing(broker: str, topic: str) -> None:
    async with Producer(broker) as producer, GroupReader(broker, topic, f"g-{uuid.uuid4().hex[:8]}") as reader:
        await producer.send_all(topic, [(b"k", b"1")])
        await read(reader, 1)
        await producer.send_all(topic, [(b"k", b"2")])
        for _ in range(5):
            await reader.stay()
        assert [r.value for r in await read(reader, 1)] == [b"2"]


async def test_a_record_that_is_too_large_is_bad_input_not_an_outage(broker: str, topic: str) -> None:
    async with Producer(broker) as producer:
        with pytest.raises(BadInput, match="too large for the log"):
            await producer.send_all(topic, [(b"k", b"x" * 5_000_000)])
        assert await producer.send_all(topic, [(b"k", b"small")])


async def test_a_broker_that_is_away_is_unavailable_and_says_where(unused_port: int) -> None:
    for client in (Producer(f"127.0.0.1:{unused_port}"), TableReader(f"127.0.0.1:{unused_port}", "t")):
        with pytest.raises(Unavailable, match=f"127.0.0.1:{unused_port}"):
            await client.open()
        await client.close()


@pytest.fixture
def unused_port() -> int:
    from local.ports import free_ports

    return free_ports(1)[0]


async def test_the_log_says_which_it_is_and_a_table_is_read_from_where_it_was_left(broker: str, topic: str) -> None:
    async with Producer(broker) as producer:
        await producer.send_all(topic, [(b"a", b"1"), (b"a", b"2"), (b"b", b"3")])
        extent = await log_extent(broker, [topic])
        held = extent.topics[topic]
        assert (sorted(held.first), sum(held.first.values()), sum(held.end.values())) == ([0, 1, 2, 3], 0, 3)
        assert extent.cluster
        assert held.topic_id
        await producer.send_all(topic, [(b"a", b"4")])
    async with TableReader(broker, topic, start_at=held.end) as reader:
        assert not reader.caught_up
        assert [record.value for record in await read(reader, 1)] == [b"4"]
        assert reader.caught_up
    with pytest.raises(Unavailable, match="run `nearline init`"):
        await log_extent(broker, ["never-made"])


def test_the_end_of_a_partitions_records_leaves_out_the_ends_of_transactions(broker: str, topic: str) -> None:
    """No reader gets to the latter, so a group that has read all records would never be done."""
    producer = KafkaProducer(bootstrap_servers=broker, transactional_id=uuid.uuid4().hex)
    producer.init_transactions()
    for _ in range(12):
        producer.begin_transaction()
        producer.send(topic, b"v", key=b"k", partition=2)
        producer.commit_transaction()
    producer.begin_transaction()
    producer.send(topic, b"v", key=b"k", partition=1)
    producer.flush()
    producer.abort_transaction()
    producer.close()
    topics = Topics(broker)
    try:
        ends = topics.ends_of_records([topic])
        assert ends == {topic: {1: 1, 2: 23}}
        assert topics.records_in(topic) == 26
    finally:
        topics.close()


async def test_a_group_has_read_all_when_it_committed_the_ends_until_it_is_forgotten(broker: str, topic: str) -> None:
    group = f"g-{uuid.uuid4().hex[:8]}"
    async with Producer(broker) as producer:
        await producer.send_all(topic, [(b"%d" % number, b"v") for number in range(20)])
    topics = Topics(broker)
    try:
        topics.forget_group(group)  # unknown yet
        ends = topics.ends_of_records([topic])
        assert not topics.has_read(group, ends)
        async with GroupReader(broker, [topic], group) as reader:
            reader.done(await read(reader, 20))
        assert topics.has_read(group, ends)
        topics.forget_group(group)
        assert not topics.has_read(group, ends)
    finally:
        topics.close()


def every_second(broker: str, **config: str) -> str:
    """A topic of one partition for which a second is what a day is for the real ones; its cleaner is as quick."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    (node,) = admin.describe_cluster()["brokers"]
    quickly = ConfigResource(ConfigResourceType.BROKER, str(node["broker_id"]), {"log.cleaner.backoff.ms": "200"})
    admin.alter_configs([quickly])
    admin.close()
    topics = Topics(broker)
    quick = {"segment.ms": "1000", "max.compaction.lag.ms": "1000", "delete.retention.ms": "100"}
    always = {"message.timestamp.type": "LogAppendTime", "min.cleanable.dirty.ratio": "0.3"}
    topics.ensure([Topic(name, 1, {"cleanup.policy": "compact", **always, **quick, **config})])
    topics.close()
    return name


async def records_of(broker: str, topic: str) -> list[Record]:
    records: list[Record] = []
    async with TableReader(broker, topic) as reader:
        while not reader.caught_up:
            records += await reader.poll()
    return records


async def until_without(broker: str, topic: str, value: bytes, write: Callable[[], Awaitable[object]]) -> None:
    """Return once no record of *topic* has *value*, with *write* between the looks."""
    async with asyncio.timeout(60.0):
        while any(record.value == value for record in await records_of(broker, topic)):
            await write()
            await asyncio.sleep(0.2)


async def test_a_replaced_value_leaves_a_quiet_partition_with_its_heartbeats(broker: str) -> None:
    """And not without: the last segment of a partition is never compacted."""
    topic, silent = every_second(broker), every_second(broker)
    async with Producer(broker) as producer:
        for each in (topic, silent):
            await producer.send_all(each, [(b"u", b"secret"), (b"u", None)])
        await until_without(broker, topic, b"secret", lambda: producer.beat(topic))
        await until_no_key(broker, topic, b"u", lambda: producer.beat(topic))
    assert [record.value for record in await records_of(broker, silent)] == [b"secret", None]


async def until_no_key(broker: str, topic: str, key: bytes, write: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(60.0):
        while any(record.key == key for record in await records_of(broker, topic)):
            await write()
            await asyncio.sleep(0.2)


async def test_an_idle_user_leaves_a_small_busy_topic_by_a_null_value(broker: str) -> None:
    topic = every_second(broker)
    busy = count()

    async with Producer(broker) as producer:

        async def write() -> None:
            await producer.send_all(topic, [(b"busy", b"%d" % next(busy))])

        await producer.send_all(topic, [(b"idle", b"history")])
        await write()
        await producer.send_all(topic, [(b"idle", None)])  # as the job does after the time to live
        await until_no_key(broker, topic, b"idle", write)


async def test_heartbeats_reach_each_partition_by_keys_that_belong_there(broker: str, topic: str) -> None:
    async with Producer(broker) as producer:
        await producer.beat(topic)
    found = {record.partition: record for record in await records_of(broker, topic)}
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[p].key for p in range(4)] == heartbeat_keys(4)
    assert all(record.value is None for record in found.values())
