"""The broker that one machine runs is a real Kafka that survives what happens to processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.broker import RunningBroker, running_broker
from local.broker_ready import is_ready
from local.ports import free_ports
from nearline.errors import Unavailable

kafka = pytest.importorskip("kafka")


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with running_broker(tmp_path / "broker") as broker:
        yield broker


def produce(bootstrap: str, values: list[bytes]) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for value in values:
        producer.send("kept", key=b"k", value=value).get(timeout=30)
    producer.close()


def consume(bootstrap: str, count: int) -> list[bytes]:
    consumer = kafka.KafkaConsumer("kept", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    try:
        return [next(consumer).value for _ in range(count)]
    finally:
        consumer.close()


def test_acknowledged_records_survive_a_kill_and_restart(own_broker: RunningBroker) -> None:
    admin = kafka.KafkaAdminClient(bootstrap_servers=own_broker.bootstrap)
    admin.create_topics([kafka.admin.NewTopic("kept", 1, 1)])
    admin.close()
    produce(own_broker.bootstrap, [b"one", b"two"])
    own_broker.kill()
    assert not is_ready(own_broker.port)
    own_broker.start()
    produce(own_broker.bootstrap, [b"three"])
    assert consume(own_broker.bootstrap, 3) == [b"one", b"two", b"three"]


def test_a_topic_is_never_created_by_a_typo(broker: str) -> None:
    consumer = kafka.KafkaConsumer(bootstrap_servers=broker)
    try:
        assert not consumer.partitions_for_topic("clikcs")
        assert "clikcs" not in consumer.topics()
    finally:
        consumer.close()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the log folder should be")
    with pytest.raises(Unavailable, match=r"ended with \d+; the end of its output"), running_broker(tmp_path):
        pass


def test_a_port_without_a_listener_is_not_ready() -> None:
    assert not is_ready(free_ports(1)[0])
