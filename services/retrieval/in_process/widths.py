"""How wide the graph has to be searched, measured with the queries that really come.

HNSW's ef, the candidates that a search keeps, decides what it costs and how much of the truth it finds, and how much is
enough depends on the vectors: 50 candidates for 50 results among clear clusters, 250 for users who like a bit of
everything. So nobody sets it: it is measured against exact search, on a sample, for ten results and for fifty. Few
results need more candidates each: of 100,000 of the demo's items, 1.7 for each of 50, but 10 for each of ten.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nearline.item_vectors import Vectors
from services.retrieval.in_process.graphs import Slots

T = TypeVar("T")
Asking = tuple[int, int]  # how many results, and how wide

WIDTHS = (10, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320, 400, 512)
ROUGH = (16, 48, 80, 112, 160, 256)  # of them: tried at once where nothing is known yet
ENOUGH: Mapping[int, float] = {10: 0.992, 50: 0.955}  # recall@k of the sample; .99 and .95 are meant to hold live
K = max(ENOUGH)

_QUERIES = 200
_TIED = 1e-6
_LIKED = 100  # items that a made-up user likes: so many that it lies near none of them


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths that are enough for ten results and for fifty; guesses until they are measured."""

    of_10: int = 128
    of_50: int = 200

    def of(self, results: int) -> int:
        """How wide to search for so many *results*: between ten and fifty in proportion, beyond in that of fifty."""
        if results >= 50:
            return max(results * self.of_50 // 50, results)
        return self.of_10 + max(0, results - 10) * (self.of_50 - self.of_10) // 40

    def beside(self, results: int, spare: int) -> int:
        """The same where *spare* more are found, of which some may take the place of *results* that are left out.

        Half a candidate for each more kept the recall of all of them; a quarter, for few are left out (docs/log.md).
        """
        return max(self.of(results) + spare // 4, results + spare)


@dataclass(frozen=True, slots=True)
class Moment:
    """A query and all rows of one moment; they do not change while it is used."""

    query: Vectors
    live: NDArray[np.bool_]  # by slot
    vectors: Vectors  # by slot

    def recall(self, found: Mapping[T, Slots], cut: Callable[[T], int]) -> dict[T, float]:
        """For each key, what share of the true ``cut(key)`` nearest rows was *found*; 3 ms for 100,000 x 64.

        A row as near as the last of the true ones is as good: the same vector may be there under two slots.
        """
        scores: Vectors = self.vectors @ self.query
        scores[~self.live] = -np.inf
        live = int(self.live.sum())
        best = np.sort(np.partition(scores, len(scores) - min(K, live))[len(scores) - min(K, live) :])[::-1]
        return {key: _share(scores[slots], best, min(cut(key), live)) for key, slots in found.items()}


def _share(found: Vectors, best: Vectors, count: int) -> float:
    return float((found[:count] >= best[count - 1] - _TIED).sum()) / count


class Settling:
    """The way to the least of *WIDTHS* with *enough* recall, from *start*: few are tried where little has changed."""

    def __init__(self, start: int, enough: float) -> None:
        self._at = min(range(len(WIDTHS)), key=lambda place: abs(WIDTHS[place] - start))
        self._enough = enough
        self._recalls: dict[int, float] = {}

    @property
    def width(self) -> int | None:
        """The least width that is enough, or the greatest there is; ``None`` while more have to be tried."""
        least = next((width for width in WIDTHS if self._recalls.get(width, 0.0) >= self._enough), None)
        if least is None:
            return WIDTHS[-1] if WIDTHS[-1] in self._recalls else None
        below = WIDTHS.index(least) - 1
        return least if below < 0 or WIDTHS[below] in self._recalls else None

    def untried(self) -> tuple[int, ...]:
        """What to try next, beside one another: a width, the one below and the one above."""
        steps = WIDTHS[max(0, self._at - 1) : self._at + 2]
        return tuple(width for width in steps if width not in self._recalls)

    def learn(self, recalls: Mapping[int, float]) -> None:
        """Take in the recall of widths that were tried."""
        self._recalls |= recalls
        passing = any(recall >= self._enough for recall in self._recalls.values())
        edge = min(self._recalls) if passing else max(self._recalls)
        self._at = max(0, min(len(WIDTHS) - 1, WIDTHS.index(edge) + (-1 if passing else 1)))


def rough_width(recalls: Mapping[int, float], enough: float) -> int:
    """The least width of *recalls* that is enough, or the greatest."""
    return min((width for width, recall in recalls.items() if recall >= enough), default=max(recalls))


def made_up_queries(slots: Slots, vectors: Vectors) -> Vectors:
    """Users before any came: the means of many items drawn at random, as hard to serve as users come.

    Measured with the demo's towers and 100,000 items: they asked for 4 candidates a result, users of unrelated clicks
    for 4 to 4.5, users of related clicks for 2.5. The first 200 who come put it right.
    """
    random = np.random.default_rng(len(slots))
    queries = np.stack([vectors[random.choice(slots, _LIKED)].sum(axis=0) for _ in range(_QUERIES)])
    unit: Vectors = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), np.float32(1e-9))
    return unit
