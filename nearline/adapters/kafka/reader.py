"""What all readers of the log share: polling, the place of a record that cannot be read, and the lag as a metric."""

import time
from typing import Any

from kafka.errors import CorruptRecordError, KafkaError, UnsupportedCodecError

from nearline.adapters.kafka.client import BOOTSTRAP_MS, LogClient, open_connection
from nearline.errors import Unavailable
from nearline.log import Record
from nearline.telemetry import gauge
from nearline.tls import Brokers

POLL_MS = 500  # how long a poll waits when nothing comes; a record ends the wait at once
_LAG = gauge("lag_records", "Records of the log that this part has not read yet", "topic", "partition")
_LAG_EVERY_S = 1.0


class LogReader(LogClient):
    """A consuming client; its subclasses choose the partitions and where to start."""

    _consumer: Any = None
    _looked_at = 0.0
    lag = 0

    def __init__(self, log: Brokers | str) -> None:
        super().__init__(log)
        self._told: set[Any] = set()  # the partitions in the gauge

    def _consumer_config(self) -> dict[str, Any]:
        return {
            **open_connection(self._brokers),
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "fetch_max_wait_ms": POLL_MS,
            "max_partition_fetch_bytes": 4 * 1024 * 1024,
            "check_crcs": True,
        }

    def _records(self, timeout_ms: int) -> list[Record]:
        return polled(self._consumer, timeout_ms)

    def _look_at_lag(self) -> None:
        """Update ``lag`` once a second: each ``position`` is a hop to kafka-python's own thread and back."""
        if time.monotonic() - self._looked_at < _LAG_EVERY_S:
            return
        self._looked_at = time.monotonic()
        ends = {part: self._consumer.highwater(part) for part in self._consumer.assignment()}
        lags = {part: max(0, end - self._consumer.position(part)) for part, end in ends.items() if end is not None}
        self.lag = sum(lags.values())
        for part in self._told - lags.keys():
            _LAG.remove(part.topic, str(part.partition))  # now another replica's
        for part, lag in lags.items():
            _LAG.labels(part.topic, str(part.partition)).set(lag)
        self._told = set(lags)

    async def close(self) -> None:
        """Disconnect; safe to call twice."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await self._call(consumer.close)
        for part in self._told:
            _LAG.remove(part.topic, str(part.partition))  # it reads no more, so it has no lag
        self._told = set()
        await super().close()


def polled(consumer: Any, timeout_ms: int) -> list[Record]:
    """The next records of *consumer*; ``Unavailable`` with the topic, partition and offset of what cannot be read."""
    try:
        batches = consumer.poll(timeout_ms=timeout_ms)
    except (UnsupportedCodecError, CorruptRecordError) as error:
        raise _unreadable(consumer, error) from None
    except KafkaError:
        raise
    except Exception as error:  # a damaged batch raises whatever its codec's library raises
        raise _unreadable(consumer, error) from error
    return [
        Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for records in batches.values()
        for r in records
    ]


def _unreadable(consumer: Any, error: Exception) -> Unavailable:
    # kafka-python 3.0.12 raises without the place, and has no public way to ask for it.
    batch = getattr(consumer._fetcher, "_next_partition_records", None)
    where = "a record"
    if batch is not None:
        part = batch.topic_partition
        where = f"{part.topic}, partition {part.partition}, offset {batch.next_fetch_offset}"
    return Unavailable(
        f"{where} cannot be read, nor what follows it: {error!r:.200}; expected a batch that is whole and packed with "
        "gzip, snappy, lz4, zstd or nothing. `make up` installs the libraries of all of them"
    )
