"""Two replicas of retrieval over one Milvus (milvus-lite as a server) and a real broker: ``make test-milvus``."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pymilvus", reason="Milvus has an environment of its own: make test-milvus")

from local.broker import running_broker
from local.layout import ROOT
from local.ports import HOST, free_ports
from local.processes import wait_until
from nearline.adapters.indexes import engine_for
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.lmdb import LmdbStore
from nearline.hashing import hash64_all
from nearline.item_vectors import ItemFields, ItemVector, encode_item_vector
from nearline.space import Space
from nearline.topics import ITEM_POPULARITY, all_topics, item_vectors_topic
from nearline.user_documents import UserDocument, encode_user_document

DEADLINE_S = 60.0
DIMENSION, ITEMS = 16, 3_000
SPACE = Space(1, DIMENSION)
DRAWN = np.random.default_rng(7)
VECTORS = DRAWN.standard_normal((ITEMS, DIMENSION)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
USER = VECTORS[:50].mean(axis=0) / np.linalg.norm(VECTORS[:50].mean(axis=0))
BY_NEARNESS = [f"i{nth}" for nth in np.argsort(-(VECTORS @ USER), kind="stable")]
SEEN = BY_NEARNESS[:3]


class Shop:
    """A broker with items, an engine, and two replicas that fill and search it."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.broker = broker
        self._folder = folder
        self.ports = free_ports(3)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"milvus://{HOST}:{self.ports[2]}"

    def start_engine(self) -> None:
        data = ["--data-dir", str(self._folder / "milvus.db")]
        milvus_lite = str(Path(sys.executable).with_name("milvus-lite"))
        # One thread: of two writes at once, milvus-lite mixes the bytes in the log that it reads after a kill.
        where = ["--host", HOST, "--port", str(self.ports[2]), "--max-workers", "1"]
        self._start("engine", [milvus_lite, "server", *data, *where], {})

    def lose_all_items(self) -> None:
        """As when the engine's volume is lost."""
        shutil.rmtree(self._folder / "milvus.db")

    def forget_what_was_written(self) -> None:
        """The command that docs/operations.md gives for an engine that lost its items."""
        command = [sys.executable, "-m", "kafka.admin", "-b", self.broker, "groups", "delete", "-g", "retrieval.1"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def start_replica(self, nth: int) -> None:
        settings = {
            "NEARLINE_KAFKA": self.broker,
            "NEARLINE_STORE": f"lmdb://{self._folder / 'store'}",
            "NEARLINE_INDEX": self.url,
            "NEARLINE_AUTH": "off",
            "NEARLINE_INDEX_TIMEOUT_MS": "2000",  # the engine is a slow one, on a machine that does much else
            "NEARLINE_BUDGET_MS": "2000",
            "NEARLINE_DATA": str(self._folder),
            "NEARLINE_DIMENSION": str(DIMENSION),
            "NEARLINE_RETRIEVAL_PORT": str(self.ports[nth]),
        }
        self._start(f"replica {nth}", [sys.executable, "-m", "services.retrieval"], settings)

    def _start(self, name: str, command: list[str], settings: dict[str, str]) -> None:
        with (self._folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **settings}, stdout=output, stderr=output
            )

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def said(self) -> str:
        """The end of what every process printed."""
        return "\n".join(f"{file.name}: {file.read_text()[-1500:]}" for file in self._folder.glob("*.out"))

    def send(self, topic: str, messages: list[tuple[bytes, bytes | None]]) -> None:
        async def send() -> None:
            async with Producer(self.broker) as producer:
                await producer.send_all(topic, messages)

        asyncio.run(send())

    def put(self, nth: int, version: int, *, on_show: bool = True) -> None:
        self.send(item_vectors_topic(SPACE), [record(nth, version, on_show=on_show)])

    def ask(self, replica: int, user_id: str = "u", wanted: str | None = None) -> dict[str, Any]:
        query = urllib.parse.urlencode({"k": 20} if wanted is None else {"k": 20, "filter": wanted})
        found: dict[str, Any] = json.loads(get(f"http://{HOST}:{self.ports[replica]}/recommend/{user_id}?{query}"))
        return found

    def ids(self, replica: int, user_id: str = "u") -> list[str]:
        return [item["item_id"] for item in self.ask(replica, user_id)["items"]]

    def is_ready(self, replica: int) -> bool:
        try:
            get(f"http://{HOST}:{self.ports[replica]}/readyz")
        except OSError:
            return False
        return True

    def until(self, condition: Any, what: str) -> None:
        assert wait_until(condition, DEADLINE_S), f"{what}\n{self.said()}"


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def record(nth: int, version: int = 1, *, on_show: bool = True) -> tuple[bytes, bytes]:
    shown = ItemFields(f"Item {nth}", f"c{nth % 10}", price=float(nth), listed_ms=1_700_000_000_000 + nth)
    candidate = VECTORS[nth] if on_show else None
    vector = ItemVector(f"i{nth}", version, shown, candidate, VECTORS[nth].astype(np.float16), "d")
    return f"i{nth}".encode(), encode_item_vector(vector, SPACE)


def popularity(nth: int) -> tuple[bytes, bytes]:
    body = {"v": 1, "item_id": f"i{nth}", "score": float(nth), "landmark_ms": 0, "half_life_ms": 1}
    return f"i{nth}".encode(), json.dumps(body).encode()


async def store_user(folder: Path) -> None:
    seen = np.sort(hash64_all(SEEN))
    document = UserDocument(USER.astype(np.float32), 7, 7, "e-1", 1, 1, seen, seen[:0], seen[:0])
    store = LmdbStore(folder, SPACE, ttl_ms=10**12, writer=True)
    await store.open()
    await store.put_many_if_newer({"u": encode_user_document(document, SPACE)})
    await store.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running.bootstrap


@pytest.fixture(scope="module")
def shop(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    running = Shop(broker, folder)
    topics = Topics(broker)
    topics.ensure(all_topics(SPACE))
    topics.close()
    running.send(item_vectors_topic(SPACE), [record(nth) for nth in range(ITEMS)])
    running.send(ITEM_POPULARITY, [popularity(nth) for nth in range(0, ITEMS, 10)])
    asyncio.run(store_user(folder / "store"))
    try:
        running.start_engine()
        running.start_replica(0)
        running.start_replica(1)
        for replica in (0, 1):
            running.until(lambda replica=replica: running.is_ready(replica), f"replica {replica} is never ready")
        yield running
    finally:
        for name in list(running.processes):
            running.end(name)


def test_both_replicas_answer_with_the_nearest_items_that_were_not_seen(shop: Shop) -> None:
    for replica in (0, 1):
        answer = shop.ask(replica)
        assert (answer["reason"], {item["source"] for item in answer["items"]}) == (None, {"personal"})
        found = [item["item_id"] for item in answer["items"]]
        assert not set(found) & set(SEEN)
        assert len(set(found) & set(BY_NEARNESS[3:23])) >= 19, "recall@20 of an exact search"


FILTER = 'category in ("c3", "c4") and not price < 1000'


def test_a_filter_leaves_the_nearest_of_what_passes(shop: Shop) -> None:
    passing = [item_id for item_id in BY_NEARNESS if int(item_id[1:]) % 10 in (3, 4) and int(item_id[1:]) >= 1000]
    answer = shop.ask(0, wanted=FILTER)
    assert {item["source"] for item in answer["items"]} == {"personal"}
    found = {item["item_id"] for item in answer["items"]}
    assert found <= set(passing)
    assert len(found & set(passing[:20])) >= 19


def test_the_alias_points_at_the_space_and_every_item_is_there_once(shop: Shop) -> None:
    engine = engine_for(shop.url, SPACE, read_ms=2_000)
    assert engine is not None

    async def look() -> tuple[int | None, int]:
        await engine.open()
        try:
            return await engine.live(), await engine.count("")
        finally:
            await engine.close()

    assert asyncio.run(look()) == (1, ITEMS)


def test_an_unknown_user_gets_what_is_popular_from_every_replica(shop: Shop) -> None:
    popular = [f"i{nth}" for nth in range(ITEMS - 10, ITEMS - 210, -10)]
    for replica in (0, 1):
        shop.until(lambda replica=replica: shop.ids(replica, "nobody") == popular, "trending never came")


def test_an_item_that_is_withdrawn_leaves_the_answers_of_both_replicas_and_comes_back(shop: Shop) -> None:
    nearest = BY_NEARNESS[3]
    nth = int(nearest[1:])
    shop.put(nth, 2, on_show=False)
    for replica in (0, 1):
        shop.until(lambda replica=replica: nearest not in shop.ids(replica), "it never left")
    shop.put(nth, 1)
    shop.put(nth, 3)
    for replica in (0, 1):
        shop.until(lambda replica=replica: nearest in shop.ids(replica), "it never came back")


def test_the_other_replica_takes_over_the_writing_of_one_that_was_killed(shop: Shop) -> None:
    shop.end("replica 0", signal.SIGKILL)
    withdrawn = BY_NEARNESS[4:20]
    for item_id in withdrawn:  # of every partition
        shop.put(int(item_id[1:]), 9, on_show=False)
    shop.until(lambda: not set(withdrawn) & set(shop.ids(1)), "the killed replica's share was never written")
    shop.start_replica(0)
    shop.until(lambda: shop.is_ready(0), "the killed replica never came back")
    assert not set(withdrawn) & set(shop.ids(0))


def test_without_the_engine_answers_are_popular_items_and_say_so_and_mend_when_it_is_back(shop: Shop) -> None:
    shop.end("engine", signal.SIGKILL)
    answer = shop.ask(1)
    assert (answer["reason"], answer["degraded"]) == ("index_unavailable", True)
    assert len(answer["items"]) == 20
    assert {item["source"] for item in answer["items"]} <= {"trending_category", "trending", "newest"}
    assert {item["category"] for item in shop.ask(1, wanted='category = "c9"')["items"]} == {"c9"}
    shop.start_engine()
    for replica in (0, 1):
        shop.until(lambda replica=replica: shop.ask(replica)["reason"] is None, f"replica {replica} never mended")
    latest = BY_NEARNESS[3]
    shop.put(int(latest[1:]), 20, on_show=False)
    for replica in (0, 1):
        shop.until(lambda replica=replica: latest not in shop.ids(replica), "writing never went on")


def test_an_engine_that_lost_all_its_items_is_filled_again_from_the_log(shop: Shop) -> None:
    for name in list(shop.processes):
        shop.end(name)
    shop.lose_all_items()
    shop.forget_what_was_written()
    shop.start_engine()
    shop.start_replica(0)
    shop.until(lambda: shop.is_ready(0), "it is never ready")
    latest = BY_NEARNESS[3]  # withdrawn last of all, by the test before
    answer = shop.ask(0)
    assert {item["source"] for item in answer["items"]} == {"personal"}
    assert latest not in {item["item_id"] for item in answer["items"]}
