"""user_tower's composition root: opens the worker's dependencies in order, and closes them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from nearline.adapters.http import status_server
from nearline.adapters.kafka.group_reader import GroupReader
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.span_exporters import spans_for
from nearline.adapters.stores import store_for
from nearline.adapters.triton import TritonTowers
from nearline.errors import Unavailable
from nearline.item_table import ItemTable, apply_all
from nearline.log import Record
from nearline.process import follow, open_within, run_part, settle_memory, until
from nearline.settings import Settings
from nearline.store import UserStore
from nearline.telemetry import counter, gauge, get_logger
from nearline.topics import FORGETTING, HEARTBEAT_MS, USER_SEEN, USER_SEQUENCES, item_vectors_topic, user_updates_topic
from services.user_tower.freshness import Freshness
from services.user_tower.missing_items import MissingItems
from services.user_tower.updates import Updates
from services.user_tower.worker import UserWorker

KEEP_HOUSE_S = 5.0
_BEAT_AGAIN_S = 60.0
UPDATE_S = 5.0  # a later update comes too late for a waiting request
ITEMS = gauge("item_table_items", "Items whose vectors are in memory.")
REFUSED = counter("item_vectors_refused_total", "Item vectors of another space, or damaged ones.")


class Rereader(Protocol):
    """Reads the log as a group (nearline/adapters/kafka/group_reader.py)."""

    async def start_over(self) -> None:
        """Have the group read from the beginning when it is opened."""


async def serve(settings: Settings) -> None:
    """Read ``item-vectors`` to its end, then turn sequences into stored vectors until cancelled."""
    space = settings.embedding_space
    table = ItemTable(space)
    missing = MissingItems()
    store = store_for(
        settings.store_url,
        space,
        ttl_ms=settings.history_ttl_ms,
        read_ms=settings.store_timeout_ms,
        writer=True,
        tls=settings.store_security,
    )
    towers = TritonTowers(
        settings.triton,
        space,
        kept=settings.history_length,
        timeout_ms=settings.request_timeout_ms,
        tls=settings.triton_security,
    )
    vectors = TableReader(settings.brokers, item_vectors_topic(space))
    reader = GroupReader(settings.brokers, [USER_SEQUENCES, USER_SEEN], f"user-tower.{space.number}")
    producer = Producer(settings.brokers)
    publisher = Producer(
        settings.brokers, delivery_s=UPDATE_S
    )  # a separate producer: dead letters wait for the log, updates do not
    spans = spans_for(settings, "user_tower")
    updates = Updates(space, publisher.send_all)
    ready = {"log": False, "item_vectors": False, "store": False, "towers": False}

    def learn(records: list[Record]) -> None:
        _, refused = apply_all(table, records)
        ITEMS.set(len(table))
        missing.came(record.id for record in records if record.id in table)
        for message in refused:
            REFUSED.inc()
            get_logger().warning("item vector refused", detail=message)

    async with contextlib.AsyncExitStack() as stack:
        if spans is not None:
            stack.push_async_callback(spans.close)
        await stack.enter_async_context(status_server(settings.host, settings.user_tower_port, lambda: ready))
        for what, part in (
            ("the log", vectors),
            ("the log", producer),
            ("the log", publisher),
            ("the store", store),
            ("Triton", towers),
        ):
            stack.push_async_callback(part.close)
            await open_within(settings.startup_deadline_s, what, part.open)
        where = partial(publisher.prepare, user_updates_topic(space))
        await open_within(settings.startup_deadline_s, "the log", where)
        ready.update(log=True, store=True, towers=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(vectors.poll, learn))
            tasks.create_task(_keep_house(store))
            tasks.create_task(beat_daily(producer.beat, asyncio.sleep))
            await until(lambda: vectors.caught_up)
            settle_memory()
            ready["item_vectors"] = True
            get_logger().info("ready", items=len(table), space=space.number)
            stack.push_async_callback(reader.close)
            await open_within(settings.startup_deadline_s, "the log", partial(fill, store, reader))
            await open_within(settings.startup_deadline_s, "the log", reader.open)
            worker = UserWorker(
                space,
                reader=reader,
                table=table,
                towers=towers,
                store=store,
                dead_letters=producer.send_all,
                announce=updates.announce,
                policy=settings.seen_policy,
                kept=settings.history_length,
                missing=missing,
                ttl_ms=settings.history_ttl_ms,
                freshness=Freshness(spans),
            )
            tasks.create_task(updates.run())
            tasks.create_task(worker.run())


async def fill(store: UserStore, reader: Rereader) -> None:
    """Have *reader* begin at the beginning of the log if *store* is new, or was deleted because it may be damaged."""
    if not store.is_filled:
        await reader.start_over()  # first: if we end here, the next start does it again
        await store.fill_again()


async def _keep_house(store: UserStore) -> None:
    while True:
        await asyncio.sleep(KEEP_HOUSE_S)
        await store.keep_house()


async def beat_daily(beat: Callable[[str], Awaitable[None]], sleep: Callable[[float], Awaitable[None]]) -> None:
    """Append a heartbeat to the topics that forget, at the start and every day; again soon if the log is away."""
    while True:
        try:
            for topic in FORGETTING:
                await beat(topic)
        except Unavailable as error:
            get_logger().warning("no heartbeat", reason=str(error))
            await sleep(_BEAT_AGAIN_S)
        else:
            await sleep(HEARTBEAT_MS / 1000)


def main() -> None:
    """Entry point of ``python -m services.user_tower``."""
    run_part("user_tower", serve)
