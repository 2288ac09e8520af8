"""Reads a compacted topic as a table: all of it, without a group."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from nearline.adapters.kafka.client import BOOTSTRAP_MS, brokers_of, open_connection, unavailable
from nearline.adapters.kafka.reader import POLL_MS, LogReader, polled
from nearline.adapters.kafka.transactions import Transactions
from nearline.errors import Unavailable
from nearline.log import Record
from nearline.tls import Brokers
from nearline.versions import partition_of


class TableReader(LogReader):
    """Reads all of a compacted topic from its beginning, then follows it.

    A partition in *start_at* is read from that offset instead, or from its beginning if the log no longer has it.
    ``caught_up`` becomes true, and stays so, once everything that was in the topic at ``open`` is read. Records of
    aborted transactions are read like others; those that *look_up* picks are left out unless they are committed.
    """

    def __init__(
        self,
        log: Brokers | str,
        topic: str,
        *,
        start_at: Mapping[int, int] | None = None,
        batch: int = 2_000,
        look_up: Callable[[Record], bool] = lambda _: False,
    ) -> None:
        super().__init__(log)
        self._look_up = look_up
        self._transactions = Transactions(log, topic)
        self._topic = topic
        self._start_at = start_at or {}
        self._batch = batch
        self._waiting_for: dict[Any, int] = {}
        self.caught_up = False

    async def open(self) -> None:
        """Connect and note the end offsets; ``Unavailable`` without a broker or the topic."""
        await self._call(self._connect)

    def _connect(self) -> None:
        consumer = KafkaConsumer(**self._consumer_config(), max_poll_records=self._batch)
        self._consumer = consumer
        partitions = consumer.partitions_for_topic(self._topic)
        if not partitions:
            raise Unavailable(f"topic {self._topic} does not exist; run `nearline init`")
        parts = [TopicPartition(self._topic, p) for p in sorted(partitions)]
        consumer.assign(parts)
        consumer.seek_to_beginning(*(part for part in parts if part.partition not in self._start_at))
        for part in parts:
            if part.partition in self._start_at:
                consumer.seek(part, self._start_at[part.partition])
        self._waiting_for = dict(consumer.end_offsets(parts))
        self._settle()

    async def poll(self) -> list[Record]:
        """The next records: at most a batch, and none if nothing comes within half a second."""
        return await self._call(self._poll)

    def _poll(self) -> list[Record]:
        records = self._records(POLL_MS)
        if not self.caught_up:
            self._settle()
        self._look_at_lag()
        counts = self._transactions.is_committed
        return [r for r in records if not self._look_up(r) or counts(r.partition, r.offset)]

    async def close(self) -> None:
        """Disconnect; safe to call twice."""
        if self._consumer is not None:
            await self._call(self._transactions.close)
        await super().close()

    def _settle(self) -> None:
        """Drop each partition whose end at ``open`` is reached; an empty or compacted tail counts as reached."""
        for part, end in list(self._waiting_for.items()):
            if end == 0 or self._consumer.position(part) >= end:
                del self._waiting_for[part]
        self.caught_up = not self._waiting_for


async def newest_of(log: Brokers | str, topic: str, key: bytes) -> Record | None:
    """The newest record of *key* in *topic*, found by reading its whole partition; ``Unavailable`` if that fails."""
    return await asyncio.to_thread(_newest_of, brokers_of(log), topic, key)


def _newest_of(brokers: Brokers, topic: str, key: bytes) -> Record | None:
    newest = None
    try:
        consumer = KafkaConsumer(**open_connection(brokers), bootstrap_timeout_ms=BOOTSTRAP_MS, max_poll_records=2_000)
        try:
            partitions = sorted(consumer.partitions_for_topic(topic) or ())
            if not partitions:
                raise Unavailable(f"topic {topic} does not exist; run `nearline init`")
            part = TopicPartition(topic, partitions[partition_of(key, len(partitions))])
            consumer.assign([part])
            consumer.seek_to_beginning(part)
            end = consumer.end_offsets([part])[part]
            while consumer.position(part) < end:
                newest = next((r for r in reversed(polled(consumer, POLL_MS)) if r.key == key), newest)
        finally:
            consumer.close()
    except KafkaError as error:
        raise unavailable(brokers, error) from None
    return newest
