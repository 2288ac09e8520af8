"""Producers of other people, by librdkafka: with any codec, with its own partitioner, and with transactions."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Producer

from nearline.log import Message

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_DEADLINE_S = 30.0


def send_packed(bootstrap: str, topic: str, codec: str, messages: Sequence[Message]) -> None:
    """Append *messages* to *topic* in batches that are packed with *codec*; librdkafka packs only what gets smaller."""
    settings = {"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 20}
    producer = Producer(settings | {"partitioner": "murmur2_random"})
    for key, value in messages:
        producer.produce(topic, value, key, on_delivery=_delivered)
    assert producer.flush(_DEADLINE_S) == 0, "not all were sent"


def send_elsewhere(bootstrap: str, topic: str, messages: Sequence[Message]) -> None:
    """Append *messages* to *topic* with librdkafka's default partitioner: each to the partition of its key's CRC32."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for key, value in messages:
        producer.produce(topic, value, key, on_delivery=_delivered)
    assert producer.flush(_DEADLINE_S) == 0, "not all were sent"


def _delivered(error: object, _: object) -> None:
    assert error is None, error


@contextmanager
def transaction(bootstrap: str) -> Iterator[Producer]:
    """A producer in a transaction, which the test commits or aborts; what the test leaves open is aborted."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": uuid.uuid4().hex, "partitioner": "murmur2_random"}
    )
    producer.init_transactions(_DEADLINE_S)
    producer.begin_transaction()
    yield producer


def send_in_transaction(bootstrap: str, topic: str, messages: Sequence[Message], *, commit: bool) -> None:
    """Append *messages* to *topic* in a transaction of their own, and commit or abort it."""
    with transaction(bootstrap) as producer:
        for key, value in messages:
            producer.produce(topic, value, key, on_delivery=_delivered)
        assert producer.flush(_DEADLINE_S) == 0, "not all were sent"
        if commit:
            producer.commit_transaction(_DEADLINE_S)
        else:
            producer.abort_transaction(_DEADLINE_S)
