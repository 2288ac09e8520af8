"""Following the log: every record once, whatever the log does; and an index that is looked after meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from nearline.errors import Unavailable
from nearline.followers import LONGEST_PAUSE_S, Follower
from nearline.item_vectors import ItemFields, ItemVector, encode_item_vector
from nearline.log import Record
from nearline.space import Space
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import IndexLimits, LiveIndex
from services.retrieval.in_process.maintenance import IndexMaintenance
from services.retrieval.in_process.records import item_records, popularity_records
from services.retrieval.in_process.widths import WIDTHS, Moment, Widths
from tests.support.fakes import ExactGraph, FakeTable

SPACE = Space(2, 4)


def catalogue(limits: IndexLimits | None = None) -> Catalogue:
    return Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity), limits))


def unit(seed: int, dimension: int = 4) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def record(item_id: str, offset: int, value: bytes | None, partition: int = 0) -> Record:
    return Record("t", partition, offset, 0, item_id.encode(), value)


def item(item_id: str, offset: int, *, space: Space = SPACE, version: int = 1, title: str = "T") -> Record:
    vector = unit(offset, space.dimension)
    raw = encode_item_vector(
        ItemVector(item_id, version, ItemFields(title), vector, vector.astype(np.float16), "d"), space
    )
    return record(item_id, offset, raw)


def popularity(item_id: str, offset: int, score: float) -> Record:
    body = {"v": 1, "item_id": item_id, "score": score, "landmark_ms": 0, "half_life_ms": 1}
    return record(item_id, offset, orjson.dumps(body))


async def until(condition: Callable[[], bool], *running: Awaitable[None]) -> None:
    """Run *running* until *condition* holds, then cancel it."""
    tasks = [asyncio.ensure_future(part) for part in running]
    try:
        async with asyncio.timeout(10):
            while not condition():
                for task in tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.001)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def follower(shop: Catalogue, *tables: FakeTable) -> Follower:
    left = list(tables)
    return Follower("item-vectors.2", lambda: left.pop(0), item_records(shop, SPACE))


class LiveTable(FakeTable):
    """A table that holds nothing but what comes in now."""

    async def poll(self) -> list[Record]:
        polled = await super().poll()
        self.caught_up = True
        return polled


def hearing(*polls: list[Record], awaited: bool = False) -> tuple[Follower, list[str]]:
    """A follower that rests for an hour after each poll, and what it heard."""
    heard: list[str] = []
    table = LiveTable(*polls)
    following = Follower("t", lambda: table, lambda r: heard.append(r.id), pause_s=3600, is_awaited=lambda: awaited)
    return following, heard


def test_a_rest_ends_when_somebody_waits() -> None:
    following, heard = hearing([record("a", 0, None)], [record("b", 1, None)], [record("c", 2, None)])

    async def waited() -> None:
        for known in (["a"], ["a", "b"]):
            while heard != known:
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert heard == known, "it rests"
            following.hurry()

    asyncio.run(until(lambda: len(heard) == 3, following.run(), waited()))


def test_while_somebody_waits_there_is_no_rest() -> None:
    following, heard = hearing([record("a", 0, None)], [record("b", 1, None)], awaited=True)
    asyncio.run(until(lambda: heard == ["a", "b"], following.run()))


def test_there_is_no_rest_before_a_backlog_is_worked_off() -> None:
    following, heard = hearing([record("a", n, None) for n in range(1_000)], [record("b", 1_000, None)])
    asyncio.run(until(lambda: heard[-1:] == ["b"], following.run()))


def test_an_observer_pauses_longer_the_more_its_process_computes() -> None:
    used_s = [0.0]
    calm, observer = (
        Follower("t", LiveTable, lambda r: None, pause_s=0.02, most_cores=share, used_s=lambda: used_s[0])
        for share in (1.0, 0.1)
    )
    for used_s[0], expected_s in ((0.001, 0.02), (0.011, 0.09), (1.011, LONGEST_PAUSE_S), (1.011, 0.02)):
        assert observer._next_pause_s() == pytest.approx(expected_s)
        assert calm._next_pause_s() == 0.02


def test_it_is_caught_up_once_the_table_is() -> None:
    shop = catalogue()
    table = FakeTable([item("a", 0), item("b", 1)], [item("c", 2)])
    following = follower(shop, table)
    assert not following.caught_up
    asyncio.run(until(lambda: following.caught_up, following.run()))
    assert len(shop) == 3
    assert (table.opened, table.closed) == (1, 1)


def test_an_empty_topic_is_caught_up() -> None:
    following = follower(catalogue(), FakeTable())
    asyncio.run(until(lambda: following.caught_up, following.run()))


def test_a_log_that_goes_away_is_followed_again_and_replays_change_nothing() -> None:
    """The second reading begins at the beginning; a tombstone read before does not hit the item that came after."""
    shop = catalogue()
    history = [item("a", 0), record("a", 1, None), item("a", 2, version=3, title="Back")]
    away = FakeTable(history, Unavailable("gone"))
    again = FakeTable(history[:2], [history[2], item("b", 3)])
    following = follower(shop, away, again)
    asyncio.run(until(lambda: len(shop) == 2, following.run(retry_s=0)))
    assert shop.get("a") is not None
    assert (away.closed, again.closed) == (1, 1)


def test_it_stays_caught_up_while_it_connects_anew() -> None:
    shop = catalogue()
    following = follower(shop, FakeTable([item("a", 0)], Unavailable("gone")), FakeTable([item("a", 0)]))
    asyncio.run(until(lambda: following.caught_up, following.run(retry_s=0)))
    assert following.caught_up


@pytest.mark.parametrize(
    "bad", [b"nonsense", b"", item("x", 0, space=Space(9, 4)).value, item("x", 0, space=Space(2, 8)).value]
)
def test_an_undecodable_record_is_skipped(bad: bytes) -> None:
    shop = catalogue()
    following = follower(shop)
    asyncio.run(following.apply_all([item("a", 0), record("x", 1, bad), item("b", 2)]))
    assert len(shop) == 2
    assert shop.get("x") is None


def test_of_two_changes_with_one_version_the_later_is_shown_and_an_older_one_never() -> None:
    shop = catalogue()
    apply = item_records(shop, SPACE)
    for nth, (version, title) in enumerate([(7, "first"), (7, "second of a millisecond"), (6, "older")]):
        apply(item("i", nth, version=version, title=title))
    ((item_id, version, _, shown),) = shop.records()
    assert (item_id, version, (shown or {})["title"]) == ("i", 7, "second of a millisecond")


def test_popularity_is_followed() -> None:
    shop = catalogue()
    items, scores = follower(shop), Follower("item-popularity", FakeTable, popularity_records(shop))
    asyncio.run(items.apply_all([item("a", 0), item("b", 1)]))
    news = [popularity("a", 0, 1.0), popularity("b", 1, 2.0), record("b", 2, b"{}"), popularity("a", 3, 3.0)]
    asyncio.run(scores.apply_all(news))
    assert list(shop.trending.top()) == [("a", 3.0), ("b", 2.0)]
    asyncio.run(scores.apply_all([record("a", 4, None)]))
    assert list(shop.trending.top()) == [("b", 2.0)]


def test_requests_are_answered_in_the_middle_of_a_burst() -> None:
    """Applying thousands of records lets other tasks run every millisecond or so."""
    shop = catalogue()
    burst = [item(f"i{nth}", nth) for nth in range(2_000)]
    turns = 0

    async def request() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        asking = asyncio.create_task(request())
        await follower(shop).apply_all(burst)
        asking.cancel()

    asyncio.run(main())
    assert len(shop) == 2_000
    assert turns > 5


def test_upkeep_builds_once_loaded_then_folds_what_comes() -> None:
    shop = catalogue(IndexLimits(exact_below=50, fold_above=10, bulk=1_000))
    loaded = False
    upkeep = IndexMaintenance(shop.index, lambda: loaded, rest_s=0, pause_s=0)

    async def main() -> None:
        nonlocal loaded
        await follower(shop).apply_all([item(f"i{nth}", nth) for nth in range(100)])
        await upkeep.step()
        assert not shop.index.has_graph, "while the catalogue loads, a graph would be built again and again"
        loaded = True
        await upkeep.step()
        assert shop.index.has_graph
        await follower(shop).apply_all([item(f"n{nth}", nth) for nth in range(100)])
        await until(lambda: shop.index.delta_rows == 10, upkeep.run(idle_s=0))

    asyncio.run(main())
    assert len(shop) == 200
    assert len(shop.index.search(unit(3), 500)[0]) == 200


def test_the_delta_does_not_grow_while_requests_take_all_the_time() -> None:
    """Fifteen changes come with every 30 ms of requests, and folding one takes .3 ms."""

    class Clock:
        now_s = 0.0
        looks = 0

        def __call__(self) -> float:
            self.looks += 1
            return self.now_s

    class SlowGraph(ExactGraph):
        def add(self, slots: NDArray[np.int64], vectors: NDArray[np.float32], threads: int = 1) -> None:
            clock.now_s += 0.0003 * len(slots)
            super().add(slots, vectors, threads)

    clock = Clock()
    limits = IndexLimits(exact_below=20, fold_above=10, bulk=10_000, headroom=100)
    index = LiveIndex(4, lambda capacity: SlowGraph(4, capacity), limits)
    deltas = []

    async def requests() -> None:
        for nth in range(40):
            for row in range(15):
                index.insert(unit(1_000 + 15 * nth + row))
            clock.now_s += 0.03
            deltas.append(index.delta_rows)
            looked = clock.looks
            await until(lambda looked=looked: clock.looks > looked)  # type: ignore[misc]

    async def main() -> None:
        for nth in range(50):
            index.insert(unit(nth))
        upkeep = IndexMaintenance(index, lambda: True, rest_s=0, pause_s=0, clock=clock)
        await upkeep.step()
        keeping = asyncio.create_task(upkeep.run(idle_s=0))
        await asyncio.create_task(requests())
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(main())
    assert max(deltas) < 100


def test_a_new_graph_is_measured_and_searched_no_wider_than_it_needs() -> None:
    """An exact graph finds everything at the least width; real queries are measured with once 200 came."""
    shop = catalogue(IndexLimits(exact_below=50))
    upkeep = IndexMaintenance(shop.index, lambda: True, rest_s=0, pause_s=0)

    async def main() -> None:
        await follower(shop).apply_all([item(f"i{nth}", nth) for nth in range(300)])
        await upkeep.step()
        assert shop.index.widths == Widths(WIDTHS[0], WIDTHS[0])
        shop.index.widths = Widths(64, 200)
        for nth in range(199):
            shop.index.search(unit(nth), 5)
        await upkeep.step()
        assert shop.index.widths == Widths(64, 200)
        shop.index.search(unit(200), 5)
        await upkeep.step()
        assert shop.index.widths == Widths(WIDTHS[0], WIDTHS[0])

    asyncio.run(main())


def test_a_width_is_measured_though_requests_take_all_the_time() -> None:
    """Every turn of the loop takes half a second: 200 queries one by one would take minutes."""

    class Clock:
        now_s = 0.0

        def __call__(self) -> float:
            return self.now_s

    clock = Clock()

    class SlowGraph(ExactGraph):
        def search(
            self, vector: NDArray[np.float32], count: int, width: int
        ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            clock.now_s += 0.0003
            return super().search(vector, count, width)

    class Counting(LiveIndex):
        turns = 0

        @contextmanager
        def moment(self, query: NDArray[np.float32]) -> Iterator[Moment]:
            self.turns += not self._held
            with super().moment(query) as taken:
                yield taken

    index = Counting(4, lambda capacity: SlowGraph(4, capacity), IndexLimits(exact_below=50))

    async def requests() -> None:
        while True:
            clock.now_s += 0.5
            await asyncio.sleep(0)

    async def main() -> None:
        for nth in range(300):
            index.insert(unit(nth))
        upkeep = IndexMaintenance(index, lambda: True, rest_s=0, pause_s=0, clock=clock)
        await upkeep.step()
        for nth in range(200):
            index.search(unit(nth), 5)
        index.widths, index.turns = Widths(400, 400), 0
        asking = asyncio.create_task(requests())
        await upkeep.step()
        asking.cancel()

    asyncio.run(main())
    assert index.widths == Widths(WIDTHS[0], WIDTHS[0])
    assert 0 < index.turns < 40


def test_a_graph_that_finds_too_little_is_searched_wider() -> None:
    class ShortSighted(ExactGraph):
        def search(
            self, vector: NDArray[np.float32], count: int, width: int
        ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            """Finds the whole truth only when it may look at two rows and a half for each result."""
            slots, scores = super().search(vector, 2 * count, width)
            step = 1 if width >= 2.5 * count else 2
            return slots[::step][:count], scores[::step][:count]

    index = LiveIndex(4, lambda capacity: ShortSighted(4, capacity), IndexLimits(exact_below=50))
    shop = Catalogue(4, index)

    async def main() -> None:
        await follower(shop).apply_all([item(f"i{nth}", nth) for nth in range(300)])
        await IndexMaintenance(index, lambda: True, rest_s=0, pause_s=0).step()

    asyncio.run(main())
    assert index.widths == Widths(32, 128)


def test_a_build_under_way_is_called_off_when_the_service_stops() -> None:
    async def main() -> None:
        loop, building = asyncio.get_running_loop(), asyncio.Event()

        class SlowGraph(ExactGraph):
            def add(self, slots: NDArray[np.int64], vectors: NDArray[np.float32], threads: int = 1) -> None:
                loop.call_soon_threadsafe(building.set)
                super().add(slots, vectors, threads)

        slow = Catalogue(4, LiveIndex(4, lambda capacity: SlowGraph(4, capacity), IndexLimits(exact_below=50)))
        await follower(slow).apply_all([item(f"i{nth}", nth) for nth in range(1_000)])
        running = asyncio.create_task(IndexMaintenance(slow.index, lambda: True).run(idle_s=0))
        await building.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(slow.index.search(unit(1), 10)[0]) == 10

    asyncio.run(main())
