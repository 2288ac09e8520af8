"""Anonymous sessions through the real Triton: the vector is the one that the same events would get as a user's."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import uvloop

from local.triton import REPOSITORY, RunningTriton, running_triton
from nearline.adapters.hnsw import HnswGraph
from nearline.adapters.http import status_routes
from nearline.adapters.memory import MemoryStore
from nearline.adapters.triton import TritonTowers
from nearline.errors import Misconfigured, Unavailable
from nearline.features import DIMENSION, USER_TOWER, features_of
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemFields, ItemVector
from nearline.items import Item
from nearline.log import Record
from nearline.seen import parse_seen_policy
from nearline.sequences import UserSequence, encode_sequence
from nearline.space import Space
from nearline.user_documents import decode_user_document
from services.retrieval.api import create_app
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.recommender import Recommender
from services.retrieval.routes.reads import Reads
from services.retrieval.sessions import Sessions, session_of
from services.retrieval.users.reader import UserReader
from services.retrieval.users.session_vectors import SessionVectors
from services.retrieval.users.store_guard import GuardedStore
from services.user_tower.worker import UserWorker
from tests.support.fakes import Outbox, ScriptedReader

FEATURES = features_of(json.loads((REPOSITORY / USER_TOWER / "1" / "config.json").read_text())["features"])
SPACE = Space(1, DIMENSION)
NOW_MS = 1_800_000_000_000
ITEMS = 60
T = TypeVar("T")


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    repository = tmp_path_factory.mktemp("models") / "repository"
    shutil.copytree(REPOSITORY, repository)
    try:
        with running_triton(repository) as server:
            yield server
    except Misconfigured as problem:
        pytest.fail(f"no Triton for the tests: {problem}", pytrace=False)


class Shop:
    """Sixty items as the item tower encodes them, known to a retrieval process and to a user tower."""

    def __init__(self, towers: TritonTowers, items: list[ItemVector]) -> None:
        self.catalogue = Catalogue(DIMENSION, LiveIndex(DIMENSION, lambda capacity: HnswGraph(DIMENSION, capacity)))
        self.table = ItemTable(SPACE)
        for item in items:
            self.catalogue.apply(item)
            self.table.put(item)
        self.towers = towers
        self.vectors = SessionVectors(towers, self.catalogue)

    async def stored_vector(self, session: UserSequence) -> Any:
        """The vector that ``user_tower`` stores for the same events."""
        store = MemoryStore(ttl_ms=10**15)
        record = Record("user-sequences", 0, 0, NOW_MS, session.user_id.encode(), encode_sequence(session))
        worker = UserWorker(
            SPACE,
            reader=ScriptedReader([record]),
            table=self.table,
            towers=self.towers,
            store=store,
            dead_letters=Outbox(),
            announce=lambda documents, causes: None,
            policy=parse_seen_policy(""),
        )
        await worker.step()
        raw = await store.get(session.user_id)
        assert raw is not None
        return decode_user_document(raw, SPACE).vector


async def shop_at(url: str) -> Shop:
    towers = TritonTowers(url, SPACE, kept=FEATURES.history_length, timeout_ms=5_000)
    await towers.open()
    words = ("lamp", "mug", "red lantern", "tea cup", "wooden frame", "paper bag")
    given = [(f"i{nth}", Item(f"{words[nth % 6]} number {nth}", price=float(nth))) for nth in range(ITEMS)]
    candidates, histories = await towers.encode_items(FEATURES.item_inputs(given))
    return Shop(
        towers,
        [
            ItemVector(item_id, 1, ItemFields(item.title), candidate, history.astype(np.float16), "d")
            for (item_id, item), candidate, history in zip(given, candidates, histories, strict=True)
        ],
    )


def with_shop(triton: RunningTriton, story: Callable[[Shop], Awaitable[T]]) -> T:
    """What *story* tells, on the loop that the service runs on."""

    async def told() -> T:
        shop = await shop_at(triton.url)
        watching = asyncio.ensure_future(shop.vectors.watch(every_s=0.02))
        try:
            async with asyncio.timeout(60):
                while not shop.vectors._breaker.is_closed:
                    await asyncio.sleep(0.01)
                return await story(shop)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(told())


def session(*items: int, context: dict[str, Any] | None = None) -> UserSequence:
    events = [
        {"item_id": f"i{nth}", "type": ("view", "purchase", "add_to_cart")[nth % 3], "time_ms": NOW_MS - 60_000 * place}
        for place, nth in enumerate(items)
    ]
    return session_of(events, context or {}, now_ms=NOW_MS)


def test_a_session_gets_the_vector_that_a_user_with_its_events_gets(triton: RunningTriton) -> None:
    told = {"country": "GB", "interests": ["lamps", "mugs"]}
    sessions = [session(3), session(3, 9, 27), session(*range(50)), session(5, 999), session(7, context=told)]

    async def story(shop: Shop) -> list[tuple[Any, Any]]:
        alone = [await shop.stored_vector(each) for each in sessions]
        return list(zip(alone, await asyncio.gather(*map(shop.vectors.vector, sessions)), strict=True))

    for stored, together in with_shop(triton, story):
        np.testing.assert_allclose(together, stored, atol=1e-5)
        assert np.linalg.norm(together) == pytest.approx(1, abs=1e-3)


def test_a_context_alone_gives_a_vector_of_its_own(triton: RunningTriton) -> None:
    async def story(shop: Shop) -> list[Any]:
        told: tuple[dict[str, str], ...] = ({"country": "United Kingdom"}, {"country": "France"}, {})
        return [await shop.vectors.vector(session(context=context)) for context in told]

    british, french, nothing = with_shop(triton, story)
    assert nothing is None
    assert np.linalg.norm(british) == pytest.approx(1, abs=1e-3)
    assert np.abs(british - french).max() > 1e-4


def test_many_at_once_get_their_own_in_few_requests(triton: RunningTriton) -> None:
    async def story(shop: Shop) -> tuple[list[Any], list[Any]]:
        sessions = [session(nth % ITEMS, (7 * nth) % ITEMS) for nth in range(300)]
        together = await asyncio.gather(*map(shop.vectors.vector, sessions))
        return [await shop.vectors.vector(each) for each in sessions[:20]], list(together)

    alone, together = with_shop(triton, story)
    np.testing.assert_allclose(np.stack(together[:20]), np.stack(alone), atol=1e-5)


def test_a_server_that_dies_costs_sessions_their_vectors_until_it_is_back(triton: RunningTriton) -> None:
    async def story(shop: Shop) -> list[str | None]:
        guard = GuardedStore(MemoryStore(ttl_ms=10**15))
        recommender = Recommender(shop.catalogue, UserReader(guard, SPACE), SPACE)
        reads = Reads(SPACE, shop.catalogue, guard, Sessions(recommender, shop.vectors, now_ms=lambda: NOW_MS))
        app = create_app(recommender, status_routes(dict), reads)
        body = {"events": [{"item_id": "i3", "type": "view", "time_ms": NOW_MS}], "k": 5}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://retrieval") as client:

            async def asked() -> dict[str, Any]:
                answer = await client.post("/recommend", json=body)
                assert answer.status_code == 200
                found: dict[str, Any] = answer.json()
                return found

            reasons = [(await asked())["reason"]]
            triton.kill()
            for _ in range(5):
                answer = await asked()
                assert len(answer["items"]) == 5
                assert answer["degradations"] == answer["steps"] == ["tower_unavailable"]
            reasons.append(answer["reason"])
            with pytest.raises(Unavailable):
                await shop.vectors.vector(session(3))
            triton.start()
            async with asyncio.timeout(20):
                while (await asked())["reason"] is not None:
                    await asyncio.sleep(0.05)
            reasons.append(None)
        return reasons

    assert with_shop(triton, story) == [None, "tower_unavailable", None]
