"""Measures what it costs the broker to pack anew in lz4 what other people's producers packed with another codec.

    python -m benchmarks.other_codecs --records 200000

A broker of its own, and librdkafka as the producer. Each codec is sent to a topic that keeps the producer's codec and
to one that is kept in lz4, in turn; the figure is the broker's processor time a record, the median of five runs.
"""

import argparse
import statistics
import uuid
from collections.abc import Sequence

import psutil
from confluent_kafka import Producer

from local.broker import RunningBroker, running_broker
from nearline.adapters.kafka.admin import Topics
from nearline.events import Event, encode_event
from nearline.topics import Topic

_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_KEPT_AS = ("producer", "lz4")
_RUNS = 5
_BATCH = 5_000  # records between two flushes


def broker_us(broker: RunningBroker, topic: str, codec: str, values: Sequence[bytes]) -> float:
    """The broker's processor time a record in µs while *values* are appended."""
    settings = {"bootstrap.servers": broker.bootstrap, "compression.type": codec, "linger.ms": 5, "acks": "all"}
    producer = Producer(settings)
    before = _cpu_s(broker)
    for number, value in enumerate(values):
        producer.produce(topic, value)
        if number % _BATCH == 0:
            producer.flush()
    producer.flush()
    return (_cpu_s(broker) - before) / len(values) * 1e6


def _cpu_s(broker: RunningBroker) -> float:
    processes = [psutil.Process(broker.process.pid)]
    times = [each.cpu_times() for each in [*processes, *processes[0].children(recursive=True)]]
    return float(sum(each.user + each.system for each in times))


def click(number: int) -> bytes:
    """A click as a shop's pipeline writes it."""
    user, item = number * 7919 % 50_000, number * 104_729 % 20_000
    return encode_event(
        Event(uuid.UUID(int=number).hex, f"user-{user}", f"item-{item}", "click", 1_732_100_000_000 + number)
    )


def main() -> None:
    """Print one line a codec."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.other_codecs", description=main.__doc__)
    parser.add_argument("--records", type=int, default=200_000, help="appended in each run")
    records = parser.parse_args().records
    values = [click(number) for number in range(records)]
    with running_broker() as broker:
        topics = Topics(broker.bootstrap)
        for kept_as in _KEPT_AS:
            topics.ensure([Topic(kept_as, 8, {"compression.type": kept_as})])
        topics.close()
        for kept_as in _KEPT_AS:  # the first records of a broker cost its compiler more than its work
            broker_us(broker, kept_as, "zstd", values)
        print("codec    kept as it came, µs   packed anew in lz4, µs")
        for codec in _CODECS:
            runs = [[broker_us(broker, kept_as, codec, values) for kept_as in _KEPT_AS] for _ in range(_RUNS)]
            kept, packed = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{codec:<8} {kept:>20.2f} {packed:>24.2f}", flush=True)


if __name__ == "__main__":
    main()
