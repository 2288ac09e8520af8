"""Live recall: it says what the answers really held, of how many queries, and a fall is mended."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from services.retrieval.in_process.background import Background
from services.retrieval.in_process.index import IndexLimits, LiveIndex
from services.retrieval.in_process.live_recall import LiveRecall
from services.retrieval.in_process.maintenance import IndexMaintenance
from services.retrieval.in_process.widths import WIDTHS, Widths
from tests.support.fakes import ExactGraph

DIMENSION = 8


class Losing(ExactGraph):
    """A graph that passes over every fourth row unless it is searched *enough* wide."""

    enough = 1e9

    def search(
        self, vector: NDArray[np.float32], count: int, width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        slots, scores = super().search(vector, 2 * count, width)
        kept = (np.arange(len(slots)) % 4 != 3) | (width >= self.enough * count)
        return slots[kept][:count], scores[kept][:count]


def unit(seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def index_of(rows: int, graph: type[ExactGraph]) -> LiveIndex:
    index = LiveIndex(
        DIMENSION, lambda capacity: graph(DIMENSION, capacity), IndexLimits(exact_below=50, fold_above=10)
    )
    for seed in range(rows):
        index.insert(unit(seed))
    build = index.start_build()
    assert build.run(lambda: False)
    index.adopt(build)
    return index


async def sampled(recall: LiveRecall, index: LiveIndex, queries: int) -> int:
    """How many of *queries*, one after the other, were sampled."""
    background = Background("test")
    count = 0
    for seed in range(queries):
        index.search(unit(10_000 + seed), 20)
        count += await recall.sample(background)
    background.close()
    return count


def test_an_exact_index_has_recall_one_and_tells_of_how_many() -> None:
    index = index_of(300, ExactGraph)
    recall = LiveRecall(index, window=20)
    assert asyncio.run(sampled(recall, index, 30)) == 30
    assert recall.report() == {"recall_at_10": 1.0, "recall_at_50": 1.0, "samples": 20}


def test_results_missing_from_the_graph_lower_the_live_recall() -> None:
    """Every fourth of the results is lost: of ten two, of fifty twelve; what is in the delta is never lost."""
    index = index_of(300, Losing)
    recall = LiveRecall(index)
    asyncio.run(sampled(recall, index, 20))
    assert recall.recall(10) == pytest.approx(0.8)
    assert recall.recall(50) == pytest.approx(0.76)


def test_without_queries_nothing_is_sampled() -> None:
    index = index_of(300, ExactGraph)
    recall = LiveRecall(index)
    background = Background("test")
    index.search(unit(1), 20)
    assert asyncio.run(recall.sample(background))
    assert not asyncio.run(recall.sample(background)), "sampling is no query"
    background.close()
    assert (recall.samples, recall.recall(50)) == (1, 1.0)


def test_an_empty_index_has_nothing_to_sample() -> None:
    index = LiveIndex(DIMENSION, lambda capacity: ExactGraph(DIMENSION, capacity))
    recall = LiveRecall(index)
    assert asyncio.run(sampled(recall, index, 3)) == 0
    assert not recall.has_fallen


def test_fewer_items_than_the_cut_can_all_be_found() -> None:
    index = LiveIndex(DIMENSION, lambda capacity: ExactGraph(DIMENSION, capacity))
    for seed in range(7):
        index.insert(unit(seed))
    recall = LiveRecall(index)
    asyncio.run(sampled(recall, index, 3))
    assert recall.report() == {"recall_at_10": 1.0, "recall_at_50": 1.0, "samples": 3}


def test_a_fall_is_seen_in_a_full_window_only() -> None:
    index = index_of(300, Losing)
    recall = LiveRecall(index, window=10)
    asyncio.run(sampled(recall, index, 9))
    assert not recall.has_fallen
    asyncio.run(sampled(recall, index, 1))
    assert recall.has_fallen
    recall.forget()
    assert not recall.has_fallen


def test_a_fall_is_answered_by_searching_wider() -> None:
    class Widening(Losing):
        enough = 3.0

    index = index_of(300, Widening)
    index.widths = Widths(10, 50)
    upkeep = IndexMaintenance(index, lambda: True, LiveRecall(index, window=20), rest_s=0, pause_s=0)

    async def main() -> None:
        await sampled(upkeep.recall, index, 20)
        assert upkeep.recall.has_fallen
        assert await upkeep.step()

    asyncio.run(main())
    assert index.widths == Widths(32, 160)
    assert not upkeep.recall.has_fallen


def test_the_graph_is_rebuilt_when_no_width_reaches_the_recall() -> None:
    index = index_of(300, Losing)
    index.widths = Widths(WIDTHS[-1], WIDTHS[-1])
    for slot in range(10):
        index.remove(slot)
    upkeep = IndexMaintenance(index, lambda: True, LiveRecall(index, window=20), rest_s=0, pause_s=0)

    async def main() -> None:
        await sampled(upkeep.recall, index, 20)
        assert upkeep.recall.has_fallen
        assert await upkeep.step()

    asyncio.run(main())
    assert upkeep.builds == 1
    assert index.removed_rows == 0
