"""What changes in the catalogue, one after the other and seeded; and what was true after each of them.

Change *j* gives one item a new vector of the recipe. The first *items* changes list the catalogue, the next *items*
replace all of it in a random order, and so on. So whoever notes how many changes an index had taken in when it
answered can be told afterwards what the exact answer was at that moment, and nothing disturbs what is timed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.index_vectors import TowerVectors
from nearline.item_vectors import Vectors

_TIED = 1e-6  # rows as near as the last true one


class Changes:
    """The endless sequence of changes of a catalogue of *items*."""

    def __init__(self, source: TowerVectors, seed: int, items: int, dimension: int) -> None:
        self.items = items
        self._cycle = cache(lambda number: self._draw(source, (seed, number), dimension))

    def cycle(self, number: int) -> tuple[NDArray[np.int64], Vectors]:
        """Items in the order in which cycle *number* changes them, and their new vectors; it is kept."""
        return self._cycle(number)

    def draw_ahead(self, change: int) -> None:
        """Draw all up to *change* now: half a second for a cycle of 100,000, which nobody should wait for later."""
        for number in range(change // self.items + 1):
            self._cycle(number)

    def of(self, change: int) -> tuple[int, Vectors]:
        """The item and its new vector."""
        order, vectors = self._cycle(change // self.items)
        place = change % self.items
        return int(order[place]), vectors[place]

    def _draw(self, source: TowerVectors, seed: tuple[int, int], dimension: int) -> tuple[NDArray[np.int64], Vectors]:
        random = np.random.default_rng(seed)
        order = random.permutation(self.items) if seed[1] else np.arange(self.items)
        return order, source.draw(random, self.items, dimension=dimension)


class ReplayedVectors:
    """The vectors of all items after any number of changes; it only goes forward."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self.vectors: Vectors = changes.cycle(0)[1].copy()  # by item
        self._done = changes.items

    def to(self, change: int) -> Vectors:
        """The vectors after *change* changes; not before the catalogue is listed."""
        if change < self._done:
            raise ValueError(f"{change} changes were asked for, {self._done} are replayed already")
        while self._done < change:
            number, place = divmod(self._done, self._changes.items)
            order, vectors = self._changes.cycle(number)
            last = min(self._changes.items, place + change - self._done)
            self.vectors[order[place:last]] = vectors[place:last]
            self._done += last - place
        return self.vectors


@dataclass(frozen=True, slots=True)
class ReplayAnswer:
    """An answer: which query, after how many changes, and the items by the number of results that were asked for."""

    change: int
    query: int
    found: dict[int, list[int]]  # k -> item numbers


def recall(scores: Vectors, found: Sequence[int], k: int) -> float:
    """Share of the *k* best of *scores* that *found* holds; what ties with the last counts."""
    last = np.partition(scores, len(scores) - k)[len(scores) - k]
    return float((scores[list(found)] >= last - _TIED).sum()) / k


def judge(changes: Changes, queries: Vectors, answers: Sequence[ReplayAnswer]) -> dict[int, list[float]]:
    """Recall of each answer against exact search over what was live when it was given, by k."""
    replay, recalls = ReplayedVectors(changes), dict[int, list[float]]()
    for seen in sorted(answers, key=lambda seen: seen.change):
        scores = replay.to(seen.change) @ queries[seen.query]
        for k, found in seen.found.items():
            recalls.setdefault(k, []).append(recall(scores, found, k))
    return recalls


def lowest_mean(values: Sequence[float], window: int) -> float | None:
    """The lowest mean of *window* values that follow each other; of all where there are fewer; ``None`` of none."""
    if not len(values):
        return None
    sums = np.concatenate(([0.0], np.cumsum(values)))
    width = min(window, len(values))
    return float((sums[width:] - sums[:-width]).min() / width)
