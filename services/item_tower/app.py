"""item_tower's composition root: opens the worker's dependencies in order, and closes them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial

from nearline.adapters.http import status_server
from nearline.adapters.kafka.admin import committed
from nearline.adapters.kafka.group_reader import GroupReader
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.tokenizer import open_tokenizer
from nearline.adapters.triton import TritonTowers
from nearline.item_table import ItemTable, apply_all
from nearline.log import Record
from nearline.newest import Newest
from nearline.process import follow, open_within, run_part, until
from nearline.settings import Settings
from nearline.space import Space
from nearline.telemetry import get_logger
from nearline.topics import ITEMS, item_vectors_topic
from services.item_tower.item_changes import RETIRED_KEPT_MS
from services.item_tower.newer_changes import among, missed
from services.item_tower.worker import ItemWorker


def now_ms() -> int:
    """The wall clock, UTC milliseconds."""
    return time.time_ns() // 1_000_000


async def serve(settings: Settings) -> None:
    """Read the published vectors, repair what was missed, then publish every change of the catalogue."""
    space = settings.embedding_space
    table = ItemTable(space, keep_candidates=True)
    towers = TritonTowers(
        settings.triton,
        space,
        kept=settings.history_length,
        timeout_ms=settings.request_timeout_ms,
        tls=settings.triton_security,
    )
    published = TableReader(settings.brokers, item_vectors_topic(space))
    producer = Producer(settings.brokers)
    reader = GroupReader(settings.brokers, ITEMS, _group(space))
    ready = {"log": False, "item_vectors": False, "towers": False}

    def learn(records: list[Record]) -> None:
        for message in apply_all(table, records)[1]:
            get_logger().warning("item vector refused", detail=message)

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(status_server(settings.host, settings.item_tower_port, lambda: ready))
        for what, part in (("the log", published), ("the log", producer), ("Triton", towers)):
            stack.push_async_callback(part.close)
            await open_within(settings.startup_deadline_s, what, part.open)
        tokenizer = open_tokenizer(settings.tokenizer, towers.features.text_encoder)
        read = partial(towers.features.item_inputs, tokenizer=tokenizer)
        worker = ItemWorker(
            space,
            reader=reader,
            table=table,
            towers=towers,
            read=read,
            publish=producer.send_all,
            now_ms=now_ms,
            partitions=settings.partitions,
        )
        ready.update(log=True, towers=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(published.poll, learn))
            await until(lambda: published.caught_up)
            await _mend(settings, worker, table)
            ready["item_vectors"] = True
            get_logger().info("ready", items=len(table), space=space.number)
            stack.push_async_callback(reader.close)
            await open_within(settings.startup_deadline_s, "the log", reader.open)
            tasks.create_task(worker.run())


async def _mend(settings: Settings, worker: ItemWorker, table: ItemTable) -> None:
    """Publish missed changes, retire items deleted while item_tower was down, and erase items retired long ago."""
    gone = await worker.retire_orphans(partial(_listed, settings, worker, table))
    long_gone = table.retired_before(now_ms() - RETIRED_KEPT_MS)
    await worker.bury(long_gone)
    if gone or long_gone:
        get_logger().info("mended", retired=gone, buried=len(long_gone))


async def _listed(settings: Settings, worker: ItemWorker, table: ItemTable) -> set[str]:
    """The ids in the catalogue, from ``items`` read as a table; changes that were missed are published on the way."""
    newest = Newest()
    async for records in _all_items(settings):
        newest.note(records)
    worker.know(newest)
    await _catch_up(settings, worker, missed(newest, table, await _read_before(settings)))
    return {key.decode(errors="replace") for key in newest.listed()}


async def _catch_up(settings: Settings, worker: ItemWorker, orders: Mapping[bytes, int]) -> None:
    """Publish the changes with these *orders*, by reading ``items`` once more if there are any."""
    if not orders:
        return
    count = 0
    async for records in _all_items(settings):
        count += await worker.catch_up(among(records, orders))
    get_logger().info("caught up", items=count)


async def _all_items(settings: Settings) -> AsyncIterator[list[Record]]:
    async with TableReader(settings.brokers, ITEMS) as reader:
        while not reader.caught_up:
            yield await reader.poll()


async def _read_before(settings: Settings) -> dict[int, int]:
    """The offsets in ``items`` up to which changes were processed before this start."""
    return await committed(settings.brokers, _group(settings.embedding_space), ITEMS)


def _group(space: Space) -> str:
    return f"item-tower.{space.number}"


def main() -> None:
    """Entry point of ``python -m services.item_tower``."""
    run_part("item_tower", serve)
