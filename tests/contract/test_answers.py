"""A retrieval process over a real broker and LMDB: it hears of documents that are written, and sheds load."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from local.broker import running_broker
from local.layout import ROOT
from local.ports import HOST, free_ports
from local.processes import wait_until
from local.system import http_ok
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.lmdb import LmdbStore
from nearline.hashing import hash64_all
from nearline.item_vectors import ItemFields, ItemVector, encode_item_vector
from nearline.space import Space
from nearline.topics import all_topics, item_vectors_topic, user_updates_topic
from nearline.user_documents import UserDocument, encode_user_document
from nearline.user_updates import UserUpdate, encode_user_updates

pytestmark = pytest.mark.anyio
DEADLINE_S = 60.0
SPACE = Space(1, 4)


class System:
    """A broker with every topic, a store that is written here, and a retrieval process over both."""

    def __init__(self, kafka: str, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.port = free_ports(1)[0]
        self.store = LmdbStore(folder / "store", SPACE, ttl_ms=10**9, writer=True)
        settings = {
            "NEARLINE_KAFKA": kafka,
            "NEARLINE_RETRIEVAL_PORT": str(self.port),
            "NEARLINE_AUTH": "off",
            "NEARLINE_DIMENSION": "4",
            "NEARLINE_DATA": str(folder),
        }
        others = {name: value for name, value in os.environ.items() if not name.upper().startswith("NEARLINE_")}
        self.surroundings = {**others, **settings}

    def start(self) -> subprocess.Popen[bytes]:
        """Start the retrieval process without waiting for it."""
        return subprocess.Popen([sys.executable, "-m", "services.retrieval"], cwd=ROOT, env=self.surroundings)

    async def write(self, user_id: str, *events: str) -> None:
        """Store the user's document after *events*, each a click on the item of the same number, and tell of it."""
        version, seen = len(events), [event.replace("e", "i") for event in events]
        sets = (np.sort(hash64_all(seen)), np.empty(0, np.uint64), np.sort(hash64_all(events)))
        vector = np.array([1, 0, 0, 0], np.float32)
        document = UserDocument(vector, version, version, events[-1], 1_000, 1_001, *sets)
        await self.store.put_many_if_newer({user_id: encode_user_document(document, SPACE)})
        async with Producer(self.kafka) as producer:
            update = encode_user_updates({user_id: UserUpdate(version, version, 0, 1_001)})
            await producer.send_all(user_updates_topic(SPACE), [(None, update)])


async def with_items(kafka: str) -> None:
    messages = []
    for nth in range(100):
        vector = np.array([np.cos(nth / 100), np.sin(nth / 100), 0, 0], np.float32)
        item = ItemVector(f"i{nth}", nth + 1, ItemFields(f"Item {nth}"), vector, vector.astype(np.float16), "d")
        messages.append((item.item_id.encode(), encode_item_vector(item, SPACE)))
    async with Producer(kafka) as producer:
        await producer.send_all(item_vectors_topic(SPACE), messages)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        topics = Topics(broker.bootstrap)
        topics.ensure(all_topics(SPACE))
        topics.close()
        asyncio.run(with_items(broker.bootstrap))
        system = System(broker.bootstrap, tmp_path_factory.mktemp("data"))
        asyncio.run(system.store.open())
        process = system.start()
        try:
            assert wait_until(http_ok(system.port, "/readyz"), DEADLINE_S)
            yield system
        finally:
            process.terminate()
            process.wait(20)
            asyncio.run(system.store.close())


@pytest.fixture
async def client(system: System) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=300)
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{system.port}", limits=limits, timeout=20) as client:
        yield client


async def test_an_answer_waits_for_the_event_that_the_caller_names(system: System, client: httpx.AsyncClient) -> None:
    await system.write("u", "e0")
    for nth in range(1, 6):
        question: dict[str, str | int] = {"after": f"e{nth}", "wait_ms": 5_000, "k": 3}
        asking = asyncio.create_task(client.get("/recommend/u", params=question))
        waits = f"nearline_recommend_waiting_requests {1.0}"
        async with asyncio.timeout(DEADLINE_S):
            while waits not in (await client.get("/metrics")).text:
                assert not asking.done()
        await system.write("u", *(f"e{before}" for before in range(nth + 1)))
        answer = (await asking).json()
        assert (answer["fresh"], answer["newest_event_id"]) == (True, f"e{nth}")
        assert [item["item_id"] for item in answer["items"]] == [f"i{nth + more}" for more in (1, 2, 3)]


async def test_pages_are_signed_with_a_secret_that_only_the_owner_reads(
    system: System, client: httpx.AsyncClient
) -> None:
    await system.write("pages", "e0")
    first = (await client.get("/recommend/pages?k=3&page=first")).json()
    second = (await client.get("/recommend/pages", params={"k": 3, "page": first["next_page"]})).json()
    assert [item["item_id"] for item in second["items"]] == ["i4", "i5", "i6"]
    assert (system.folder / "page-secret").stat().st_mode & 0o777 == 0o600
    assert (await client.get("/recommend/u", params={"page": first["next_page"]})).status_code == 422


async def test_too_many_callers_are_told_to_come_back_and_the_others_are_served(
    system: System, client: httpx.AsyncClient
) -> None:
    """300 who ask again and again, far more than it can answer; afterwards all is as before."""
    await system.write("busy", "e0")
    statuses: dict[int, int] = {}
    end = time.monotonic() + 3.0

    async def ask() -> None:
        while time.monotonic() < end:
            response = await client.get("/recommend/busy?k=50&diversity=0.5")
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            if response.status_code == 503:
                assert response.headers["retry-after"] == "1"

    await asyncio.gather(*(ask() for _ in range(300)))
    assert set(statuses) <= {200, 503}
    assert statuses[200] > 100
    assert (await client.get("/healthz")).status_code == 200
    async with asyncio.timeout(DEADLINE_S):
        while (await client.get("/recommend/busy?k=50")).status_code != 200:
            pass
