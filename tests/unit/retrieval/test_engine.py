"""Items in an engine: written once, newest wins, and answers go on, degraded and saying so, while it is away."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from nearline.adapters.http import status_routes
from nearline.adapters.indexes import engine_for
from nearline.adapters.memory import MemoryStore
from nearline.errors import Misconfigured, Unavailable
from nearline.filters import Filter, Same, parse
from nearline.item_engine import Card
from nearline.item_vectors import ItemFields, ItemVector, encode_item_vector
from nearline.log import Record
from nearline.space import Space
from nearline.user_documents import UserDocument, encode_user_document
from services.retrieval.api import create_app
from services.retrieval.in_engine.expressions import translate
from services.retrieval.in_engine.going_live import GoingLive
from services.retrieval.in_engine.guard import GuardedEngine
from services.retrieval.in_engine.head_items import HeadItems, Top, popular_records
from services.retrieval.in_engine.items import EngineItems
from services.retrieval.in_engine.remote_items import count_items
from services.retrieval.in_engine.writer import Writer
from services.retrieval.items.printed import render
from services.retrieval.recommender import Recommender
from services.retrieval.routes.reads import Reads
from services.retrieval.users.reader import UserReader
from services.retrieval.users.store_guard import GuardedStore
from tests.support.fakes import FakeEngine, ScriptedReader

SPACE = Space(2, 4)
EMPTY: NDArray[np.uint64] = np.empty(0, np.uint64)


def unit(nth: float) -> NDArray[np.float32]:
    return np.array([np.cos(nth / 50), np.sin(nth / 50), 0, 0], np.float32)


def record(item_id: str, version: int | None = 1, *, offset: int = 0, on_show: bool = True, **shown: Any) -> Record:
    """An item's record; a tombstone without a *version*."""
    if version is None:
        return Record("t", 0, offset, 0, item_id.encode(), None)
    fields = ItemFields(**({"title": f"{item_id} {version}"} | shown))
    vector = ItemVector(item_id, version, fields, unit(version) if on_show else None, unit(0).astype(np.float16), "d")
    return Record("t", 0, offset, 0, item_id.encode(), encode_item_vector(vector, SPACE))


class World:
    """One engine and a replica over it, written to by hand."""

    def __init__(self) -> None:
        self.engine = FakeEngine(SPACE)
        self.window = HeadItems(self.engine, lambda: 2_000)
        self.writer = Writer(SPACE, ScriptedReader, self.engine, self.window, retry_s=0.001)
        self.guard = GuardedEngine(self.engine)
        self.items = EngineItems(self.engine, self.guard, self.window)

    def write(self, *polls: list[Record]) -> ScriptedReader:
        """Deal with *polls*; the reader that they came from."""
        reader = ScriptedReader(*polls)

        async def steps() -> None:
            for _ in polls:
                await self.writer.step(reader)

        asyncio.run(steps())
        return reader

    def shown(self) -> dict[str, int]:
        """The available items with their versions."""
        cards = asyncio.run(self.engine.matching("", 1_000))
        return {card.item_id: card.version for card in cards}


@pytest.fixture
def world() -> World:
    return World()


async def until(condition: Callable[[], object], *running: Awaitable[None]) -> None:
    """Run *running* until *condition* holds, then cancel it."""
    tasks = [asyncio.ensure_future(part) for part in running]
    try:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- writing ---


def test_a_poll_writes_the_newest_version_of_each_item_and_commits_all_records(world: World) -> None:
    records = [record("a", 1), record("b", 4), record("a", 3), record("b", 2)]
    reader = world.write(records)
    assert world.shown() == {"a": 3, "b": 4}
    assert reader.dealt_with == records


def test_a_record_that_is_read_again_after_a_newer_one_changes_nothing(world: World) -> None:
    world.write([record("a", 5)], [record("b", 5)], [record("b", 6, on_show=False)])
    world.write([record("a", 4), record("b", 5)])
    assert world.shown() == {"a": 5}


def test_a_write_that_was_cut_off_is_completed_when_it_is_read_again(world: World) -> None:
    """Remembered as hidden, but not hidden: that is where a process may die."""
    world.write([record("a", 1)])
    world.engine._gone["a"] = 2
    world.write([record("a", 2, on_show=False)])
    assert world.shown() == {}


def test_retired_unavailable_and_purged_items_are_removed_from_the_engine(world: World) -> None:
    world.write([record("a"), record("b"), record("c"), record("d")])
    world.write([record("a", 2, on_show=False), record("b", 2, available=False), record("c", None)])
    assert world.shown() == {"d": 1}
    world.write([record("c", 1)])
    assert world.shown() == {"c": 1, "d": 1}


def test_an_undecodable_record_does_not_affect_its_neighbours(world: World) -> None:
    """Damaged, of another space, too large to be printed, and under a key that is no id."""
    foreign = encode_item_vector(
        ItemVector("y", 1, ItemFields("T"), np.ones(5, np.float32), np.ones(5, np.float16), "d"), Space(2, 5)
    )
    records = [
        record("a"),
        Record("t", 0, 1, 0, b"x", b"damaged"),
        Record("t", 0, 2, 0, b"y", foreign),
        record("large", attributes={str(nth): "x" * 1_000 for nth in range(66)}),
        Record("t", 0, 3, 0, b"\x00", None),
        record("b"),
    ]
    reader = world.write(records)
    assert world.shown() == {"a": 1, "b": 1}
    assert reader.dealt_with == records


@pytest.mark.anyio
async def test_while_the_engine_is_away_nothing_is_dealt_with_and_the_group_is_not_left(world: World) -> None:
    reader = ScriptedReader([record("a")])
    world.engine.down = True
    step = asyncio.ensure_future(world.writer.step(reader))
    await until(lambda: reader.stays > 2)
    assert reader.dealt_with == []
    world.engine.down = False
    await step
    assert len(reader.dealt_with) == 1
    assert (await world.engine.versions(["a"])) == {"a": 1}


def test_an_idle_reader_settles_so_that_a_tail_that_compaction_took_is_passed(world: World) -> None:
    assert world.write([]).settled == 1


# --- the window ---


def test_the_top_keeps_the_greatest_scores_whatever_order_they_come_in() -> None:
    top = Top(2)
    assert [top.put(item_id, score) for item_id, score in [("a", 1), ("b", 3), ("c", 2), ("d", 0)]] == [
        None,
        None,
        "a",
        "d",
    ]
    assert top.put("b", 0.5) is None
    assert top.put("a", 1) == "b"
    assert sorted(top) == ["a", "c"]


def test_the_window_holds_the_most_popular_with_their_details_and_no_more(world: World) -> None:
    window = HeadItems(world.engine, lambda: 2_000, popular=2, newest=1)
    world.write([record(item_id, category="mugs", listed_ms=nth) for nth, item_id in enumerate("abcde")])
    apply = popular_records(window)
    for item_id, score in {"a": 1.0, "b": 2.0, "c": 3.0, "nowhere": 2.5}.items():
        body = {"v": 1, "item_id": item_id, "score": score, "landmark_ms": 0, "half_life_ms": 1}
        apply(Record("t", 0, 0, 0, item_id.encode(), orjson.dumps(body)))
    asyncio.run(window.refresh())
    asyncio.run(window.find_newest())
    assert list(window.trending.top()) == [("c", 3.0)]
    assert list(window.newest) == [("e", 4.0)]
    assert len(window) == 2
    apply(Record("t", 0, 0, 0, b"c", None))
    assert list(window.trending.top()) == []


def test_items_written_by_this_replica_are_in_its_window_at_once(world: World) -> None:
    world.write([record("a", listed_ms=1, category="mugs"), record("b", listed_ms=2)])
    assert [item_id for item_id, _ in world.window.newest] == ["b", "a"]
    world.write([record("b", 2, on_show=False)])
    assert [item_id for item_id, _ in world.window.newest] == ["a"]


def test_favourite_categories_are_those_of_the_items_that_the_window_holds(world: World) -> None:
    from nearline.hashing import hash64

    world.write([record("a", category="mugs"), record("b", category="lamps"), record("c", category="lamps")])
    assert world.items.favourite_categories(map(hash64, ["a", "b", "c", "unknown"])) == ["lamps", "mugs"]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["score", "unscore", "show", "hide"])), max_size=60)
)
def test_the_window_ranks_only_what_it_can_print(changes: list[tuple[str, str]]) -> None:
    window = HeadItems(FakeEngine(SPACE), lambda: 0, popular=2, newest=2)
    for nth, (item_id, change) in enumerate(changes):
        shown = ItemFields("T", "mugs", listed_ms=nth)
        match change:
            case "score":
                window.score(item_id, float(nth))
            case "unscore":
                window.unscore(item_id)
            case "show":
                window.show([Card(item_id, nth, render(item_id, shown))])
            case _:
                window.hide([item_id])
        ranked = {item_id for ranking in (window.trending.top(), window.newest) for item_id, _ in ranking}
        assert all(window.get(item_id) is not None for item_id in ranked)
        assert len(window) <= 4


# --- the engine away ---


class Service(World):
    """A recommender over the engine: three items, of which b trends, and one user."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(ttl_ms=10**15)
        self.write([record(item_id, nth + 1, category="mugs") for nth, item_id in enumerate("abc")])
        self.window.score("b", 3.0)
        user = UserDocument(unit(0), 7, 7, "e", 1, 1, EMPTY, EMPTY, EMPTY)
        self._guarded = GuardedStore(self.store)
        recommender = Recommender(self.items, UserReader(self._guarded, SPACE), SPACE)
        self._app = create_app(recommender, status_routes(dict), Reads(SPACE, self.items, self._guarded))
        asyncio.run(self.store.put_many_if_newer({"u": encode_user_document(user, SPACE)}))
        asyncio.run(until(lambda: self._guarded.answered, self._guarded.watch()))

    def answer(self) -> dict[str, Any]:
        async def exchange() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self._app), base_url="http://retrieval"
            ) as client:
                return await client.get("/recommend/u?k=2")

        answered = asyncio.run(exchange())
        assert answered.status_code == 200
        found: dict[str, Any] = answered.json()
        return found

    def probe(self) -> None:
        asyncio.run(self.guard.probe())


def test_without_the_engine_answers_come_from_the_window_and_say_so_and_mend_by_themselves() -> None:
    service = Service()
    assert service.answer()["reason"] == "index_unavailable", "it has not answered yet"
    service.probe()
    well = service.answer()
    assert (well["reason"], well["degraded"], well["vector_version"]) == (None, False, 7)
    assert [(item["item_id"], item["source"]) for item in well["items"]] == [("a", "personal"), ("b", "personal")]
    service.engine.down = True
    poor = service.answer()
    assert (poor["reason"], poor["degraded"], poor["vector_version"]) == ("index_unavailable", True, None)
    assert [(item["item_id"], item["source"]) for item in poor["items"]] == [("b", "trending"), ("a", "newest")]
    service.engine.down = False
    service.probe()
    assert service.answer()["reason"] is None


def test_an_engine_that_is_known_to_be_away_is_not_asked_again() -> None:
    world = World()
    asyncio.run(world.guard.probe())
    world.engine.down = True
    for _ in range(3):
        with pytest.raises(Unavailable, match="told to be down"):
            asyncio.run(world.guard.search(unit(0), 1, ""))
    world.engine.down = False
    with pytest.raises(Unavailable, match="told to be down"):
        asyncio.run(world.guard.search(unit(0), 1, ""))
    asyncio.run(world.guard.probe())
    assert asyncio.run(world.guard.search(unit(0), 1, "")) == []
    assert world.engine.opened == 1


def test_how_many_items_an_engine_shows_is_told_again_and_again(world: World) -> None:
    def told() -> float | None:
        return REGISTRY.get_sample_value("nearline_index_items")

    counted = partial(count_items, world.engine, 0.001)
    world.write([record("a"), record("b")])
    asyncio.run(until(lambda: told() == 2, counted()))
    world.engine.down = True
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(counted(), 0.02))
    assert told() == 2, "an engine that is away is not one that is empty"
    world.engine.down = False
    world.write([record("a", None), record("b", None)])
    asyncio.run(until(lambda: told() == 0, counted()))


# --- the alias ---


async def offsets(found: dict[int, int]) -> dict[int, int]:
    return found


@pytest.mark.anyio
async def test_a_space_goes_live_when_the_group_has_written_every_partition() -> None:
    engine, written = FakeEngine(SPACE), {0: 5}
    going = GoingLive(engine, SPACE, lambda: offsets({0: 5, 1: 3, 2: 0}), lambda: offsets(written))
    running = asyncio.ensure_future(going.run(every_s=0.001))
    await asyncio.sleep(0.02)
    assert (going.complete, await engine.live()) == (False, None)
    written[1] = 4
    await running
    assert (going.complete, await engine.live()) == (True, 2)


@pytest.mark.anyio
async def test_the_alias_never_goes_back_to_an_older_space_by_itself() -> None:
    kept: dict[str, Any] = {"alias": 3}
    older, newer = FakeEngine(SPACE, kept), FakeEngine(Space(4, 4), kept)
    await GoingLive(older, SPACE, lambda: offsets({}), lambda: offsets({})).run()
    assert await older.live() == 3
    await GoingLive(newer, Space(4, 4), lambda: offsets({}), lambda: offsets({})).run()
    assert await older.live() == 4


@pytest.mark.anyio
async def test_going_live_waits_for_an_engine_that_is_away() -> None:
    engine = FakeEngine(SPACE)
    engine.down = True
    going = GoingLive(engine, SPACE, lambda: offsets({}), lambda: offsets({}))
    running = asyncio.ensure_future(going.run(every_s=0.001))
    await until(lambda: going.complete)
    engine.down = False
    await running
    assert await engine.live() == 2


# --- expressions and addresses ---


@given(st.text(), st.text())
def test_an_expression_holds_nothing_of_what_anybody_sent(name: str, value: str) -> None:
    """Only our words, hashes and numbers: there is nothing to inject into."""
    node = Same(f"attributes.{name}", (value, 1.0, True))
    assert re.fullmatch(r"array_contains_any\(facts, \[\d+, \d+, \d+\]\)", translate(Filter("", node, "", ())))


def test_not_is_never_said_of_a_comparison_that_a_missing_field_would_leave_open() -> None:
    expression = translate(parse("not (price < 20 or not attributes.size >= 5)"))
    assert re.fullmatch(
        r'\(\((not array_contains_any\(facts, \[\d+\]\)) or price >= 20.0\) and numbers\["n[0-9a-f]{16}"\] >= 5.0\)'
        r'|\(numbers\["n[0-9a-f]{16}"\] >= 5.0 and \(not array_contains_any\(facts, \[\d+\]\) or price >= 20.0\)\)',
        expression,
    )


@pytest.mark.parametrize("url", ["faiss://x", "", "http://host:19530", "/a/path", "user:password@host"])
def test_an_unknown_index_url_is_refused_with_the_known_ones(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"hnsw://.*milvus://") as refused:
        engine_for(url, SPACE, read_ms=1)
    assert "password" not in str(refused.value).split(", came")[1]


def test_the_default_is_the_index_of_this_process() -> None:
    assert engine_for("hnsw://", SPACE, read_ms=1) is None
