"""Measures in the running system how long until a new vector or item is in an answer, and a restart.

The catalogue's vectors go straight onto ``item-vectors.1`` (benchmarks/index/vectors.py). A probe publishes a new item
whose vector is that of a user who has one, so it is the best hit of that user from the moment that retrieval knows it;
through the tower it copies title, category and price of a real item that the user is shown, so its vector is that
item's. The clock starts before the send and stops at the first answer that shows the item.

The changes beside it come from a separate process, which prints "started" with its first record and runs until it is
stopped:

    python -m benchmarks.index.served --kafka 127.0.0.1:9092 --what vectors --rate 500
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.documents import Documents
from benchmarks.index.vectors import Changes, TowerVectors, record_maker, shown, source
from benchmarks.probe import Probe, percentiles_ms
from benchmarks.stage import await_items, gauges
from benchmarks.synthetic_items import bench_items
from local.addresses import Ports
from local.layout import ROOT
from local.processes import wait_until
from local.system import Say, System, embedded_system, http_ok, reset
from nearline.adapters.kafka.producer import Producer
from nearline.datasets import load_online_retail
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.features import DIMENSION
from nearline.item_vectors import ItemVector, Vectors, encode_item_vector
from nearline.items import Item, encode_item
from nearline.log import Message, Record
from nearline.settings import load_settings
from nearline.space import Space
from nearline.topics import CLICKS, ITEMS, item_vectors_topic

Maker = Callable[[int], Message]

VECTORS_PER_S, ITEMS_PER_S = 500, 200
_SPACE = Space(1, DIMENSION)
_USERS = 10
_CLICKS = 5
_CHUNK = 2_000
_AT_REST = 2_000  # rows that need not be in the graph before anything is measured
_TICK_S = 0.005
_LINGER_MS = 5  # the default of Kafka's own producer
_OTHER_ITEMS = 20_000
_LEAD_S = 3.0
_PAUSE_S = (0.02, 0.08)
_K = 50
_RESTART_S = 120.0


def measure(towers: TowerVectors, *, items: int, probes: int, seed: int, data: Path, say: Say) -> dict[str, Any]:
    """``{"searchable_ms", "searchable_through_tower_ms", "restart_s"}``."""
    reset(System(data, Ports.free()), lambda line: None)
    with embedded_system(data, say=say) as system, Probe(system.bootstrap, system.retrieval, system.key) as probe:
        served = Served(system, probe, items, seed, say)
        served.prepare(towers)
        say(f"vectors at {VECTORS_PER_S}/s, and how long until one is searchable")
        with served.changes("vectors", VECTORS_PER_S, first=items):
            vectors = served.probes(served.publish_vector, probes)
            vectors["delta_rows"] = gauges(system.ports.retrieval).get("nearline_index_delta_rows")
        say(f"items at {ITEMS_PER_S}/s through the tower, and how long until one is searchable")
        with served.changes("texts", ITEMS_PER_S, first=0):
            through = served.probes(served.publish_item, probes)
        say("retrieval ends and starts again")
        restart = served.restart()
    return {"searchable_ms": vectors, "searchable_through_tower_ms": through, **restart}


class Served:
    """The system with its catalogue, and a probe."""

    def __init__(self, system: System, probe: Probe, items: int, seed: int, say: Say) -> None:
        self._system, self._probe, self._say = system, probe, say
        self._items, self._seed = items, seed
        self._topic = item_vectors_topic(_SPACE)
        self._real: Mapping[str, Item] = {}
        self._vectors: dict[str, Vectors] = {}

    def prepare(self, towers: TowerVectors) -> None:
        """List the catalogue and the shop's own items, and give some users a vector."""
        # Under ids that the tower has never met, as a new item's is: of those it met it knows more than their words.
        shop = load_online_retail(ROOT / "data" / "online-retail").items
        self._real = {f"shop-{item_id}": item for item_id, item in shop.items()}
        self._say(f"publishing {self._items:,} item vectors")
        make = record_maker(Changes(towers, self._seed, self._items, DIMENSION), _SPACE)
        self._send(self._topic, (_message(make(number)) for number in range(self._items)))
        self._send(ITEMS, ((one.encode(), encode_item(item)) for one, item in self._real.items()))
        count = self._items + len(self._real)
        await_items(self._system.ports.by_name(), count, self._say, at_rest=_AT_REST)
        self._click()
        self._vectors = self._user_vectors()

    def _send(self, topic: str, messages: Iterator[Message]) -> None:
        while chunk := list(islice(messages, _CHUNK)):
            self._probe.send(topic, chunk)

    def _click(self) -> None:
        ids, pick = sorted(self._real), random.Random(self._seed)
        for user in _users():
            now = time.time_ns() // 1_000_000
            events = [Event(f"{user}-{now}-{n}", user, pick.choice(ids), "click", now + n) for n in range(_CLICKS)]
            self._probe.send(CLICKS, [(user.encode(), encode_event(event)) for event in events])
            newest = events[-1].event_id
            self._probe.ask_until(user, lambda answer, newest=newest: answer["newest_event_id"] == newest)  # type: ignore[misc]

    def _user_vectors(self) -> dict[str, Vectors]:
        with Documents(load_settings(self._system.settings)) as documents:
            vectors = {user: documents.of(user).vector for user in _users()}
        return {user: vector for user, vector in vectors.items() if vector is not None}

    @contextmanager
    def changes(self, what: str, rate: int, *, first: int) -> Iterator[None]:
        """Changes at *rate* beside whatever is measured, by a process that is ended on leaving."""
        words = [sys.executable, "-m", "benchmarks.index.served", "--kafka", self._system.bootstrap]
        words += ["--what", what, "--rate", str(rate), "--items", str(self._items), "--first", str(first)]
        with subprocess.Popen([*words, "--seed", str(self._seed)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as one:
            try:
                assert one.stdout is not None
                if not one.stdout.readline():
                    raise Unavailable(f"the changes ended early, exit status {one.wait()}")
                time.sleep(_LEAD_S)
                yield
                if one.poll() is not None:
                    raise Unavailable(f"the changes ended early, exit status {one.returncode}")
            finally:
                one.terminate()
                one.wait()

    def probes(self, publish: Callable[[str, str], float], count: int) -> dict[str, Any]:
        """Percentiles of so many publications, with pauses by chance between them."""
        pause, users = random.Random(self._seed), sorted(self._vectors)
        took = []
        for number in range(count):
            took.append(publish(users[number % len(users)], f"probe-{number:06d}-{time.time_ns():x}"))
            time.sleep(pause.uniform(*_PAUSE_S))
        return {**percentiles_ms(took), "probes": count}

    def publish_vector(self, user: str, new_id: str) -> float:
        """Seconds from before a vector is sent to the first answer that shows its item."""
        vector = self._vectors[user]
        now = time.time_ns() // 1_000_000
        item = ItemVector(new_id, now, shown(0), vector, vector.astype(np.float16), "")
        took = self._until_shown(user, new_id, self._topic, encode_item_vector(item, _SPACE), _K)
        self._probe.send(self._topic, [(new_id.encode(), None)])  # equal vectors would crowd each other out
        return took

    def publish_item(self, user: str, new_id: str) -> float:
        """The same from an item through the tower."""
        answer = self._probe.ask(user, k=_K, exclude_seen="none")
        original = next((self._real[one["item_id"]] for one in answer["items"] if one["item_id"] in self._real), None)
        if original is None:
            raise Unavailable(f"no item of the shop is among the {_K} best of {user}; a copy would not show either")
        took = self._until_shown(user, new_id, ITEMS, encode_item(original), 2 * _K)  # it may come after its equals
        self._probe.send(ITEMS, [(new_id.encode(), None)])
        return took

    def _until_shown(self, user: str, new_id: str, topic: str, value: bytes, k: int) -> float:
        started = time.perf_counter()
        self._probe.send(topic, [(new_id.encode(), value)])
        self._probe.ask_until(
            user,
            lambda answer: any(item["item_id"] == new_id for item in answer["items"]),
            k=k,
            exclude_seen="none",
        )
        return time.perf_counter() - started

    def restart(self) -> dict[str, Any]:
        """Seconds from the start of a new retrieval process until it says that it is ready, and with how many items."""
        system = self._system
        before = gauges(system.ports.retrieval)["nearline_index_items"]
        old = system.supervisor.pid_of("retrieval")
        asked_at = time.time()
        os.kill(old, signal.SIGTERM)
        ready = http_ok(system.ports.retrieval, "/readyz")
        if not wait_until(lambda: system.supervisor.pid_of("retrieval") not in (0, old), _RESTART_S, pause_s=0.01):
            raise Unavailable("retrieval was not started again")
        born = time.time()
        if not wait_until(ready, _RESTART_S, pause_s=0.01):
            raise Unavailable(f"retrieval was not ready within {_RESTART_S:g} s of its start")
        ready_at = time.time()
        answer = self._probe.ask(sorted(self._vectors)[0], k=_K, exclude_seen="none")
        return {
            "restart_s": round(ready_at - born, 2),
            "restart": {
                "with_the_end_of_the_old_s": round(ready_at - asked_at, 2),
                "items_before": round(before),
                "items": round(gauges(system.ports.retrieval)["nearline_index_items"]),
                "answer_items": len(answer["items"]),
            },
        }


def _users() -> Sequence[str]:
    return [f"prober-{number}" for number in range(_USERS)]


def _message(record: Record) -> Message:
    assert record.key is not None
    return record.key, record.value


def vectors(seed: int, items: int, first: int) -> Maker:
    """New vectors of the items, one after the other in a random order, from change *first* on."""
    make = record_maker(Changes(source(seed), seed, items, DIMENSION), _SPACE)
    return lambda number: _message(make(first + number))


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
    parser = argparse.ArgumentParser(description=publish.__doc__)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--what", choices=("vectors", "texts"), required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    maker = {"vectors": vectors, "texts": texts}[given.what]
    topic = {"vectors": item_vectors_topic(_SPACE), "texts": ITEMS}[given.what]
    try:
        asyncio.run(publish(given.kafka, topic, maker(given.seed, given.items, given.first), given.rate))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
