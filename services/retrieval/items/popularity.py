"""Leaderboards that are always sorted: trending overall, trending per category, and the newest items.

An item's score may arrive from the log before, after or without the item; an item ranks once it has a score and is
available.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sortedcontainers import SortedList

_LEAST = 2.0**-16  # of the most popular item's score: anything lower counts as 0


class Leaderboard:
    """Ids by score, highest first; equal scores by id."""

    def __init__(self) -> None:
        self._order: SortedList = SortedList()  # (-score, id)
        self._scores: dict[str, float] = {}

    def __len__(self) -> int:
        """How many items rank."""
        return len(self._scores)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """``(id, score)`` from the top; must not change while iterated."""
        return ((item_id, -negated) for negated, item_id in self._order)

    def among(self, item_ids: Iterable[str]) -> Iterator[tuple[str, float]]:
        """``(id, score)`` of those of *item_ids* that rank, from the top."""
        scores = self._scores
        return _in_order([(-scores[item_id], item_id) for item_id in item_ids if item_id in scores])

    def get(self, item_id: str) -> float | None:
        """The score of *item_id*, if it ranks."""
        return self._scores.get(item_id)

    def put(self, item_id: str, score: float) -> None:
        """Set the score of *item_id*."""
        known = self._scores.get(item_id)
        if known == score:
            return
        if known is not None:
            self._order.remove((-known, item_id))
        self._scores[item_id] = score
        self._order.add((-score, item_id))

    def drop(self, item_id: str) -> None:
        """Remove *item_id*, if it ranks."""
        score = self._scores.pop(item_id, None)
        if score is not None:
            self._order.remove((-score, item_id))


class ItemList:
    """Items in a given order, each with a score."""

    def __init__(self, scored: Iterable[tuple[str, float]]) -> None:
        self._scored = dict(scored)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """``(id, score)``, in order."""
        return iter(self._scored.items())

    def among(self, item_ids: Iterable[str]) -> Iterator[tuple[str, float]]:
        """``(id, score)`` of those of *item_ids* that are listed, in order."""
        asked = set(item_ids)
        return (pair for pair in self._scored.items() if pair[0] in asked)


class MergedLeaderboards:
    """Several leaderboards, merged by score; no item is in two of them."""

    def __init__(self, rankings: Sequence[Leaderboard]) -> None:
        self._rankings = rankings

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """``(id, score)`` from the top; they must not change while iterated."""
        return heapq.merge(*self._rankings, key=lambda ranked: (-ranked[1], ranked[0]))

    def among(self, item_ids: Iterable[str]) -> Iterator[tuple[str, float]]:
        """``(id, score)`` of those of *item_ids* that rank, from the top."""
        found = ((ranking.get(item_id), item_id) for item_id in item_ids for ranking in self._rankings)
        return _in_order([(-score, item_id) for score, item_id in found if score is not None])


def _in_order(negated: list[tuple[float, str]]) -> Iterator[tuple[str, float]]:
    """*negated* pairs in order; a heap, because often only the first few are used."""
    heapq.heapify(negated)
    while negated:
        score, item_id = heapq.heappop(negated)
        yield item_id, -score


class Trending:
    """Available items by popularity, overall and within each category."""

    def __init__(self) -> None:
        self._scores: dict[str, float] = {}
        self._category_of: dict[str, str] = {}
        self._all = Leaderboard()
        self._by_category: dict[str, Leaderboard] = {}

    def score(self, item_id: str, score: float) -> None:
        """Set the item's popularity."""
        self._scores[item_id] = score
        if item_id in self._category_of:
            self._rank(item_id)

    def unscore(self, item_id: str) -> None:
        """Remove the item's popularity."""
        self._unrank(item_id)
        self._scores.pop(item_id, None)

    def scores(self) -> Mapping[str, float]:
        """The popularity of every item that has one, available or not."""
        return self._scores

    def show(self, item_id: str, category: str) -> None:
        """Mark the item as available, in *category*."""
        if self._category_of.get(item_id) == category:
            return
        self._unrank(item_id)
        self._category_of[item_id] = category
        if item_id in self._scores:
            self._rank(item_id)

    def hide(self, item_id: str) -> None:
        """Mark the item as unavailable; its score is kept in case it returns."""
        self._unrank(item_id)
        self._category_of.pop(item_id, None)

    def top(self) -> Leaderboard:
        """``(id, score)`` of every ranked item, most popular first."""
        return self._all

    def popularity(self, item_ids: Sequence[str]) -> NDArray[np.float64]:
        """The popularity of each of *item_ids* relative to the most popular item: 0-1, on a logarithmic scale.

        1 is as popular, 0.5 a 256th of it, 0 a 65,536th or less. Only ratios of scores count, so the time to which
        decayed scores refer makes no difference.
        """
        most = next(iter(self._all), ("", 0.0))[1]
        if most <= 0:
            return np.zeros(len(item_ids))
        scores = self._scores
        ratios = np.array([scores.get(item_id, 0.0) for item_id in item_ids], np.float64) / most
        shares: NDArray[np.float64] = np.clip(1.0 + np.log2(np.maximum(ratios, _LEAST)) / -np.log2(_LEAST), 0.0, 1.0)
        return shares

    def top_of(self, categories: Iterable[str]) -> MergedLeaderboards:
        """``(id, score)`` of the ranked items of *categories* together, most popular first."""
        return MergedLeaderboards([self._by_category[c] for c in dict.fromkeys(categories) if c in self._by_category])

    def _rank(self, item_id: str) -> None:
        score, category = self._scores[item_id], self._category_of[item_id]
        self._all.put(item_id, score)
        self._by_category.setdefault(category, Leaderboard()).put(item_id, score)

    def _unrank(self, item_id: str) -> None:
        category = self._category_of.get(item_id)
        if category is None:
            return
        self._all.drop(item_id)
        ranking = self._by_category.get(category)
        if ranking is not None:
            ranking.drop(item_id)
            if not len(ranking):
                del self._by_category[category]
