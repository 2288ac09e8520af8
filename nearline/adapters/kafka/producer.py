"""Writes to the log."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError
from kafka.partitioner.default import murmur2

from nearline.adapters.kafka.client import BOOTSTRAP_MS, REQUEST_MS, LogClient, open_connection
from nearline.errors import Unavailable
from nearline.log import AddressedMessage, Appended, Message
from nearline.tls import Brokers

HEARTBEAT_ID = "nearline:heartbeat:"  # no user's id begins so
_DELIVERY_S = 30.0
_GRACE_S = 2.0  # kafka-python notices a missed deadline a little late
_RECONNECT_MS = 1_000


def heartbeat_keys(partitions: int) -> list[bytes]:
    """A key for each of *partitions*."""
    found: dict[int, bytes] = {}
    for number in itertools.count():
        key = f"{HEARTBEAT_ID}{number}".encode()
        found.setdefault((murmur2(key) & 0x7FFFFFFF) % partitions, key)
        if len(found) == partitions:
            return [found[partition] for partition in range(partitions)]
    raise AssertionError("the count never ends")


class Producer(LogClient):
    """Writes to the log: when ``send_all`` returns, all replicas have acknowledged the messages.

    With *linger_ms* a record waits that long for others of its partition: fewer requests, later records. If the log
    has not acknowledged after *delivery_s*, the send raises ``Unavailable``, though the record may be in the log. The
    next send then starts with a new client.
    """

    _producer: Any = None

    def __init__(self, log: Brokers | str, *, linger_ms: int = 0, delivery_s: float = _DELIVERY_S) -> None:
        super().__init__(log)
        self._linger_ms = linger_ms
        self._delivery_s = delivery_s
        self._failed: list[Exception] = []

    async def open(self) -> None:
        """Connect; ``Unavailable`` when no broker answers."""
        await self._call(self._connected)

    def _connected(self) -> Any:
        if self._producer is None:
            self._producer = self._connect()
        return self._producer

    def _connect(self) -> Any:
        return KafkaProducer(
            **open_connection(self._brokers),
            bootstrap_timeout_ms=BOOTSTRAP_MS,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            linger_ms=self._linger_ms,
            max_request_size=4 * 1024 * 1024,
            max_block_ms=min(REQUEST_MS, int(self._delivery_s * 1000)),
            request_timeout_ms=int(self._delivery_s * 1000),
            delivery_timeout_ms=int(self._delivery_s * 1000) + self._linger_ms,
            # By default it tries a lost broker ever more rarely, in the end every 30 s.
            reconnect_backoff_max_ms=_RECONNECT_MS,
        )

    async def prepare(self, topic: str) -> None:
        """Fetch *topic*'s metadata, so that the first send does not wait for it."""
        await self._call(lambda: self._connected().partitions_for(topic))

    async def send_all(
        self,
        topic: str,
        messages: Sequence[Message | AddressedMessage],
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> list[Appended]:
        """Append *messages* in order and return their places; ``BadInput`` if one is too large for the topic."""
        return await self._call(self._send_all, topic, messages, headers)

    def _send_all(
        self, topic: str, messages: Sequence[Message | AddressedMessage], headers: Sequence[tuple[str, bytes]]
    ) -> list[Appended]:
        producer = self._connected()
        try:
            futures = [
                producer.send(topic, v, k, list(headers), partition[0] if partition else None)
                for k, v, *partition in messages
            ]
            if futures:
                producer.flush(timeout=self._delivery_s + _GRACE_S)
            found = [future.get(timeout=_GRACE_S) for future in futures]
            return [Appended(each.timestamp, each.partition, each.offset) for each in found]
        except MessageSizeTooLargeError:
            raise
        except KafkaError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """Drop the client without waiting for its buffered records.

        kafka-python 3.0.12: an idempotent producer whose batches expired in flight may never send again, and its own
        ``close`` then gives up before its thread has ended.
        """
        producer, self._producer = self._producer, None
        producer._sender.force_close()
        with contextlib.suppress(KafkaError):
            producer.close(timeout=_GRACE_S)

    async def beat(self, topic: str) -> None:
        """Append a null value of a key that no user has to each partition of *topic*, so that the log compacts it."""
        partitions = await self._call(lambda: len(self._connected().partitions_for(topic)))
        await self.send_all(topic, [(key, None) for key in heartbeat_keys(partitions)])

    async def send_soon(self, topic: str, messages: Sequence[Message]) -> None:
        """Queue *messages* to be appended in order, without waiting; ``flush`` raises if one was not."""
        await self._call(self._send_soon, topic, messages)

    def _send_soon(self, topic: str, messages: Sequence[Message]) -> None:
        producer = self._connected()
        for key, value in messages:
            producer.send(topic, key=key, value=value).add_errback(self._failed.append)

    async def flush(self) -> None:
        """Return when everything sent is in the log; ``Unavailable`` if a message of ``send_soon`` was not appended."""
        await self._call(lambda: self._connected().flush(self._delivery_s + _GRACE_S))
        if self._failed:
            failed, self._failed = self._failed, []
            raise Unavailable(f"{len(failed):,} records are not in the log, the first: {failed[0]!r:.200}")

    async def close(self) -> None:
        """Send the buffered records, if the log accepts them in time, and disconnect."""
        if self._producer is not None:
            await self._call(self._close)
        await super().close()

    def _close(self) -> None:
        try:
            self._producer.flush(timeout=self._delivery_s)
        finally:
            self._abandon()
