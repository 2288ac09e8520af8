"""The seam after the sources: their candidates as one pool, and a re-ranker that decides which of them come first."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from nearline.errors import Unavailable
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields, ItemVector
from nearline.rules import rule_of
from nearline.user_documents import UserDocument
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.items.interface import Scores
from services.retrieval.merchandising.active_rules import ActiveRules
from services.retrieval.merchandising.effects import rule_set_of
from services.retrieval.pipeline.pool import Pool
from services.retrieval.pipeline.selection import select
from services.retrieval.request import Budget, RecommendRequest, RequestContext
from services.retrieval.result import Degradation, Group, Source
from tests.support.fakes import ExactGraph

NONE = np.empty(0, np.uint64)
PERSONAL = 12  # items with vectors near the user's, i0 the nearest
POPULAR = ("i30", "i31")


def unit(nth: int) -> Any:
    return np.array([np.cos(nth / 40), np.sin(nth / 40), 0, 0], np.float32)


@pytest.fixture
def shop() -> Catalogue:
    """Forty items in three categories, i0 nearest to the user; two of the farthest are popular."""
    catalogue = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)))
    for nth in range(40):
        shown = ItemFields(f"Item {nth}", ("mugs", "lamps", "vases")[nth % 3], listed_ms=nth)
        catalogue.apply(ItemVector(f"i{nth}", 1, shown, unit(nth), unit(nth).astype(np.float16), "d"))
    for nth, item_id in enumerate(POPULAR):
        catalogue.trending.score(item_id, 10.0 - nth)
    return catalogue


def user(*seen: str, has_vector: bool = True) -> UserDocument:
    hashes = np.array(sorted(map(hash64, seen)), np.uint64)
    return UserDocument(unit(0) if has_vector else None, 7, 9, "e-1", 1_000, 1_001, hashes, NONE, NONE)


@dataclass
class ByNumber:
    """Scores by the number in an item's id, the greatest first, and keeps the pools that came."""

    pools: list[Pool] = field(default_factory=list)

    async def score(self, pool: Pool, context: RequestContext) -> Scores:
        self.pools.append(pool)
        return np.array([float(item_id[1:]) for item_id in pool.candidates.item_ids])


class Away:
    """A re-ranker that can't be asked."""

    async def score(self, pool: Pool, context: RequestContext) -> Scores:
        raise Unavailable("no ranker here")


def ids(groups: list[Group]) -> list[str]:
    return [item_id for group in groups for item_id in group.items.item_ids]


def test_the_answer_is_in_the_rerankers_order_and_holds_its_scores(shop: Catalogue) -> None:
    reranker = ByNumber()
    groups = asyncio.run(select(shop, RequestContext(RecommendRequest(4), user()), None, reranker))
    (pool,) = reranker.pools
    assert pool.candidates.item_ids == [f"i{nth}" for nth in range(12)], "k and twice as many more, nearest first"
    assert ids(groups) == ["i11", "i10", "i9", "i8"]
    assert [score for group in groups for score in group.items.scores] == [11, 10, 9, 8]


def test_candidates_of_several_sources_become_one_pool_each_with_its_sources_name(shop: Catalogue) -> None:
    reranker = ByNumber()
    context = RequestContext(RecommendRequest(2), user(has_vector=False))
    groups = asyncio.run(select(shop, context, None, reranker))
    (pool,) = reranker.pools
    assert dict(zip(pool.candidates.item_ids, pool.sources, strict=True)) == {
        **dict.fromkeys(POPULAR, Source.TRENDING),
        **dict.fromkeys(("i39", "i38", "i37", "i36"), Source.NEWEST),
    }
    assert len(pool.features.categories) == len(pool) == 6
    assert [(group.source, group.items.item_ids) for group in groups] == [(Source.NEWEST, ["i39", "i38"])]


def test_what_is_excluded_is_not_in_the_pool(shop: Catalogue) -> None:
    reranker = ByNumber()
    asyncio.run(select(shop, RequestContext(RecommendRequest(4), user("i3", "i11")), None, reranker))
    assert {"i3", "i11"}.isdisjoint(reranker.pools[0].candidates.item_ids)


def test_caps_and_boosts_hold_after_the_reranker(shop: Catalogue) -> None:
    capped = RequestContext(RecommendRequest(3, max_per_category=1), user())
    assert ids(asyncio.run(select(shop, capped, None, ByNumber()))) == ["i8", "i7", "i6"]
    boost = rule_of({"rule_id": "r", "action": "boost", "factor": 9, "items": ["i2"]})
    rules = ActiveRules(rule_set_of([boost], None), "request")
    assert ids(asyncio.run(select(shop, RequestContext(RecommendRequest(3), user()), rules, ByNumber())))[0] == "i2"


@pytest.mark.parametrize("is_late", [True, False])
def test_without_its_reranker_an_answer_is_as_it_was_and_says_so(shop: Catalogue, is_late: bool) -> None:
    plain = ids(asyncio.run(select(shop, RequestContext(RecommendRequest(4), user()))))
    spent = Budget(1.0, time.perf_counter_ns() - 2_000_000) if is_late else None
    context = RequestContext(RecommendRequest(4), user(), budget=spent)
    found = ids(asyncio.run(select(shop, context, None, ByNumber() if is_late else Away())))
    assert found == plain == ["i0", "i1", "i2", "i3"]
    assert context.trace.degradations == [Degradation.RERANKER_SKIPPED]


def test_a_reranker_that_scores_too_few_is_an_error(shop: Catalogue) -> None:
    class Short:
        async def score(self, pool: Pool, context: RequestContext) -> Scores:
            return np.zeros(1)

    with pytest.raises(ValueError, match="1 scores came for 12 candidates"):
        asyncio.run(select(shop, RequestContext(RecommendRequest(4), user()), None, Short()))
