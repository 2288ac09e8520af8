"""Caps by category and diversity: which of the candidates are chosen, and in what order.

Diversity is maximal marginal relevance (Carbonell and Goldstein 1998): again and again the candidate is chosen that is
worth most, less its likeness to the one chosen before that is most like it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.retrieval.items.interface import Traits

Order = NDArray[np.int64]
Numbers = NDArray[np.floating[Any]]


@dataclass(slots=True)
class Chosen:
    """What an answer holds so far, as later choices look at it."""

    per_category: dict[int, int] = field(default_factory=dict)
    traits: list[Traits] = field(default_factory=list)

    def add(self, traits: Traits) -> None:
        """These were chosen too."""
        self.traits.append(traits)
        for category in traits.categories.tolist():
            self.per_category[category] = self.per_category.get(category, 0) + 1


def by_worth(worth: Numbers, traits: Traits, chosen: Chosen, places: int, most: int | None) -> Order:
    """The *places* that are worth most, best first, with at most *most* of a category in the whole answer."""
    order = np.argsort(-worth, kind="stable")
    if most is None:
        return order[:places]
    return order[_within(traits.categories[order], chosen, most)][:places]


def diverse(
    worth: Numbers, traits: Traits, chosen: Chosen, places: int, diversity: float, most: int | None = None
) -> Order:
    """As ``by_worth``, each chosen for ``(1 - diversity) worth - diversity likeness`` to the chosen most like it.

    *worth* is (n,), from 0 to 1; takes n² likenesses and *places* looks at n numbers.
    """
    share = np.float32(diversity)
    gain = (np.float32(1) - share) * worth.astype(np.float32)
    after = gain - share * _likeness(traits, traits)  # (n, n): what each is good for once the one of the row is chosen
    np.fill_diagonal(after, -np.inf)
    value = _value_beside(chosen, traits, gain, share)
    room = _Room(traits.categories, chosen, most, value)
    order: list[int] = []
    while len(order) < min(places, len(value)):
        best = int(value.argmax())
        if value[best] == -np.inf:
            break
        if order or chosen.traits:
            np.minimum(value, after[best], out=value)
        else:
            value[:] = after[best]
        order.append(best)
        room.take(best)
    return np.array(order, np.int64)


def _value_beside(chosen: Chosen, traits: Traits, gain: Numbers, share: np.float32) -> Numbers:
    """What each is good for in view of what was chosen before; its gain if nothing was."""
    if not chosen.traits:
        return gain.copy()
    like = [_likeness(before, traits).max(axis=0, initial=-1.0) for before in chosen.traits]
    value: Numbers = gain - share * np.max(like, axis=0)
    return value


def _likeness(some: Traits, others: Traits) -> Numbers:
    """(some, others): cosines of vectors; where there are none, 1 within a category and 0 beyond it."""
    if some.vectors is not None and others.vectors is not None:
        cosines: Numbers = some.vectors @ others.vectors.T
        return cosines
    alike: Numbers = (some.categories[:, None] == others.categories[None, :]).astype(np.float32)
    return alike


def _within(categories: NDArray[np.uint64], chosen: Chosen, most: int) -> NDArray[np.bool_]:
    """Whether each of *categories*, in the order in which they would come, still finds room."""
    kinds, codes = np.unique(categories, return_inverse=True)
    before = np.array([chosen.per_category.get(kind, 0) for kind in kinds.tolist()], np.int64)
    by_kind = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_kind], np.arange(len(kinds)))
    rank = np.empty(len(codes), np.int64)
    rank[by_kind] = np.arange(len(codes)) - starts[codes[by_kind]]
    fits: NDArray[np.bool_] = rank + before[codes] < most
    return fits


class _Room:
    """Closes a category in *value* once it is full."""

    def __init__(self, categories: NDArray[np.uint64], chosen: Chosen, most: int | None, value: Numbers) -> None:
        self._categories = categories
        self._most = most
        self._value = value
        self._counts = dict(chosen.per_category)
        if most is not None:
            for category in np.unique(categories).tolist():
                self._close_if_full(category)

    def take(self, place: int) -> None:
        """*place* was chosen."""
        if self._most is not None:
            category = int(self._categories[place])
            self._counts[category] = self._counts.get(category, 0) + 1
            self._close_if_full(category)

    def _close_if_full(self, category: int) -> None:
        assert self._most is not None
        if self._counts.get(category, 0) >= self._most:
            self._value[self._categories == category] = -np.inf
