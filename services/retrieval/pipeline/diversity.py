"""Selects and orders candidates, with caps per category and with diversity.

Diversity is maximal marginal relevance (Carbonell and Goldstein 1998): each next choice is the candidate with the best
score less its similarity to the most similar item already selected.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.retrieval.items.interface import ItemFeatures, Scores

Positions = NDArray[np.int64]  # of candidates, in the order in which they are chosen


@dataclass(slots=True)
class Selected:
    """The items selected so far, which later choices take into account."""

    per_category: dict[int, int] = field(default_factory=dict)
    features: list[ItemFeatures] = field(default_factory=list)

    def add(self, features: ItemFeatures) -> None:
        """Add the features of newly selected items."""
        self.features.append(features)
        for category in features.categories.tolist():
            self.per_category[category] = self.per_category.get(category, 0) + 1


def top_by_score(
    scores: Scores, features: ItemFeatures, selected: Selected, places: int, most: int | None
) -> Positions:
    """The *places* with the best scores, best first, with at most *most* of a category in the whole answer."""
    order = np.argsort(-scores, kind="stable")
    if most is None:
        return order[:places]
    return order[_within(features.categories[order], selected, most)][:places]


def mmr(
    scores: Scores, features: ItemFeatures, selected: Selected, places: int, diversity: float, most: int | None = None
) -> Positions:
    """As ``top_by_score``, each by ``(1 - diversity) score - diversity similarity`` to the most similar one before it.

    *scores* (n,) are from 0 to 1. Costs n² similarities, and *places* passes over n numbers.
    """
    share = np.float32(diversity)
    gain = (np.float32(1) - share) * scores.astype(np.float32)
    after = gain - share * _similarity(features, features)  # (n, n): gains once a row's item is chosen
    np.fill_diagonal(after, -np.inf)
    value = _value_after(selected, features, gain, share)
    room = _Room(features.categories, selected, most, value)
    order: list[int] = []
    while len(order) < min(places, len(value)):
        best = int(value.argmax())
        if value[best] == -np.inf:
            break
        if order or selected.features:
            np.minimum(value, after[best], out=value)
        else:
            value[:] = after[best]
        order.append(best)
        room.take(best)
    return np.array(order, np.int64)


def _value_after(selected: Selected, features: ItemFeatures, gain: Scores, share: np.float32) -> Scores:
    """Each candidate's gain less its similarity to the items selected before."""
    if not selected.features:
        return gain.copy()
    like = [_similarity(before, features).max(axis=0, initial=-1.0) for before in selected.features]
    value: Scores = gain - share * np.max(like, axis=0)
    return value


def _similarity(some: ItemFeatures, others: ItemFeatures) -> Scores:
    """(some, others): cosines of vectors; without vectors 1 within a category, else 0."""
    if some.vectors is not None and others.vectors is not None:
        cosines: Scores = some.vectors @ others.vectors.T
        return cosines
    alike: Scores = (some.categories[:, None] == others.categories[None, :]).astype(np.float32)
    return alike


def _within(categories: NDArray[np.uint64], selected: Selected, most: int) -> NDArray[np.bool_]:
    """Whether each of *categories*, taken in this order, still fits under the cap *most*."""
    kinds, codes = np.unique(categories, return_inverse=True)
    before = np.array([selected.per_category.get(kind, 0) for kind in kinds.tolist()], np.int64)
    by_kind = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_kind], np.arange(len(kinds)))
    rank = np.empty(len(codes), np.int64)
    rank[by_kind] = np.arange(len(codes)) - starts[codes[by_kind]]
    fits: NDArray[np.bool_] = rank + before[codes] < most
    return fits


class _Room:
    """Closes a category in *value* once it is full."""

    def __init__(self, categories: NDArray[np.uint64], selected: Selected, most: int | None, value: Scores) -> None:
        self._categories = categories
        self._most = most
        self._value = value
        self._counts = dict(selected.per_category)
        if most is not None:
            for category in np.unique(categories).tolist():
                self._close_if_full(category)

    def take(self, place: int) -> None:
        """Count the category of the candidate at *place*, which was selected."""
        if self._most is not None:
            category = int(self._categories[place])
            self._counts[category] = self._counts.get(category, 0) + 1
            self._close_if_full(category)

    def _close_if_full(self, category: int) -> None:
        assert self._most is not None
        if self._counts.get(category, 0) >= self._most:
            self._value[self._categories == category] = -np.inf
