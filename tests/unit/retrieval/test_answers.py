"""Answers: available items that the user has not seen, filled up source by source, at most k."""

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from nearline.errors import BadInput, SpaceMismatch
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields, ItemVector
from nearline.user_documents import UserDocument
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import IndexLimits, LiveIndex
from services.retrieval.items.popularity import Leaderboard, Trending
from services.retrieval.items.printed import render
from services.retrieval.pipeline.selection import select
from services.retrieval.request import ExcludeSeen, RecommendRequest, RequestContext
from services.retrieval.result import Group, Source
from tests.support.fakes import ExactGraph


def vector(angle: float) -> NDArray[np.float32]:
    """A unit vector in the plane; the smaller the angle, the nearer to ``vector(0)``."""
    return np.array([np.cos(angle), np.sin(angle), 0, 0], np.float32)


def catalogue() -> Catalogue:
    return Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity), IndexLimits()))


def item(item_id: str, angle: float = 0.0, version: int = 1, **shown: object) -> ItemVector:
    fields = {"title": f"Title of {item_id}", "category": "mugs", "listed_ms": 1_000} | shown
    return ItemVector(item_id, version, ItemFields(**fields), vector(angle), vector(angle).astype(np.float16), "d")  # type: ignore[arg-type]


def retired(item_id: str, version: int) -> ItemVector:
    return ItemVector(item_id, version, ItemFields("gone"), None, vector(0).astype(np.float16), "d", retired_ms=5)


def hashes(*item_ids: str) -> NDArray[np.uint64]:
    return np.array(sorted(map(hash64, item_ids)), np.uint64)


def user(*, seen: tuple[str, ...] = (), purchased: tuple[str, ...] = (), has_vector: bool = True) -> UserDocument:
    return UserDocument(
        vector=vector(0) if has_vector else None,
        vector_version=7,
        history_version=9,
        newest_event_id="e-1",
        as_of_ms=1_000,
        stored_ms=1_001,
        seen=hashes(*seen),
        purchased=hashes(*purchased),
        events=hashes("e-1"),
    )


def groups_of(shop: Catalogue, document: UserDocument | None, k: int, **asked: Any) -> list[Group]:
    return asyncio.run(select(shop, RequestContext(RecommendRequest(k, **asked), document)))


def chosen(
    shop: Catalogue, document: UserDocument | None, k: int = 10, exclude: ExcludeSeen = ExcludeSeen.ALL, **asked: Any
) -> list[tuple[str, str]]:
    """``(source, item_id)`` of an answer, in order."""
    found = []
    for group in groups_of(shop, document, k, exclude_seen=exclude, **asked):
        shown = [orjson.loads(printed[1:] + b"0}")["item_id"] for printed in group.items.printed]
        assert shown == group.items.item_ids
        assert len(shown) == len(group.items.scores)
        found += [(group.source.value, item_id) for item_id in shown]
    return found


@pytest.fixture
def shop() -> Catalogue:
    """Five mugs and three lamps, a to h by distance from the user; f, g and b are popular, h is the newest."""
    shop = catalogue()
    for nth, item_id in enumerate("abcde"):
        shop.apply(item(item_id, nth * 0.1))
    for nth, item_id in enumerate("fgh"):
        shop.apply(item(item_id, 0.5 + nth * 0.1, category="lamps", listed_ms=2_000 + nth))
    for item_id, score in {"f": 30.0, "g": 20.0, "b": 10.0}.items():
        shop.trending.score(item_id, score)
    return shop


def test_a_known_user_gets_the_nearest_items(shop: Catalogue) -> None:
    assert chosen(shop, user(), 3) == [("personal", "a"), ("personal", "b"), ("personal", "c")]


def test_seen_items_are_left_out_and_k_others_come_instead(shop: Catalogue) -> None:
    assert chosen(shop, user(seen=("a", "c")), 3) == [("personal", "b"), ("personal", "d"), ("personal", "e")]


def test_only_purchases_are_left_out_when_asked(shop: Catalogue) -> None:
    document = user(seen=("a", "c"), purchased=("c",))
    assert chosen(shop, document, 2, ExcludeSeen.PURCHASE) == [("personal", "a"), ("personal", "b")]
    assert chosen(shop, document, 3, ExcludeSeen.NONE) == [("personal", "a"), ("personal", "b"), ("personal", "c")]


def test_a_long_history_of_the_nearest_items_leaves_nothing_open() -> None:
    """More seen items than one search allows for: a second search allows for all of them."""
    shop = catalogue()
    for nth in range(300):
        shop.apply(item(f"i{nth:03}", nth * 0.005))
    document = user(seen=tuple(f"i{nth:03}" for nth in range(200)))
    assert chosen(shop, document, 50) == [("personal", f"i{nth}") for nth in range(200, 250)]


def test_an_unknown_user_gets_trending_then_newest(shop: Catalogue) -> None:
    found = chosen(shop, None, 5)
    assert found[:3] == [("trending", "f"), ("trending", "g"), ("trending", "b")]
    assert found[3:] == [("newest", "h"), ("newest", "a")]


def test_a_user_without_a_vector_gets_trending_of_his_categories_first(shop: Catalogue) -> None:
    found = chosen(shop, user(seen=("a", "c", "d"), has_vector=False), 3)
    assert found == [("trending_category", "b"), ("trending", "f"), ("trending", "g")]


def test_the_sources_follow_one_another_and_no_item_comes_twice(shop: Catalogue) -> None:
    found = chosen(shop, user(seen=("f",), has_vector=False), 20)
    assert [source for source, _ in found] == ["trending_category", "trending", *["newest"] * 5]
    assert sorted(item_id for _, item_id in found) == list("abcdegh")


def test_when_all_is_seen_there_is_nothing_to_recommend(shop: Catalogue) -> None:
    assert chosen(shop, user(seen=tuple("abcdefgh"))) == []


def test_an_empty_catalogue_gives_an_empty_answer() -> None:
    assert chosen(catalogue(), None) == []
    assert chosen(catalogue(), user(seen=("x",))) == []


@pytest.mark.parametrize("change", [retired("a", 2), item("a", version=2, available=False)])
def test_a_withdrawn_item_leaves_every_source_at_once(shop: Catalogue, change: ItemVector) -> None:
    shop.trending.score("a", 99.0)
    shop.apply(change)
    for document in (None, user(), user(has_vector=False)):
        assert "a" not in [item_id for _, item_id in chosen(shop, document, 20)]
    assert len(shop) == 7
    shop.apply(item("a", version=3))
    assert chosen(shop, None, 1) == [("trending", "a")]


def test_a_purged_item_is_forgotten(shop: Catalogue) -> None:
    shop.purge("a")
    shop.purge("never known")
    assert chosen(shop, user(), 1) == [("personal", "b")]
    assert shop.apply(item("a", version=1))


def test_the_newest_version_wins_in_any_order(shop: Catalogue) -> None:
    assert shop.apply(item("z", 3.0, version=5))
    assert not shop.apply(item("z", 0.0, version=4))
    assert chosen(shop, user(), 20)[-1] == ("personal", "z")
    assert shop.apply(retired("z", 6))
    assert not shop.apply(item("z", 0.0, version=5))
    assert shop.get("z") is None


def test_a_new_vector_moves_the_item_and_new_words_do_not(shop: Catalogue) -> None:
    before = shop.get("e")
    assert before is not None
    shop.apply(item("e", 0.4, version=2, title="New words", category="lamps", price=2.5))
    after = shop.get("e")
    assert after is not None
    assert after.slot == before.slot
    assert b"New words" in groups_of(shop, None, 8)[-1].items.printed[-1]
    shop.apply(item("e", -0.01, version=3))
    assert chosen(shop, user(), 2) == [("personal", "a"), ("personal", "e")]
    assert len(shop) == 8


def test_a_vector_of_another_dimension_is_refused_with_both_numbers(shop: Catalogue) -> None:
    wrong = ItemVector("a", 9, ItemFields("wrong"), np.ones(3, np.float32), np.ones(3, np.float16), "d")
    with pytest.raises(SpaceMismatch, match="3 dimensions; the index has 4"):
        shop.apply(wrong)
    broken = ItemVector("a", 9, ItemFields("wrong"), np.full(4, np.nan, np.float32), np.ones(4, np.float16), "d")
    with pytest.raises(BadInput, match="not finite"):
        shop.apply(broken)
    assert chosen(shop, user(), 1) == [("personal", "a")]


def test_a_changed_category_moves_the_item_between_rankings(shop: Catalogue) -> None:
    shop.apply(item("f", 0.5, version=2, category="mugs"))
    found = chosen(shop, user(seen=("a",), has_vector=False), 2)
    assert found == [("trending_category", "f"), ("trending_category", "b")]


def test_an_item_that_is_not_trending_any_more_is_not_in_trending(shop: Catalogue) -> None:
    shop.trending.unscore("f")
    assert chosen(shop, None, 1) == [("trending", "g")]


def test_popularity_may_come_before_the_item() -> None:
    shop = catalogue()
    shop.trending.score("late", 5.0)
    assert chosen(shop, None) == []
    shop.apply(item("late"))
    assert chosen(shop, None) == [("trending", "late")]


def test_several_categories_are_ranked_together() -> None:
    trending = Trending()
    for item_id, category, score in (("a", "x", 3.0), ("b", "y", 5.0), ("c", "x", 4.0), ("d", "z", 9.0)):
        trending.show(item_id, category)
        trending.score(item_id, score)
    assert [item_id for item_id, _ in trending.top_of(["x", "y", "x", "none"])] == ["b", "c", "a"]


def test_a_ranking_follows_its_scores() -> None:
    ranking = Leaderboard()
    for item_id, score in (("a", 1.0), ("b", 2.0), ("c", 2.0), ("a", 3.0), ("a", 3.0)):
        ranking.put(item_id, score)
    assert list(ranking) == [("a", 3.0), ("b", 2.0), ("c", 2.0)]
    ranking.drop("b")
    ranking.drop("b")
    assert list(ranking) == [("a", 3.0), ("c", 2.0)]
    assert len(ranking) == 2


def test_favourite_categories_are_those_of_most_seen_items(shop: Catalogue) -> None:
    seen = hashes("a", "f", "g", "unknown").tolist()
    assert shop.favourite_categories(seen) == ["lamps", "mugs"]
    assert shop.favourite_categories(seen, most=1) == ["lamps"]
    assert shop.favourite_categories([]) == []


def test_a_rendered_item_is_valid_json_for_any_text() -> None:
    start = render('q"\\é', ItemFields('He said "hi",\n{"x":1}', "ca,te", "fr", None, "b"))
    printed = orjson.loads(start[1:] + b"0.5}")
    assert printed["item_id"] == 'q"\\é'
    assert printed["title"] == 'He said "hi",\n{"x":1}'
    assert printed["price"] is None


def test_sources_are_named_as_agreed() -> None:
    ranked = ["personal", "trending_category", "trending", "newest"]
    assert [source.value for source in Source] == [*ranked, "exploration", "pinned"]
