"""Reads topics as a member of a consumer group."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from nearline.adapters.kafka.client import BOOTSTRAP_MS, brokers_of, connection
from nearline.adapters.kafka.reader import POLL_MS, LogReader, polled
from nearline.errors import Unavailable
from nearline.log import Record
from nearline.tls import Brokers


class GroupReader(LogReader):
    """Reads topics as a member of *group*: each partition belongs to one replica at a time.

    Topics with the same number of partitions are assigned alike, so all records of a key come to one replica; records
    of different topics come in no order.

    A record is committed only after ``done``, so what a killed replica had not processed is read again.
    """

    def __init__(self, log: Brokers | str, topics: str | Sequence[str], group: str, *, batch: int = 500) -> None:
        super().__init__(log)
        self._topics = [topics] if isinstance(topics, str) else list(topics)
        self._group = group
        self._batch = batch
        self._dealt_with: dict[Any, int] = {}
        self._settled: dict[Any, int] = {}
        self._committed_at = 0.0

    async def start_over(self) -> None:
        """Commit the beginning of the topics as the group's position; ``Unavailable`` while it has members."""
        await self._call(self._start_over)

    def _start_over(self) -> None:
        consumer = KafkaConsumer(**self._consumer_config(), group_id=self._group)
        try:
            parts = [TopicPartition(topic, number) for topic in self._topics for number in _numbers(consumer, topic)]
            consumer.assign(parts)
            beginnings = consumer.beginning_offsets(parts)
            consumer.commit({part: OffsetAndMetadata(offset, "", -1) for part, offset in beginnings.items()})
        finally:
            consumer.close()

    async def open(self) -> None:
        """Join the group; ``Unavailable`` without a broker or one of the topics."""
        await self._call(self._connect)

    def _connect(self) -> None:
        self._consumer = KafkaConsumer(
            **self._consumer_config(),
            group_id=self._group,
            max_poll_records=self._batch,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_500,
        )
        # kafka-python 3.0.12: a member that joins before it knows the topic's partitions never gets any.
        for topic in self._topics:
            _numbers(self._consumer, topic)
        self._consumer.subscribe(self._topics)

    async def poll(self) -> list[Record]:
        """The next records: at most a batch, and none if nothing comes within half a second."""
        return await self._call(self._poll)

    def _poll(self) -> list[Record]:
        self._commit_now_and_then()
        records = self._records(POLL_MS)
        self._look_at_lag()
        return records

    async def stay(self) -> None:
        """Stay in the group without reading while a dependency is down; call it repeatedly."""
        await self._call(self._stay)

    def _stay(self) -> None:
        self._consumer.pause(*self._consumer.assignment())
        try:
            # A partition that the group deals to this member meanwhile is not paused: its records are left for `poll`.
            for part, records in self._consumer.poll(timeout_ms=100).items():
                self._consumer.seek(part, records[0].offset)
        finally:
            self._consumer.resume(*self._consumer.paused())

    def done(self, records: Iterable[Record]) -> None:
        """Mark *records* as processed; they are committed within a quarter of a second, and on close."""
        newest: dict[tuple[str, int], int] = {}
        for record in records:
            place = record.topic, record.partition
            newest[place] = max(newest.get(place, 0), record.offset + 1)
        for (topic, partition), offset in newest.items():
            part = TopicPartition(topic, partition)
            self._dealt_with[part] = max(self._dealt_with.get(part, 0), offset)

    async def settle(self) -> None:
        """Commit the position once all records read are processed, also past records that compaction removed."""
        await self._call(self._settle)

    def _settle(self) -> None:
        for part in self._consumer.assignment():
            position = self._consumer.position(part, timeout_ms=1_000)
            if position is not None and self._settled.get(part) != position:
                self._settled[part] = self._dealt_with[part] = position

    def _commit_now_and_then(self) -> None:
        if self._dealt_with and time.monotonic() - self._committed_at > 0.25:
            self._commit()

    def _commit(self) -> None:
        owned = self._consumer.assignment()
        offsets = {p: OffsetAndMetadata(o, "", -1) for p, o in self._dealt_with.items() if p in owned}
        self._dealt_with = {}
        self._committed_at = time.monotonic()
        if offsets:
            self._consumer.commit_async(offsets, self._answered)

    def _answered(self, offsets: Mapping[Any, OffsetAndMetadata], answer: object) -> None:
        """Keep the offsets of a failed commit for the next one.

        A commit fails while the group deals its partitions anew. kafka-python 3.0.12 does not repeat it, and a
        partition that stays with its member keeps its position, so nothing would be read, and committed, again.
        """
        if isinstance(answer, Exception):
            for part, committed in offsets.items():
                self._dealt_with[part] = max(self._dealt_with.get(part, 0), committed.offset)

    async def close(self) -> None:
        """Commit the processed records and leave the group."""
        if self._consumer is not None:
            await self._call(self._commit_last)
        await super().close()

    def _commit_last(self) -> None:
        owned = self._consumer.assignment()
        offsets = {p: OffsetAndMetadata(o, "", -1) for p, o in self._dealt_with.items() if p in owned}
        if offsets:
            try:
                self._consumer.commit(offsets, timeout_ms=3_000)
            except KafkaError:
                return  # the records are read again: at least once


def unreadable(log: Brokers | str, group: str, topics: Sequence[str], *, deadline_s: float) -> str | None:
    """The place and cause of the first record in *topics* that *group* has not committed and that cannot be read.

    ``None`` if all can be read, or if the deadline passed before one was found.
    """
    give_up = time.monotonic() + deadline_s
    try:
        consumer = KafkaConsumer(
            **connection(brokers_of(log)),
            bootstrap_timeout_ms=BOOTSTRAP_MS,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    except KafkaError:
        return None
    try:
        parts = [TopicPartition(topic, p) for topic in topics for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(parts)
        ends = consumer.end_offsets(parts)
        while time.monotonic() < give_up and any(consumer.position(part) < ends[part] for part in parts):
            polled(consumer, POLL_MS)
    except Unavailable as problem:
        return str(problem)
    except KafkaError:
        return None
    finally:
        consumer.close()
    return None


def _numbers(consumer: KafkaConsumer, topic: str) -> list[int]:
    """The numbers of *topic*'s partitions; ``Unavailable`` if there is no such topic."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise Unavailable(f"topic {topic} does not exist; run `nearline init`")
    return sorted(numbers)
