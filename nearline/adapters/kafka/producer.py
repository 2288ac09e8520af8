"""Writing to the log."""

import contextlib
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from nearline.adapters.kafka.client import BOOTSTRAP_MS, REQUEST_MS, LogClient, connection
from nearline.errors import Unavailable
from nearline.log import Message
from nearline.tls import Brokers

_DELIVERY_S = 30.0
_GRACE_S = 2.0  # kafka-python notices a deadline that passed a moment later
_RECONNECT_MS = 1_000


class Producer(LogClient):
    """Writes to the log; what ``send_all`` returned from is in the log, acknowledged by all replicas.

    With *linger_ms* records wait that long for others of their partition: fewer requests, later records. What the log
    has not acknowledged after *delivery_s* is ``Unavailable``; it may have got in all the same. The next send then
    starts with a new client.
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
            **connection(self._brokers),
            bootstrap_timeout_ms=BOOTSTRAP_MS,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            linger_ms=self._linger_ms,
            max_request_size=4 * 1024 * 1024,
            max_block_ms=min(REQUEST_MS, int(self._delivery_s * 1000)),
            request_timeout_ms=int(self._delivery_s * 1000),
            delivery_timeout_ms=int(self._delivery_s * 1000) + self._linger_ms,
            # By default it looks ever more rarely, in the end every 30 s, whether a broker is back.
            reconnect_backoff_max_ms=_RECONNECT_MS,
        )

    async def prepare(self, topic: str) -> None:
        """Learn where *topic*'s partitions are, so that the first send does not wait for that."""
        await self._call(lambda: self._connected().partitions_for(topic))

    async def send_all(
        self, topic: str, messages: Sequence[Message], headers: Sequence[tuple[str, bytes]] = ()
    ) -> list[int]:
        """Append *messages* in order and return their offsets; ``BadInput`` if one is too large for the topic."""
        return await self._call(self._send_all, topic, messages, headers)

    def _send_all(self, topic: str, messages: Sequence[Message], headers: Sequence[tuple[str, bytes]]) -> list[int]:
        producer = self._connected()
        try:
            futures = [producer.send(topic, key=k, value=v, headers=list(headers)) for k, v in messages]
            if futures:
                producer.flush(timeout=self._delivery_s + _GRACE_S)
            return [int(future.get(timeout=_GRACE_S).offset) for future in futures]
        except MessageSizeTooLargeError:
            raise
        except KafkaError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """Let go of the client without waiting for what it still holds.

        kafka-python 3.0.12: an idempotent producer whose batches expired while they were under way may send nothing
        ever after, and its own ``close`` then gives up before it has ended its thread.
        """
        producer, self._producer = self._producer, None
        producer._sender.force_close()
        with contextlib.suppress(KafkaError):
            producer.close(timeout=_GRACE_S)

    async def send_soon(self, topic: str, messages: Sequence[Message]) -> None:
        """Hand *messages* over to be appended in order, without waiting; ``flush`` says whether all of them were."""
        await self._call(self._send_soon, topic, messages)

    def _send_soon(self, topic: str, messages: Sequence[Message]) -> None:
        producer = self._connected()
        for key, value in messages:
            producer.send(topic, key=key, value=value).add_errback(self._failed.append)

    async def flush(self) -> None:
        """Return when everything sent is in the log; ``Unavailable`` if something sent soon never got there."""
        await self._call(lambda: self._connected().flush(self._delivery_s + _GRACE_S))
        if self._failed:
            failed, self._failed = self._failed, []
            raise Unavailable(f"{len(failed):,} records did not get into the log, the first: {failed[0]!r:.200}")

    async def close(self) -> None:
        """Send what is buffered, if the log takes it in time, and disconnect."""
        if self._producer is not None:
            await self._call(self._close)
        await super().close()

    def _close(self) -> None:
        try:
            self._producer.flush(timeout=self._delivery_s)
        finally:
            self._abandon()
