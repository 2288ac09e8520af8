"""Answers to filters: the best of what passes, however few, many or old those are, and never fewer than there are."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearline.adapters.hnsw import HnswGraph
from nearline.filters import parse
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields, ItemVector
from nearline.user_documents import UserDocument
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import IndexLimits, LiveIndex
from services.retrieval.in_process.rows import Rows
from services.retrieval.pipeline.selection import select
from services.retrieval.request import RecommendRequest, RequestContext
from tests.support.expressions import FIELDS, FILTERS, Meaning
from tests.support.fakes import ExactGraph
from tests.support.properties import examples

DIMENSION = 4
SMALL = IndexLimits(exact_below=8, fold_above=3, bulk=6, removed_share=0.25, headroom=1.2)
ALWAYS_GRAPH = IndexLimits(exact_below=8, fold_above=3, bulk=6, candidate_rows=0, fetch_rows=1)
ALWAYS_ROWS = IndexLimits(exact_below=8, fold_above=3, bulk=6, candidate_rows=10**9, fetch_rows=1)
ALWAYS_ALL = IndexLimits(exact_below=8, fold_above=3, bulk=6, candidate_rows=10**9, fetch_rows=10**9)
IDS = [f"i{nth}" for nth in range(30)]
PLAIN: dict[str, Any] = {"category": "", "locale": "", "brand": "", "price": None, "listed_ms": None, "attributes": {}}
NOTHING: NDArray[np.uint64] = np.empty(0, np.uint64)


def unit(seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def hashes(*item_ids: str) -> NDArray[np.uint64]:
    return np.array(sorted(map(hash64, item_ids)), np.uint64)


def user(seed: int, *seen: str) -> UserDocument:
    return UserDocument(unit(seed), 7, 9, "e", 1_000, 1_001, hashes(*seen), NOTHING, hashes("e"))


class Shop:
    """A catalogue and a plain dict of its available items; each step is applied to both."""

    def __init__(self, limits: IndexLimits = SMALL) -> None:
        self.limits = limits
        self.catalogue = self._empty()
        self.items: dict[str, tuple[dict[str, Any], NDArray[np.float32]]] = {}
        self.version = 0

    def _empty(self) -> Catalogue:
        return Catalogue(DIMENSION, LiveIndex(DIMENSION, lambda room: ExactGraph(DIMENSION, room), self.limits))

    def put(self, item_id: str, seed: int, fields: dict[str, Any]) -> None:
        self._apply(
            ItemVector(item_id, self._next(), ItemFields("t", **fields), unit(seed), unit(0).astype(np.float16), "d")
        )
        self.items[item_id] = PLAIN | fields, unit(seed)

    def change(self, item_id: str, _: int, fields: dict[str, Any]) -> None:
        """New fields and the vector that it has."""
        if item_id in self.items:
            vector = self.items[item_id][1]
            shown = ItemFields("t", **fields)
            self._apply(ItemVector(item_id, self._next(), shown, vector, vector.astype(np.float16), "d"))
            self.items[item_id] = PLAIN | fields, vector

    def retire(self, item_id: str, *_: Any) -> None:
        self._apply(ItemVector(item_id, self._next(), ItemFields(""), None, unit(0).astype(np.float16), "d", 5))
        self.items.pop(item_id, None)

    def withdraw(self, item_id: str, seed: int, fields: dict[str, Any]) -> None:
        shown = ItemFields("t", available=False, **fields)
        self._apply(ItemVector(item_id, self._next(), shown, unit(seed), unit(0).astype(np.float16), "d"))
        self.items.pop(item_id, None)

    def purge(self, item_id: str, *_: Any) -> None:
        self.catalogue.purge(item_id)
        self.items.pop(item_id, None)

    def fold(self, *_: Any) -> None:
        self.catalogue.index.fold()

    def build(self, *_: Any) -> None:
        if self.catalogue.index.build_due:
            build = self.catalogue.index.start_build()
            build.run(lambda: False)
            self.catalogue.index.adopt(build)

    def restart(self, *_: Any) -> None:
        """As from a snapshot."""
        state, graph = self.catalogue.index.state()
        records = list(self.catalogue.records())
        self.catalogue = self._empty()
        self.catalogue.index.restore(state, graph)
        self.catalogue.restore((*known, shown and ItemFields(**shown)) for *known, shown in records)  # type: ignore[misc,arg-type]

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _apply(self, item: ItemVector) -> None:
        assert self.catalogue.apply(item)

    def check(self, meaning: Meaning, seed: int, k: int, seen: tuple[str, ...] = ()) -> None:
        """The *k* best that pass and were not seen, by a look at every item."""
        expression, passes = meaning
        query = unit(seed)
        passing = {i: float(v @ query) for i, (item, v) in self.items.items() if passes(item) and i not in seen}
        found = asyncio.run(self.catalogue.nearest(query, k, hashes(*seen), parse(expression)))
        assert set(found.item_ids) <= passing.keys()
        assert len(set(found.item_ids)) == len(found.item_ids) == min(k, len(passing))
        np.testing.assert_allclose(found.scores, sorted(passing.values(), reverse=True)[:k], atol=1e-5)
        self._check_answer(expression, passing.keys(), seed, k, seen)

    def _check_answer(self, expression: str, passing: Any, seed: int, k: int, seen: tuple[str, ...]) -> None:
        for document in (user(seed, *seen), None):
            groups = asyncio.run(
                select(self.catalogue, RequestContext(RecommendRequest(k, filter=parse(expression)), document))
            )
            ids = [item_id for group in groups for item_id in group.items.item_ids]
            among = passing if document is not None or not seen else {*passing} | {*ids}
            assert set(ids) <= set(among)
            assert len(set(ids)) == len(ids) >= min(k, len(passing))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "change", "change", "fold", "retire"])
        | st.sampled_from(["withdraw", "purge", "build", "build", "restart"]),
        st.sampled_from(IDS),
        st.integers(0, 1_000),
        FIELDS,
        st.integers(0, 9),
    ),
    max_size=60,
)


@pytest.mark.parametrize("limits", [SMALL, ALWAYS_GRAPH, ALWAYS_ROWS, ALWAYS_ALL])
@given(st.lists(FILTERS, min_size=1, max_size=4), STEPS, st.lists(st.sampled_from(IDS), max_size=10))
@examples(50)
def test_an_answer_is_the_best_of_what_passes(
    limits: IndexLimits, filters: list[Meaning], steps: list[Any], seen: list[str]
) -> None:
    """Whatever is listed, changed, withdrawn, purged, folded, built and restored, in whatever order."""
    shop = Shop(limits)
    for nth, item_id in enumerate(IDS[:12]):
        shop.put(item_id, nth, {"attributes": {"colour": "a" if nth % 2 else "b"}})
    for name, item_id, seed, fields, asked in steps:
        getattr(shop, name)(item_id, seed, fields)
        if asked < len(filters):
            shop.check(filters[asked], seed, 5, tuple(seen))
    for meaning in filters:
        shop.check(meaning, 5, 40, tuple(seen))
        shop.check(meaning, 6, 3)


def priced(below: int) -> Meaning:
    return f"price < {below}", lambda item: item["price"] < below


@pytest.fixture
def shop() -> Shop:
    """Two hundred items at prices 0 to 199, most of them in a graph."""
    shop = Shop()
    for nth in range(200):
        shop.put(f"n{nth}", nth, {"price": float(nth)})
        if nth == 180:
            shop.build()
    return shop


@pytest.mark.parametrize("below", [0, 1, 5, 20, 100, 195, 200])
@pytest.mark.parametrize("k", [1, 10, 50, 500])
def test_filters_that_none_few_many_and_all_items_pass_are_answered(shop: Shop, below: int, k: int) -> None:
    shop.check(priced(below), 9, k)


def test_more_are_seen_than_one_search_allows_for(shop: Shop) -> None:
    """All that pass but three were seen, and those three come."""
    seen = tuple(f"n{nth}" for nth in range(97))
    shop.check(priced(100), 9, 10, seen)
    shop.check(priced(97), 9, 10, seen)


def test_top_ups_pass_too_however_far_down_they_are() -> None:
    shop = Shop()
    for nth in range(60):
        shop.put(f"n{nth}", nth, {"price": float(nth), "listed_ms": nth, "category": "c" if nth < 30 else "d"})
        shop.catalogue.trending.score(f"n{nth}", float(nth))
    for nth in range(60, 100):
        shop.put(f"n{nth}", nth, {"price": float(nth - 60), "listed_ms": nth, "category": "d"})

    def answer(document: UserDocument | None, expression: str, k: int) -> list[tuple[str, list[str]]]:
        groups = asyncio.run(
            select(shop.catalogue, RequestContext(RecommendRequest(k, filter=parse(expression)), document))
        )
        return [(group.source.value, group.items.item_ids) for group in groups]

    assert answer(None, "price < 3", 4) == [("trending", ["n2", "n1", "n0"]), ("newest", ["n62"])]
    assert answer(None, "price < 3", 99) == [("trending", ["n2", "n1", "n0"]), ("newest", ["n62", "n61", "n60"])]
    assert answer(None, "price > 57", 1) == [("trending", ["n59"])]
    assert answer(None, "price > 99", 9) == []
    reader = UserDocument(None, 7, 9, "e", 1, 1, hashes("n5", "n6"), NOTHING, NOTHING)
    assert answer(reader, "price in (5, 7, 8, 50)", 9) == [
        ("trending_category", ["n8", "n7"]),
        ("trending", ["n50"]),
        ("newest", ["n68", "n67", "n65"]),
    ]


def test_a_graph_that_holds_little_of_what_passes_is_not_trusted() -> None:
    """What passes lies opposite to the user, and all of it comes from behind everything else."""
    shop = Shop(ALWAYS_GRAPH)
    for nth in range(400):
        shop.put(f"n{nth}", nth, {})
    shop.build()
    query = unit(1)
    for item_id, (_, vector) in list(shop.items.items()):
        shop.change(item_id, 0, {"brand": "far" if vector @ query < 0 else "near"})
    shop.put("late", 4_000, {"brand": "far"})
    shop.check(('brand = "far"', lambda item: item["brand"] == "far"), 1, 20)


class Torn(ExactGraph):
    """A graph in which no way leads to the five nearest rows."""

    def search(
        self, vector: NDArray[np.float32], count: int, width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        slots, scores = super().search(vector, count, width)
        return slots[5:], scores[5:]


def test_items_unreachable_in_the_graph_are_found_by_exact_search() -> None:
    index = LiveIndex(DIMENSION, lambda room: Torn(DIMENSION, room), ALWAYS_GRAPH)
    for seed in range(400):
        index.insert(unit(seed))
    build = index.start_build()
    build.run(lambda: False)
    index.adopt(build)
    passing = np.ones(1_024, bool)
    passing[380:] = False
    found = index.search(unit(7), 20, rows=Rows(passing))[0]
    assert found.tolist() == sorted(range(380), key=lambda seed: -float(unit(seed) @ unit(7)))[:20]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["at random", "together"])
def test_recall_holds_with_a_filter(share: float, kind: str) -> None:
    """A real graph of 4,000 and a delta of 400; the same width for each candidate as without a filter."""
    random = np.random.default_rng(5)
    vectors = random.standard_normal((4_400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = LiveIndex(16, lambda room: HnswGraph(16, room), IndexLimits(candidate_rows=0))
    for vector in vectors[:4_000]:
        index.insert(vector)
    build = index.start_build()
    build.run(lambda: False)
    index.adopt(build)
    for vector in vectors[4_000:]:
        index.insert(vector)
    by = random.random(4_400) if kind == "at random" else vectors[:, 0]
    passing = np.zeros(8_192, bool)
    passing[:4_400] = by < np.quantile(by, share)
    hits = 0
    for query in random.standard_normal((50, 16)).astype(np.float32):
        found = index.search(query, 20, rows=Rows(passing))[0]
        scores = np.where(passing[:4_400], vectors @ query, -np.inf)
        hits += len(np.intersect1d(found, np.argsort(-scores)[:20]))
        assert passing[found].all()
    assert hits / (50 * 20) >= 0.95


@pytest.mark.parametrize("limits", [ALWAYS_GRAPH, ALWAYS_ROWS, ALWAYS_ALL])
@pytest.mark.parametrize("leave", ["retire", "withdraw", "purge"])
def test_removed_items_pass_no_filter(limits: IndexLimits, leave: str) -> None:
    """Also in a filter that was asked for before, and after a restart with slots that nothing is at any more."""
    shop = Shop(limits)
    for nth in range(1_400):
        shop.put(f"n{nth}", nth, {"price": float(nth)})
        if nth == 50:
            shop.build()
    shop.check(priced(1_390), 3, 10)
    for nth in (5, *range(1_000, 1_400)):
        getattr(shop, leave)(f"n{nth}", 0, {})
    shop.check(priced(1_390), 3, 10)
    shop.restart()
    shop.check(priced(1_390), 3, 10)


def test_sixty_four_attributes_of_any_name_survive_a_restart() -> None:
    shop = Shop()
    names = [*(f"name {nth}" for nth in range(60)), "a.b", "it's", 'so "called"', ""]
    for nth in range(20):
        shop.put(f"i{nth}", nth, {"attributes": dict.fromkeys(names, nth)})
    for restart in (False, True):
        if restart:
            shop.change("i15", 0, {"attributes": {"a.b": "x"}})
            shop.restart()
        for name in names:
            quoted = '"' + name.replace('"', '\\"') + '"'
            dear = (
                f"attributes.{quoted} >= 15",
                lambda item, name=name: item["attributes"].get(name, "") in range(15, 20),
            )
            shop.check(dear, 3, 10)
        shop.check(("""attributes."it's" is missing""", lambda item: "it's" not in item["attributes"]), 3, 9)
