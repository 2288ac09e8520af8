"""The live index: what is inserted is found, what is removed never is, whatever is folded or built meanwhile."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.retrieval.in_process.graphs import Build
from services.retrieval.in_process.index import IndexLimits, LiveIndex
from tests.support.fakes import ExactGraph
from tests.support.properties import examples

DIMENSION = 4
SMALL = IndexLimits(exact_below=8, fold_above=3, bulk=6, removed_share=0.25, headroom=1.2)


def index(limits: IndexLimits = SMALL) -> LiveIndex:
    return LiveIndex(DIMENSION, lambda capacity: ExactGraph(DIMENSION, capacity), limits)


def vector(seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def rebuild(live: LiveIndex) -> None:
    build = live.start_build()
    assert build.run(lambda: False)
    live.adopt(build)


def nearest(vectors: dict[int, NDArray[np.float32]], query: NDArray[np.float32]) -> int:
    return max(vectors, key=lambda slot: float(vectors[slot] @ query))


class Model:
    """Does to a dict what is done to the index, and compares."""

    def __init__(self) -> None:
        self.index = index()
        self.vectors: dict[int, NDArray[np.float32]] = {}
        self.build: Build | None = None

    def insert(self, seed: int) -> None:
        slot = self.index.insert(vector(seed))
        assert slot not in self.vectors
        self.vectors[slot] = vector(seed)

    def remove(self, nth: int) -> None:
        if self.vectors:
            slot = sorted(self.vectors)[nth % len(self.vectors)]
            self.index.remove(slot)
            del self.vectors[slot]

    def update(self, nth: int) -> None:
        self.remove(nth)
        self.insert(nth)

    def fold(self, _: int) -> None:
        self.index.fold()

    def start_build(self, _: int) -> None:
        if self.build is None and self.index.build_due:
            self.build = self.index.start_build()

    def extend(self, _: int) -> None:
        if self.build is not None:
            self.build.run(lambda: False)
            self.index.extend(self.build)

    def adopt(self, _: int) -> None:
        if self.build is not None:
            self.build.run(lambda: False)
            self.index.adopt(self.build)
            self.build = None

    def drop(self, _: int) -> None:
        if self.build is not None:
            self.index.drop(self.build)
            self.build = None

    def check(self, seed: int) -> None:
        query = vector(seed)
        slots, scores = self.index.search(query, 5)
        expected = sorted(self.vectors, key=lambda slot: -float(self.vectors[slot] @ query))[:5]
        assert self.index.live == len(self.vectors)
        np.testing.assert_allclose(scores, [self.vectors[slot] @ query for slot in slots.tolist()], atol=1e-5)
        np.testing.assert_allclose(scores, [self.vectors[slot] @ query for slot in expected], atol=1e-5)
        assert len(set(slots.tolist())) == len(slots)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "insert", "update", "update", "remove", "fold", "fold"])
        | st.sampled_from(["start_build", "extend", "adopt", "drop"]),
        st.integers(0, 1_000),
    ),
    max_size=120,
)


@given(STEPS)
@examples(100)
def test_every_search_finds_what_an_exact_search_of_the_live_vectors_finds(steps: list[tuple[str, int]]) -> None:
    """Inserts, updates, removals, folds, builds and swaps in any order change how it is found, never what."""
    model = Model()
    for name, number in steps:
        getattr(model, name)(number)
        model.check(number + 1)


def test_a_vector_is_found_the_moment_it_is_inserted() -> None:
    live = index()
    for seed in range(40):
        slot = live.insert(vector(seed))
        assert live.search(vector(seed), 1)[0].tolist() == [slot]


def test_a_removal_during_a_build_holds_after_the_swap() -> None:
    live = index()
    slots = [live.insert(vector(seed)) for seed in range(20)]
    build = live.start_build()
    live.remove(slots[3])
    newcomer = live.insert(vector(77))
    build.run(lambda: False)
    live.adopt(build)
    assert live.search(vector(3), 1)[1][0] < 0.999
    assert live.search(vector(77), 1)[0].tolist() == [newcomer]
    assert live.delta_rows == 1


def test_rows_inserted_during_a_build_are_folded_into_it() -> None:
    live = index()
    for seed in range(20):
        live.insert(vector(seed))
    build = live.start_build()
    build.run(lambda: False)
    for seed in range(20, 30):
        live.insert(vector(seed))
    assert live.extend(build)
    build.run(lambda: False)
    live.insert(vector(30))
    assert not live.extend(build)
    live.adopt(build)
    assert live.delta_rows == 1
    for seed in range(31):
        assert live.search(vector(seed), 1)[1][0] == pytest.approx(1.0, abs=1e-5)


def test_the_delta_stays_small_while_a_build_is_under_way() -> None:
    """What comes meanwhile goes into the served graph too; the adopted one lacks nothing of it."""
    live = index(IndexLimits(exact_below=8, fold_above=3, bulk=200, headroom=10))
    for seed in range(10):
        live.insert(vector(seed))
    rebuild(live)
    build = live.start_build()
    slots = [live.insert(vector(seed)) for seed in range(10, 60)]
    for slot in slots[:5]:
        live.remove(slot)
    while live.fold_due:
        live.fold()
    assert live.delta_rows == 3
    build.run(lambda: False)
    live.adopt(build)
    for seed in [*range(10), *range(15, 60)]:
        assert live.search(vector(seed), 1)[1][0] == pytest.approx(1.0, abs=1e-5)
    assert not set(slots[:5]) & set(live.search(vector(12), 60)[0].tolist())


def test_the_row_of_a_removed_slot_is_used_again_while_the_graph_still_carries_it() -> None:
    live = index(IndexLimits(exact_below=4, fold_above=3, bulk=200, headroom=100))
    slots = [live.insert(vector(seed)) for seed in range(10)]
    rebuild(live)
    for seed in range(10, 200):
        live.remove(slots[seed % 10])
        slots[seed % 10] = live.insert(vector(seed))
        while live.fold_due:
            live.fold()
        assert sorted(live.search(vector(seed), 20)[0].tolist()) == sorted(slots)
    assert live.removed_rows > 150
    assert live.slots < 20


def test_a_slot_that_is_used_again_during_a_build_has_its_new_row_in_the_end() -> None:
    """Before the build came to its row, and after."""
    live = index()
    slots = [live.insert(vector(seed)) for seed in range(20)]
    rebuild(live)
    for runs_first, slot in ((True, slots[3]), (False, slots[4])):
        build = live.start_build()
        if runs_first:
            build.run(lambda: False)
        live.remove(slot)
        assert live.insert(vector(50 + slot)) == slot
        build.run(lambda: False)
        live.adopt(build)
        assert live.search(vector(50 + slot), 1)[0].tolist() == [slot]
        assert live.search(vector(50 + slot), 1)[1][0] == pytest.approx(1.0, abs=1e-5)
        assert sorted(live.search(vector(3), 30)[0].tolist()) == sorted(slots)


def test_rows_removed_before_the_build_reaches_them_are_left_out() -> None:
    live = index()
    slots = [live.insert(vector(seed)) for seed in range(20)]
    build = live.start_build()
    for slot in slots[:12]:
        live.remove(slot)
    build.run(lambda: False)
    assert build.graph.count == 8
    live.remove(slots[12])
    live.adopt(build)
    assert live.removed_rows == 1
    assert sorted(live.search(vector(3), 20)[0].tolist()) == slots[13:]


def test_rows_removed_during_a_build_can_be_dropped_in_slices() -> None:
    live = index()
    slots = [live.insert(vector(seed)) for seed in range(20)]
    build = live.start_build()
    build.run(lambda: False)
    for slot in slots[:9]:
        live.remove(slot)
    assert [live.prune(build, 4) for _ in range(3)] == [True, True, False]
    live.remove(slots[9])
    live.adopt(build)
    assert live.removed_rows == 10
    assert sorted(live.search(vector(3), 20)[0].tolist()) == slots[10:]


def test_rows_of_a_moment_stay_until_it_ends() -> None:
    live = index()
    slots = [live.insert(vector(seed)) for seed in range(6)]
    rebuild(live)
    with live.moment(vector(3)) as moment:
        for seed, slot in enumerate(slots):
            live.remove(slot)
            live.insert(vector(100 + seed))
        rebuild(live)
        reused = [live.insert(vector(200 + seed)) for seed in range(6)]
        assert not set(slots) & set(reused)
        np.testing.assert_array_equal(moment.vectors[slots], [vector(seed) for seed in range(6)])
        assert moment.live[slots].all()
    assert live.insert(vector(300)) in slots


def test_folding_stops_when_the_delta_is_small() -> None:
    live = index()
    for seed in range(10):
        live.insert(vector(seed))
    rebuild(live)
    for seed in range(10, 16):
        live.insert(vector(seed))
    while live.fold_due:
        live.fold()
    assert live.delta_rows == SMALL.fold_above


def test_a_build_is_due_when_a_quarter_of_the_graph_is_removed() -> None:
    live = index()
    slots = [live.insert(vector(seed)) for seed in range(20)]
    rebuild(live)
    for slot in slots[:5]:
        live.remove(slot)
    assert not live.build_due
    live.remove(slots[5])
    assert live.build_due
    rebuild(live)
    assert live.removed_rows == 0
    assert not live.build_due


def test_memory_does_not_grow_with_updates_of_the_same_items() -> None:
    """Slots are used again, with a graph and without one."""
    live = index()
    slots = [live.insert(vector(seed)) for seed in range(6)]
    highest = 0
    for seed in range(8_000):
        live.remove(slots[seed % 6])
        slots[seed % 6] = live.insert(vector(seed))
        highest = max(highest, slots[seed % 6])
    assert highest < 2_100
    rebuild(live)
    for seed in range(2_000):
        live.remove(slots[seed % 6])
        slots[seed % 6] = live.insert(vector(seed))
        while live.fold_due:
            live.fold()
        if live.build_due:
            rebuild(live)
        highest = max(highest, slots[seed % 6])
    assert highest < 2_100


def test_a_build_that_is_called_off_leaves_everything_as_it_was() -> None:
    live = index()
    for seed in range(20):
        live.insert(vector(seed))
    build = live.start_build()
    assert not build.run(lambda: True)
    live.drop(build)
    assert not live.has_graph
    assert live.search(vector(7), 1)[0].tolist() == [7]
    rebuild(live)
    assert live.has_graph


def test_a_build_is_adopted_once() -> None:
    live = index()
    for seed in range(20):
        live.insert(vector(seed))
    build = live.start_build()
    build.run(lambda: False)
    live.adopt(build)
    with pytest.raises(ValueError, match="once"):
        live.adopt(build)


def test_searches_are_right_while_another_thread_builds() -> None:
    """The builder reads only rows that do not change: churn beside it changes no answer."""
    live = index(IndexLimits(exact_below=500))
    vectors = {live.insert(vector(seed)): vector(seed) for seed in range(2_000)}
    seed = 10_000
    for _ in range(3):
        build = live.start_build()
        last = seed + 100
        builder = threading.Thread(target=build.run, args=(lambda: False,))
        builder.start()
        while builder.is_alive() or seed < last:
            slot = next(iter(vectors))
            live.remove(slot)
            del vectors[slot]
            vectors[live.insert(vector(seed))] = vector(seed)
            live.fold()
            if seed % 50 == 0:
                assert live.search(vector(seed + 1), 1)[0].tolist() == [nearest(vectors, vector(seed + 1))]
            seed += 1
        builder.join()
        live.adopt(build)
    for slot, expected in vectors.items():
        assert live.search(expected, 1)[0].tolist() == [slot]


def test_an_empty_index_finds_nothing() -> None:
    slots, scores = index().search(vector(1), 10)
    assert len(slots) == len(scores) == 0
