"""Every graph finds what an exact search finds; our exact fake and hnswlib pass the same test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.retrieval.in_process.graphs import Graph
from tests.support.fakes import ExactGraph

MakeGraph = Callable[[int, int], Graph]  # dimension, capacity


@pytest.fixture(params=["exact", "hnswlib"])
def make_graph(request: pytest.FixtureRequest) -> MakeGraph:
    if request.param == "exact":
        return ExactGraph
    pytest.importorskip("hnswlib")
    from nearline.adapters.hnsw import HnswGraph

    return HnswGraph


def unit_vectors(rows: int, dimension: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def recall(graph: Graph, vectors: NDArray[np.float32], live: NDArray[np.int64], width: int, count: int = 50) -> float:
    found = 0
    queries = unit_vectors(50, vectors.shape[1], seed=99)
    for query in queries:
        exact = live[np.argsort(-(vectors[live] @ query))[:count]]
        found += len(set(exact.tolist()) & set(graph.search(query, count, width)[0].tolist()))
    return found / (len(queries) * count)


def test_it_finds_the_true_neighbours_best_first(make_graph: MakeGraph) -> None:
    vectors = unit_vectors(3_000, 32, seed=1)
    graph = make_graph(32, 3_000)
    graph.add(np.arange(3_000), vectors)
    slots, scores = graph.search(vectors[17], 10, 200)
    assert slots[0] == 17
    assert scores[0] == pytest.approx(1.0, abs=1e-5)
    assert np.all(np.diff(scores) <= 0)
    np.testing.assert_allclose(scores, vectors[slots] @ vectors[17], atol=1e-5)
    assert recall(graph, vectors, np.arange(3_000), width=400) >= 0.95


def test_several_threads_build_as_good_a_graph(make_graph: MakeGraph) -> None:
    vectors = unit_vectors(3_000, 32, seed=1)
    graph = make_graph(32, 3_000)
    for start in range(0, 3_000, 100):
        graph.add(np.arange(start, start + 100), vectors[start : start + 100], threads=2)
    assert graph.count == 3_000
    assert recall(graph, vectors, np.arange(3_000), width=400) >= 0.95


def test_slots_need_not_be_in_order(make_graph: MakeGraph) -> None:
    vectors = unit_vectors(3, 8, seed=2)
    graph = make_graph(8, 10)
    graph.add(np.array([70, 5, 900]), vectors)
    assert graph.search(vectors[2], 1, 50)[0].tolist() == [900]


def test_a_removed_slot_is_never_found_and_the_others_still_are(make_graph: MakeGraph) -> None:
    vectors = unit_vectors(2_000, 16, seed=3)
    graph = make_graph(16, 2_000)
    graph.add(np.arange(2_000), vectors)
    for slot in range(0, 2_000, 2):
        graph.remove(slot)
    live = np.arange(1, 2_000, 2)
    assert all(slot % 2 for query in vectors[:50] for slot in graph.search(query, 50, 200)[0].tolist())
    assert recall(graph, vectors, live, width=400) >= 0.95
    assert (graph.count, graph.removed) == (2_000, 1_000)


def test_vectors_added_to_an_existing_graph_are_found(make_graph: MakeGraph) -> None:
    vectors = unit_vectors(500, 16, seed=4)
    graph = make_graph(16, 500)
    graph.add(np.arange(400), vectors[:400])
    for slot in range(400, 500):
        graph.add(np.array([slot]), vectors[slot : slot + 1])
        assert graph.search(vectors[slot], 1, 100)[0].tolist() == [slot]


def test_fewer_than_asked_for_are_all_there_are(make_graph: MakeGraph) -> None:
    vectors = unit_vectors(20, 8, seed=5)
    graph = make_graph(8, 20)
    assert len(graph.search(vectors[0], 5, 50)[0]) == 0
    graph.add(np.arange(20), vectors)
    for slot in range(15):
        graph.remove(slot)
    slots, scores = graph.search(vectors[0], 50, 50)
    assert sorted(slots.tolist()) == [15, 16, 17, 18, 19]
    assert len(scores) == 5
    for slot in range(15, 20):
        graph.remove(slot)
    assert len(graph.search(vectors[0], 1, 50)[0]) == 0


def test_a_full_graph_refuses_more(make_graph: MakeGraph) -> None:
    vectors = unit_vectors(3, 8, seed=6)
    graph = make_graph(8, 2)
    graph.add(np.arange(2), vectors[:2])
    with pytest.raises(RuntimeError):
        graph.add(np.array([2]), vectors[2:])


def test_a_saved_graph_answers_as_before_and_goes_on_growing(make_graph: MakeGraph, tmp_path: Path) -> None:
    vectors = unit_vectors(500, 16, seed=6)
    graph = make_graph(16, 1_000)
    graph.add(np.arange(400), vectors[:400])
    graph.remove(7)
    graph.save(tmp_path / "graph")
    loaded = type(graph).load(tmp_path / "graph", 16, 1_000, count=400, removed=1)  # type: ignore[attr-defined]
    assert loaded.search(vectors[7], 20, 200)[0].tolist() == graph.search(vectors[7], 20, 200)[0].tolist()
    loaded.add(np.arange(400, 500), vectors[400:])
    loaded.remove(8)
    assert (loaded.count, loaded.removed) == (500, 2)
    assert loaded.search(vectors[450], 1, 200)[0].tolist() == [450]
    assert not {7, 8} & set(loaded.search(vectors[8], 498, 2_000)[0].tolist())
