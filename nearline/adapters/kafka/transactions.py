"""Says of single records whether an aborted transaction wrote them."""

import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from nearline.adapters.kafka.client import BOOTSTRAP_MS, brokers_of, open_connection, unavailable
from nearline.adapters.kafka.reader import POLL_MS, polled
from nearline.errors import Unavailable
from nearline.tls import Brokers

_FETCH_BYTES = 64 * 1024  # a batch that is larger comes whole
_DEADLINE_S = 10.0


class Transactions:
    """Looks up records of *topic* one by one, as a reader of committed records; connects at the first question."""

    _consumer: Any = None

    def __init__(self, log: Brokers | str, topic: str) -> None:
        self._brokers = brokers_of(log)
        self._topic = topic

    def is_committed(self, partition: int, offset: int) -> bool | None:
        """Whether the record counts: false if its transaction was aborted, or if the log no longer has it.

        ``None`` while that is not decided: its own transaction, or one that began before it, is still open.
        ``Unavailable`` if the log does not answer.
        """
        part = TopicPartition(self._topic, partition)
        try:
            consumer = self._consumer = self._consumer or self._connect()
            consumer.assign([part])
            if consumer.end_offsets([part])[part] <= offset:
                return None
            return self._is_there(consumer, part, offset)
        except KafkaError as error:
            raise unavailable(self._brokers, error) from None

    def _is_there(self, consumer: Any, part: TopicPartition, offset: int) -> bool:
        give_up = time.monotonic() + _DEADLINE_S
        consumer.seek(part, offset)
        while consumer.position(part) <= offset:
            if time.monotonic() > give_up:
                raise Unavailable(f"{self._topic}, partition {part.partition}, offset {offset} was not read in time")
            for record in polled(consumer, POLL_MS):
                return record.offset == offset
        return False

    def _connect(self) -> Any:
        return KafkaConsumer(
            **open_connection(self._brokers),
            bootstrap_timeout_ms=BOOTSTRAP_MS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=1,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            consumer.close()
