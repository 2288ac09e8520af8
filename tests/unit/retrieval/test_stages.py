"""The stages of an answer, one by one and in their order: drops, discount, caps, diversity, rules."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearline.hashing import hash64
from nearline.item_vectors import ItemFields, ItemVector
from nearline.rules import rule_of
from nearline.user_documents import Hashes, UserDocument
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.items.interface import ItemFeatures
from services.retrieval.items.popularity import Trending
from services.retrieval.merchandising.active_rules import ActiveRules
from services.retrieval.merchandising.effects import rule_set_of
from services.retrieval.pipeline.diversity import Selected, mmr, top_by_score
from services.retrieval.pipeline.exclusions import excluded_hashes
from services.retrieval.pipeline.scoring import less_popularity, normalized
from services.retrieval.pipeline.selection import select
from services.retrieval.request import Budget, ExcludeSeen, PageContext, RecommendRequest, RequestContext
from services.retrieval.result import Degradation, Group, Source, Trace
from tests.support.fakes import ExactGraph

DIMENSION = 8


def at(angle: float, axis: int = 1) -> NDArray[np.float32]:
    """A unit vector at *angle* from ``at(0)``; those of one *axis* lie in one plane."""
    vector = np.zeros(DIMENSION, np.float32)
    vector[0], vector[axis] = np.cos(angle), np.sin(angle)
    return vector


def hashes(*item_ids: str) -> Hashes:
    return np.array(sorted(map(hash64, item_ids)), np.uint64)


def user(*, seen: tuple[str, ...] = (), purchased: tuple[str, ...] = (), has_vector: bool = True) -> UserDocument:
    vector = at(0) if has_vector else None
    return UserDocument(vector, 7, 9, "e-1", 1_000, 1_001, hashes(*seen), hashes(*purchased), hashes("e-1"))


def put(shop: Catalogue, item_id: str, vector: NDArray[np.float32], category: str, listed_ms: int = 1) -> None:
    shown = ItemFields(item_id, category, listed_ms=listed_ms)
    shop.apply(ItemVector(item_id, 1, shown, vector, vector.astype(np.float16), "d"))


@pytest.fixture
def shop() -> Catalogue:
    """Ten mugs that are much alike, m0 nearest to the user, then five lamps and five vases; each kind in its plane."""
    shop = Catalogue(DIMENSION, LiveIndex(DIMENSION, lambda capacity: ExactGraph(DIMENSION, capacity)))
    for kind, axis, many, near in (("m", 1, 10, 0.8), ("l", 2, 5, 1.0), ("v", 3, 5, 1.2)):
        for nth in range(many):
            put(shop, f"{kind}{nth}", at(near + nth * 0.01, axis), {"m": "mugs", "l": "lamps", "v": "vases"}[kind])
    return shop


def ids(groups: list[Group]) -> list[str]:
    return [item_id for group in groups for item_id in group.items.item_ids]


def answer(shop: Catalogue, document: UserDocument | None, k: int, **asked: Any) -> list[str]:
    return ids(asyncio.run(select(shop, RequestContext(RecommendRequest(k, **asked), document))))


# --- drops ---


def test_drops_are_what_was_seen_what_the_caller_excludes_and_what_was_served() -> None:
    document = user(seen=("a", "b"), purchased=("b",))
    asked = RecommendRequest(exclude=hashes("c", "a"))
    assert (
        excluded_hashes(RequestContext(asked, document, served=hashes("d"))).tolist()
        == hashes("a", "b", "c", "d").tolist()
    )
    bought = replace(asked, exclude_seen=ExcludeSeen.PURCHASE)
    assert excluded_hashes(RequestContext(bought, document)).tolist() == hashes("a", "b", "c").tolist()
    nothing = replace(asked, exclude_seen=ExcludeSeen.NONE)
    assert excluded_hashes(RequestContext(nothing, document)).tolist() == hashes("a", "c").tolist()
    assert excluded_hashes(RequestContext(RecommendRequest(), None)).tolist() == []


def test_a_plain_request_does_not_copy_what_was_seen() -> None:
    document = user(seen=("a", "b"))
    assert excluded_hashes(RequestContext(RecommendRequest(), document)) is document.seen


@pytest.mark.parametrize("has_vector", [True, False])
def test_items_excluded_by_the_caller_come_from_no_source(shop: Catalogue, has_vector: bool) -> None:
    found = answer(shop, user(has_vector=has_vector), 20, exclude=hashes("m0", "l1", "unknown"))
    expected = [f"{kind}{nth}" for kind, many in (("m", 10), ("l", 5), ("v", 5)) for nth in range(many)]
    assert sorted(found) == sorted(set(expected) - {"m0", "l1"})


# --- worth and discount ---


def test_worth_runs_from_the_last_to_the_best_whatever_the_scores_are() -> None:
    assert normalized(np.array([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert normalized(np.array([-1.0, -3.0])).tolist() == [1.0, 0.0]
    assert normalized(np.array([5.0, 5.0])).tolist() == [1.0, 1.0]
    assert normalized(np.empty(0)).tolist() == []


def test_a_discount_takes_off_its_share_of_popularity_and_never_more_than_there_is() -> None:
    worth = np.array([1.0, 0.5, 0.1])
    assert less_popularity(worth, np.array([1.0, 0.0, 0.5]), 0.5).tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_popularity_is_a_matter_of_ratios_not_of_when_the_decay_began() -> None:
    trending, later = Trending(), Trending()
    for nth, score in enumerate((1024.0, 4.0, 2.0**-10)):
        for ranking, factor in ((trending, 1.0), (later, 2.0**300)):
            ranking.show(f"i{nth}", "x")
            ranking.score(f"i{nth}", score * factor)
    wanted = [1.0, 0.5, 0.0, 0.0]
    assert trending.popularity(["i0", "i1", "i2", "unknown"]).tolist() == wanted
    assert later.popularity(["i0", "i1", "i2", "unknown"]).tolist() == wanted
    assert Trending().popularity(["i0"]).tolist() == [0.0]


def test_a_full_discount_lets_the_most_popular_item_come_last(shop: Catalogue) -> None:
    shop.trending.score("m0", 100.0)
    shop.trending.score("m1", 100.0 / 2**8)
    assert answer(shop, user(), 10)[:2] == ["m0", "m1"]
    found = answer(shop, user(), 20, popularity_discount=1.0)
    assert found[0] == "m2"
    assert found.index("m0") > found.index("m1") > 5


# --- caps ---


def test_a_cap_holds_in_the_whole_answer_and_the_best_of_each_category_stay(shop: Catalogue) -> None:
    assert answer(shop, user(), 6, max_per_category=2) == ["m0", "m1", "l0", "l1", "v0", "v1"]
    assert answer(shop, user(), 20, max_per_category=1) == ["m0", "l0", "v0"]


def test_a_cap_counts_across_the_sources(shop: Catalogue) -> None:
    for nth in range(5):
        shop.trending.score(f"m{nth}", 10.0 - nth)
        shop.trending.score(f"l{nth}", 5.0 - nth)
    found = answer(shop, user(seen=("m9",), has_vector=False), 20, max_per_category=3)
    assert [sum(item_id.startswith(kind) for item_id in found) for kind in "mlv"] == [3, 3, 3]
    assert found[:3] == ["m0", "m1", "m2"]


def test_a_cap_looks_further_when_one_category_fills_the_neighbourhood() -> None:
    shop = Catalogue(DIMENSION, LiveIndex(DIMENSION, lambda capacity: ExactGraph(DIMENSION, capacity)))
    for nth in range(400):
        put(shop, f"m{nth:03}", at(0.001 * nth), "mugs")
    for nth in range(5):
        put(shop, f"l{nth}", at(1.0 + 0.01 * nth, 2), f"lamps{nth}")
    assert answer(shop, user(), 7, max_per_category=2) == ["m000", "m001", "l0", "l1", "l2", "l3", "l4"]


# --- diversity ---


def traits(vectors: NDArray[np.float32] | None, categories: list[int]) -> ItemFeatures:
    return ItemFeatures(np.array(categories, np.uint64), vectors)


def plain_mmr(worth: list[float], likeness: NDArray[Any], places: int, diversity: float) -> list[int]:
    """Maximal marginal relevance, as the paper writes it."""
    chosen: list[int] = []
    while len(chosen) < min(places, len(worth)):
        rest = [nth for nth in range(len(worth)) if nth not in chosen]
        like = {nth: max((likeness[nth][other] for other in chosen), default=0.0) for nth in rest}
        gains = {nth: (1 - diversity) * worth[nth] - diversity * like[nth] for nth in rest}
        chosen.append(max(rest, key=gains.__getitem__))
    return chosen


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 12), st.sampled_from([0.1, 0.5, 0.9]))
def test_diversity_is_maximal_marginal_relevance(seed: int, many: int, places: int, diversity: float) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((many, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    worth = random.random(many)
    found = mmr(worth, traits(vectors, [1] * many), Selected(), places, diversity).tolist()
    expected = plain_mmr(worth.tolist(), vectors.astype(np.float64) @ vectors.T.astype(np.float64), places, diversity)
    assert found == expected


def test_diversity_brings_other_kinds_forward_and_the_best_stays_first(shop: Catalogue) -> None:
    found = answer(shop, user(), 6, diversity=0.6)
    assert found[0] == "m0"
    assert {item_id[0] for item_id in found[:4]} == {"m", "l", "v"}
    assert answer(shop, user(), 6, diversity=0.0) == [f"m{nth}" for nth in range(6)]


def test_diversity_minds_what_an_earlier_source_chose(shop: Catalogue) -> None:
    """All mugs are personal, and the trending list begins with another mug: a lamp goes before it."""
    chosen = Selected()
    chosen.add(traits(np.stack([at(0.8)]), [1]))
    vectors = np.stack([at(0.8), at(1.2, 2)])
    assert mmr(np.array([1.0, 0.8]), traits(vectors, [1, 2]), chosen, 2, 0.5).tolist() == [1, 0]
    assert mmr(np.array([1.0, 0.8]), traits(vectors, [1, 2]), Selected(), 2, 0.5).tolist() == [0, 1]


def test_without_vectors_likeness_is_that_of_categories() -> None:
    worth = np.array([1.0, 0.9, 0.5])
    assert mmr(worth, traits(None, [1, 1, 2]), Selected(), 3, 0.5).tolist() == [0, 2, 1]


def test_diversity_and_caps_hold_together(shop: Catalogue) -> None:
    found = answer(shop, user(), 6, diversity=0.3, max_per_category=2)
    assert sorted(item_id[0] for item_id in found) == ["l", "l", "m", "m", "v", "v"]
    worth, same = np.array([1.0, 0.9, 0.5]), traits(None, [1, 1, 1])
    chosen = Selected()
    chosen.add(traits(None, [1]))
    assert mmr(worth, same, chosen, 3, 0.5, most=1).tolist() == []
    assert top_by_score(worth, same, chosen, 3, 2).tolist() == [0]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), max_size=30), st.integers(1, 4), st.integers(1, 30))
def test_a_cap_keeps_the_best_of_each_category(rows: list[tuple[int, float]], most: int, places: int) -> None:
    worth = np.array([score for _, score in rows], np.float64)
    found = top_by_score(worth, traits(None, [kind for kind, _ in rows]), Selected(), places, most).tolist()
    counts: dict[int, int] = {}
    expected = []
    for nth in sorted(range(len(rows)), key=lambda nth: -rows[nth][1]):
        kind = rows[nth][0]
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= most:
            expected.append(nth)
    assert found == expected[:places]


# --- sources and budget ---


def test_the_category_of_the_page_goes_first_where_not_all_is_personal(shop: Catalogue) -> None:
    for item_id, score in (("m0", 9.0), ("v1", 3.0), ("l1", 1.0)):
        shop.trending.score(item_id, score)
    context = PageContext(category="vases")
    assert answer(shop, None, 2, context=context) == ["v1", "m0"]
    assert answer(shop, user(seen=("l0",), has_vector=False), 3, context=context) == ["v1", "l1", "m0"]
    assert answer(shop, None, 2, context=PageContext(category="no such")) == ["m0", "v1"]


def test_over_the_budget_an_answer_goes_without_diversity_and_says_so(shop: Catalogue) -> None:
    spent = Budget(1.0, time.perf_counter_ns() - 2_000_000)
    context = RequestContext(RecommendRequest(6, diversity=0.9, max_per_category=2), user(), budget=spent)
    found = ids(asyncio.run(select(shop, context)))
    assert found == ["m0", "m1", "l0", "l1", "v0", "v1"], "a cap is a promise, diversity is not"
    assert context.trace.degradations == [Degradation.DIVERSITY_SKIPPED]
    context = RequestContext(RecommendRequest(6), user(seen=("m0",), has_vector=False), budget=spent)
    groups = asyncio.run(select(shop, context))
    assert {group.source for group in groups} == {Source.NEWEST}
    assert context.trace.degradations == [Degradation.CATEGORIES_SKIPPED]


def test_a_step_is_named_once() -> None:
    trace = Trace()
    trace.degrade(Degradation.DIVERSITY_SKIPPED)
    trace.degrade(Degradation.DIVERSITY_SKIPPED)
    assert trace.degradations == ["diversity_skipped"]


def test_a_plain_request_asks_for_no_more_than_it_has_places(shop: Catalogue) -> None:
    """Over-fetch only when a stage needs it."""
    asked_for: list[int] = []
    search = shop.index.search

    def counted(vector: Any, wanted: int, spare: int = 0, rows: Any = None) -> Any:
        asked_for.append(wanted + spare)
        return search(vector, wanted, spare, rows)

    shop.index.search = counted  # type: ignore[method-assign]
    answer(shop, user(), 5)
    answer(shop, user(), 5, diversity=0.5)
    assert asked_for == [5, 15]


# --- where rules touch an answer ---


def test_rules_block_weigh_and_place_at_their_points_of_the_order(shop: Catalogue) -> None:
    put(shop, "new", at(1.5), "mugs", listed_ms=9)
    rules: list[dict[str, Any]] = [
        {"rule_id": "r-block", "action": "block", "filter": 'category = "vases"'},
        {"rule_id": "r-name", "action": "block", "items": ["m1"]},
        {"rule_id": "r-boost", "action": "boost", "factor": 2, "filter": 'category = "lamps"'},
        {"rule_id": "r-pin", "action": "pin", "position": 1, "items": ["new", "v0"]},
    ]
    context = RequestContext(RecommendRequest(3), user())
    active = ActiveRules(rule_set_of([rule_of(rule) for rule in rules], None), "request")
    groups = asyncio.run(select(shop, context, active))
    assert ids(groups) == ["new", "l0", "l1"], "the boosted lamps are nearer now than the mugs"
    assert [(group.source, list(group.notes)) for group in groups] == [
        (Source.PINNED, [b',"rules":["r-pin"]']),
        (Source.PERSONAL, [b',"rules":["r-boost"]'] * 2),
    ]
    assert context.trace.rules == ["r-block", "r-name", "r-boost", "r-pin"]
