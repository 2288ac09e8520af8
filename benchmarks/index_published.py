"""Changes on a topic at a steady rate, in a process of its own: item vectors, or items for the tower.

    python -m benchmarks.index_published --kafka 127.0.0.1:9092 --what vectors --rate 500

It says "started" with its first record and goes on until it is ended.
"""

import argparse
import asyncio
import signal
import time
from collections.abc import Callable

from benchmarks.index_changes import Changes
from benchmarks.index_vectors import source
from benchmarks.index_wired import record_maker
from benchmarks.synthetic_items import bench_items
from nearline.adapters.kafka.producer import Producer
from nearline.features import DIMENSION
from nearline.items import encode_item
from nearline.log import Message
from nearline.space import Space
from nearline.topics import ITEMS, item_vectors_topic

_TICK_S = 0.005
_LINGER_MS = 5  # the default of Kafka's own producer
_OTHER_ITEMS = 20_000

Maker = Callable[[int], Message]


def vectors(seed: int, items: int, first: int) -> Maker:
    """New vectors of the items, one after the other in a random order, from change *first* on."""
    make = record_maker(Changes(source(seed), seed, items, DIMENSION), Space(1, DIMENSION))

    def message(number: int) -> Message:
        record = make(first + number)
        assert record.key is not None
        return record.key, record.value

    return message


def texts(seed: int, items: int, first: int) -> Maker:
    """Items under ids of their own, with titles that no two share: each has to be encoded."""
    listed = list(bench_items(_OTHER_ITEMS, seed + first).values())
    return lambda number: (f"listed-{(first + number) % items:06d}".encode(), encode_item(listed[number % len(listed)]))


async def publish(kafka: str, topic: str, make: Maker, rate: float) -> None:
    """Send at *rate* until cancelled."""
    async with Producer(kafka, linger_ms=_LINGER_MS) as producer:
        started, sent = time.perf_counter(), 0
        print("started", flush=True)
        while True:
            due = int((time.perf_counter() - started) * rate) + 1
            await producer.send_soon(topic, [make(number) for number in range(sent, due)])
            sent = due
            await asyncio.sleep(_TICK_S)


def main() -> None:
    """Publish until ended by a signal."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--what", choices=("vectors", "texts"), required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    maker = {"vectors": vectors, "texts": texts}[given.what]
    topic = {"vectors": item_vectors_topic(Space(1, DIMENSION)), "texts": ITEMS}[given.what]
    try:
        asyncio.run(publish(given.kafka, topic, maker(given.seed, given.items, given.first), given.rate))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
