"""Clients with another partitioner than Kafka's own, such as librdkafka by default: nothing of theirs is stuck."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial

import numpy as np
import pytest

from nearline.adapters.kafka.admin import Topics, committed
from nearline.adapters.kafka.group_reader import GroupReader
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.features import Features
from nearline.item_table import ItemTable, apply_all
from nearline.item_vectors import ItemFields, ItemVector, decode_item_vector, encode_item_vector
from nearline.items import Item, decode_item, encode_item
from nearline.log import Record
from nearline.newest import Newest
from nearline.process import follow, until
from nearline.profiles import Profile, decode_profile, encode_profile
from nearline.settings import Settings, load_settings
from nearline.space import Space
from nearline.topics import CLICKS, ITEMS, PARTITIONS, USERS, all_topics, item_vectors_topic
from nearline.versions import is_misplaced, is_offset
from services.ingest.appender import Appender
from services.ingest.catalogue_editor import CatalogueEditor
from services.ingest.table_view import TableView
from services.ingest.user_editor import UserEditor
from services.item_tower.app import _listed
from services.item_tower.worker import ItemWorker
from tests.support.fakes import ScriptedTowers
from tests.support.other_producers import send_elsewhere

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0


@pytest.fixture
def settings(broker: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """All topics, with a space of this test's own."""
    monkeypatch.setenv("NEARLINE_KAFKA", broker)
    monkeypatch.setenv("NEARLINE_SPACE", str(uuid.uuid4().int % 30_000 + 1_000))
    settings = load_settings()
    topics = Topics(broker)
    topics.ensure(all_topics(settings.embedding_space))
    topics.close()
    return settings


@pytest.fixture
async def producer(broker: str) -> AsyncIterator[Producer]:
    async with Producer(broker) as producer:
        yield producer


def of_another_client(settings: Settings, topic: str, values: Iterable[tuple[str, bytes]]) -> None:
    send_elsewhere(settings.kafka, topic, [(key.encode(), value) for key, value in values])


def titled(items: Iterable[str], title: str) -> list[tuple[str, bytes]]:
    return [(item_id, encode_item(Item(title))) for item_id in items]


def some_ids() -> list[str]:
    """Ids of this test's own, enough that librdkafka puts most of them elsewhere."""
    prefix = uuid.uuid4().hex[:8]
    return [f"{prefix}-{n}" for n in range(24)]


async def everything(settings: Settings, topic: str) -> list[Record]:
    records: list[Record] = []
    async with TableReader(settings.brokers, topic) as reader, asyncio.timeout(DEADLINE_S):
        while not reader.caught_up:
            records += await reader.poll()
    return records


@contextlib.asynccontextmanager
async def running(*parts: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def viewed(settings: Settings, topic: str, check: Callable[[bytes], object]) -> AsyncIterator[TableView]:
    """The view of an ingest process that starts now and follows the topic."""
    view = TableView(topic, check)
    async with TableReader(settings.brokers, topic) as reader, running(follow(reader.poll, view.apply)):
        await asyncio.wait_for(until(lambda: reader.caught_up), DEADLINE_S)
        view.end_of_history()
        yield view


@contextlib.asynccontextmanager
async def item_tower(settings: Settings, producer: Producer) -> AsyncIterator[ItemTable]:
    """An item_tower that starts now, with towers that need no Triton; its table of published vectors."""
    space = settings.embedding_space
    table = ItemTable(space, keep_candidates=True)
    async with (
        TableReader(settings.brokers, item_vectors_topic(space)) as published,
        GroupReader(settings.brokers, ITEMS, f"item-tower.{space.number}") as reader,
        running(follow(published.poll, partial(apply_all, table))),
    ):
        worker = ItemWorker(
            space,
            reader=reader,
            table=table,
            towers=ScriptedTowers(space.dimension),
            read=Features(dimension=space.dimension).item_inputs,
            publish=producer.send_all,
            now_ms=lambda: 0,
        )
        await asyncio.wait_for(until(lambda: published.caught_up), DEADLINE_S)
        await worker.retire_orphans(partial(_listed, settings, worker, table))
        async with running(worker.run()):
            yield table


async def titles_published(settings: Settings) -> dict[str, str]:
    """What retrieval shows: of each item the title of its highest version; empty once it is deleted."""
    newest: dict[str, ItemVector] = {}
    space = settings.embedding_space
    for record in await everything(settings, item_vectors_topic(space)):
        vector = decode_item_vector(record.id, record.value or b"", space)
        if record.id not in newest or vector.version >= newest[record.id].version:
            newest[record.id] = vector
    return {item_id: vector.shown.title for item_id, vector in newest.items()}


async def wait_for_titles(settings: Settings, expected: dict[str, str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not expected.items() <= (await titles_published(settings)).items():
            await asyncio.sleep(0.05)


def titles_in(view: TableView, item_ids: Iterable[str]) -> dict[str, str]:
    found = {item_id: view.get(item_id) for item_id in item_ids}
    return {item_id: decode_item(stored.raw).title for item_id, stored in found.items() if stored}


async def test_items_that_two_clients_write_end_as_they_were_written_last(
    settings: Settings, producer: Producer
) -> None:
    """In the answers, in ingest and in an export; while they run, and after a restart."""
    ids = some_ids()
    updated, changed, deleted, theirs = ids[:8], ids[8:14], ids[14:20], ids[20:]
    async with item_tower(settings, producer), viewed(settings, ITEMS, decode_item) as view:
        catalogue = CatalogueEditor(view, Appender(ITEMS, producer.send_all), is_read=lambda: True)
        for item_id in [*updated, *changed, *deleted]:
            await catalogue.put(item_id, {"title": "listed"})
        of_another_client(settings, ITEMS, titled(ids, "updated"))
        expected = dict.fromkeys(ids, "updated")
        await wait_for_titles(settings, expected)
        await asyncio.wait_for(until(lambda: titles_in(view, ids) == expected), DEADLINE_S)

        for item_id in changed:
            await catalogue.patch(item_id, {"title": "changed"})
        for item_id in deleted:
            await catalogue.delete(item_id)
        expected |= dict.fromkeys(changed, "changed") | dict.fromkeys(deleted, "")
        await wait_for_titles(settings, expected)
    there = {item_id: title for item_id, title in expected.items() if title}

    async with item_tower(settings, producer), viewed(settings, ITEMS, decode_item) as view:
        assert titles_in(view, ids) == there
        of_another_client(settings, ITEMS, titled(theirs, "after the restart"))
        expected |= dict.fromkeys(theirs, "after the restart")
        await wait_for_titles(settings, expected)
    records = [record for record in await everything(settings, ITEMS) if record.id in expected]
    newest = Newest()
    newest.note(records)
    exported = {record.id: decode_item(record.value or b"").title for record in newest.take(records)}
    assert exported == {item_id: title for item_id, title in expected.items() if title}
    assert sum(is_misplaced(r.key, r.value, r.partition, PARTITIONS) for r in records) > len(ids) // 2
    last = {(record.id, record.partition): record for record in records}
    assert not any(record.value for record in last.values() if record.id in deleted), "compaction leaves no value"


async def test_items_that_got_stuck_under_an_earlier_release_are_right_after_the_next_start(
    settings: Settings, producer: Producer
) -> None:
    """It published by offsets, which a change in another partition need not exceed, and committed what it ignored."""
    space, ids = settings.embedding_space, some_ids()
    await producer.send_all(ITEMS, [(key.encode(), value) for key, value in titled(ids, "old")])
    of_another_client(settings, ITEMS, titled(ids, "new"))
    await producer.send_all(ITEMS, [(item_id.encode(), None) for item_id in ids[:3]])
    vectors = [(item_id.encode(), encode_item_vector(by_offset(item_id, space), space)) for item_id in ids]
    await producer.send_all(item_vectors_topic(space), vectors)
    group = f"item-tower.{space.number}"
    async with GroupReader(settings.brokers, ITEMS, group) as reader, asyncio.timeout(DEADLINE_S):
        while sum((await committed(settings.brokers, group, ITEMS)).values()) < await end_of(settings, ITEMS):
            reader.done(await reader.poll())
            await reader.settle()
    async with item_tower(settings, producer) as table:
        await wait_for_titles(settings, dict.fromkeys(ids[3:], "new") | dict.fromkeys(ids[:3], ""))
        await asyncio.wait_for(until(lambda: not any(is_offset(v) for v in versions(table, ids))), DEADLINE_S)


def by_offset(item_id: str, space: Space) -> ItemVector:
    """The item as earlier releases published it, at an offset that the changes in other partitions do not exceed."""
    unit = np.eye(1, space.dimension, dtype=np.float32)[0]
    return ItemVector(item_id, 10**6, ItemFields("old"), unit, unit.astype(np.float16), "digest")


def versions(table: ItemTable, item_ids: Iterable[str]) -> list[int]:
    return [known.version for item_id in item_ids if (known := table.get(item_id))]


async def end_of(settings: Settings, topic: str) -> int:
    topics = Topics(settings.brokers)
    try:
        return topics.end_offset(topic)
    finally:
        topics.close()


async def test_profiles_that_two_clients_write_end_as_they_were_written_last_and_an_erasure_leaves_none(
    settings: Settings, producer: Producer
) -> None:
    ids = some_ids()
    async with viewed(settings, USERS, decode_profile) as view:
        users = UserEditor(
            view, Appender(USERS, producer.send_all), Appender(CLICKS, producer.send_all), is_read=lambda: True
        )
        for user_id in ids[:12]:
            await users.put(user_id, {"country": "GB"})
        of_another_client(settings, USERS, [(user_id, encode_profile(Profile("FR"))) for user_id in ids])
        await asyncio.wait_for(until(lambda: countries(view, ids) == dict.fromkeys(ids, "FR")), DEADLINE_S)
        for user_id in ids[:6]:
            await users.put(user_id, {"country": "SE"})
        for user_id in ids[18:]:
            await users.erase(user_id, now_ms=0)
    expected = dict.fromkeys(ids[:6], "SE") | dict.fromkeys(ids[6:18], "FR")
    async with viewed(settings, USERS, decode_profile) as view:
        assert countries(view, ids) == expected
    last = {(record.id, record.partition): record for record in await everything(settings, USERS)}
    assert not any(record.value for (user_id, _), record in last.items() if user_id in ids[18:])


def countries(view: TableView, user_ids: Iterable[str]) -> dict[str, str]:
    found = {user_id: view.get(user_id) for user_id in user_ids}
    return {user_id: decode_profile(stored.raw).country for user_id, stored in found.items() if stored}
