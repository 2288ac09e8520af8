"""The search width of the graph (HNSW's ef), measured with real queries.

ef, the number of candidates that a search keeps, decides its cost and its recall. The ef that is enough depends on the
vectors: 50 candidates for 50 results among clear clusters, 250 for users with broad interests. So it is not a setting:
it is measured against exact search, on a sample, for ten results and for fifty. Few results need more candidates each:
among 100,000 items of the demo, 1.7 for each of fifty results, but 10 for each of ten.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nearline.item_vectors import Vectors
from services.retrieval.in_process.graphs import Slots

T = TypeVar("T")
Asking = tuple[int, int]  # number of results, width

WIDTHS = (10, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320, 400, 512)
ROUGH = (16, 48, 80, 112, 160, 256)  # the widths that a first rough measurement tries
ENOUGH: Mapping[int, float] = {10: 0.992, 50: 0.955}  # recall@k required of the sample, so that it is .99 and .95 live
K = max(ENOUGH)

_QUERIES = 200
_TIED = 1e-6
_LIKED = 100  # items that a synthetic user likes: so many that its vector is near none of them


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths that are enough for ten and for fifty results; guesses until they are measured."""

    of_10: int = 128
    of_50: int = 200

    def of(self, results: int) -> int:
        """The width for *results*: interpolated between ten and fifty, beyond fifty in proportion."""
        if results >= 50:
            return max(results * self.of_50 // 50, results)
        return self.of_10 + max(0, results - 10) * (self.of_50 - self.of_10) // 40

    def beside(self, results: int, spare: int) -> int:
        """The width for *results*, and *spare* more in case some results are dropped.

        Half a candidate per spare result kept the recall of all of them; a quarter is enough, as few are dropped
        (docs/log.md).
        """
        return max(self.of(results) + spare // 4, results + spare)


@dataclass(frozen=True, slots=True)
class Moment:
    """A query and all rows at one moment, which do not change while it is used."""

    query: Vectors
    live: NDArray[np.bool_]  # by slot
    vectors: Vectors  # by slot

    def recall(self, found: Mapping[T, Slots], cut: Callable[[T], int]) -> dict[T, float]:
        """For each key, the share of the true ``cut(key)`` nearest rows that was *found*; 3 ms for 100,000 x 64.

        A row as near as the last true one counts as found, because two slots may have the same vector.
        """
        scores: Vectors = self.vectors @ self.query
        scores[~self.live] = -np.inf
        live = int(self.live.sum())
        best = np.sort(np.partition(scores, len(scores) - min(K, live))[len(scores) - min(K, live) :])[::-1]
        return {key: _share(scores[slots], best, min(cut(key), live)) for key, slots in found.items()}


def _share(found: Vectors, best: Vectors, count: int) -> float:
    return float((found[:count] >= best[count - 1] - _TIED).sum()) / count


class Settling:
    """Searches for the smallest of ``WIDTHS`` with *enough* recall, beginning at *start*, so that few are tried."""

    def __init__(self, start: int, enough: float) -> None:
        self._at = min(range(len(WIDTHS)), key=lambda place: abs(WIDTHS[place] - start))
        self._enough = enough
        self._recalls: dict[int, float] = {}

    @property
    def width(self) -> int | None:
        """The smallest width that is enough, or the largest of all; ``None`` while more have to be tried."""
        least = next((width for width in WIDTHS if self._recalls.get(width, 0.0) >= self._enough), None)
        if least is None:
            return WIDTHS[-1] if WIDTHS[-1] in self._recalls else None
        below = WIDTHS.index(least) - 1
        return least if below < 0 or WIDTHS[below] in self._recalls else None

    def untried(self) -> tuple[int, ...]:
        """The widths to try next: one, and its neighbours below and above."""
        steps = WIDTHS[max(0, self._at - 1) : self._at + 2]
        return tuple(width for width in steps if width not in self._recalls)

    def learn(self, recalls: Mapping[int, float]) -> None:
        """Add the recalls of widths that were tried."""
        self._recalls |= recalls
        passing = any(recall >= self._enough for recall in self._recalls.values())
        edge = min(self._recalls) if passing else max(self._recalls)
        self._at = max(0, min(len(WIDTHS) - 1, WIDTHS.index(edge) + (-1 if passing else 1)))


def rough_width(recalls: Mapping[int, float], enough: float) -> int:
    """The smallest width of *recalls* that is enough, or the largest."""
    return min((width for width, recall in recalls.items() if recall >= enough), default=max(recalls))


def made_up_queries(slots: Slots, vectors: Vectors) -> Vectors:
    """Synthetic queries for the time before real ones: means of many random items, which are as hard as real users.

    Measured with the demo's towers and 100,000 items: they need 4 candidates per result, users of unrelated clicks 4 to
    4.5, users of related clicks 2.5. After 200 real queries the widths are measured with those.
    """
    random = np.random.default_rng(len(slots))
    queries = np.stack([vectors[random.choice(slots, _LIKED)].sum(axis=0) for _ in range(_QUERIES)])
    unit: Vectors = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), np.float32(1e-9))
    return unit
