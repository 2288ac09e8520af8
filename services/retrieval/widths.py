"""How wide the graph has to be searched, measured with the queries that really come.

HNSW's ef, the candidates that a search keeps, decides what it costs and how much of the truth it finds, and how much is
enough depends on the vectors: 50 candidates for 50 results among clear clusters, 250 for users who like a bit of
everything. So nobody sets it: it is measured against exact search, on a sample, for ten results and for fifty. Few
results need more candidates each: of 100,000 of the demo's items, 1.7 for each of 50, but 10 for each of ten.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.retrieval.graphs import Slots, Vectors

WIDTHS = (10, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 400, 512)
ENOUGH: Mapping[int, float] = {10: 0.992, 50: 0.955}  # recall@k of the sample; .99 and .95 are meant to hold live
K = max(ENOUGH)

_QUERIES = 200
_REST_S = 0.01  # between two exact searches of 3 ms each: nobody waits for them, and requests want the core
_LIKED = 100  # items that a made-up user likes: so many that it lies near none of them


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths that are enough for ten results and for fifty; guesses until they are measured."""

    of_10: int = 128
    of_50: int = 200

    def of(self, results: int) -> int:
        """How wide to search for so many *results*."""
        return max(self.of_10, results * self.of_50 // 50)


@dataclass(frozen=True, slots=True)
class Sample:
    """Queries, and the rows among which their neighbours are sought; the rows do not change while it is used."""

    queries: Vectors
    live: NDArray[np.bool_]  # by slot
    vectors: Vectors  # by slot

    def scores(self, query: Vectors) -> Vectors:
        """The inner product of every row with *query*, minus infinity where a row is not live."""
        scores: Vectors = self.vectors @ query
        scores[~self.live] = -np.inf
        return scores

    def truth(self) -> list[Slots]:
        """The *K* true neighbours of each query, best first; 0.5 s of 100,000 rows, so it belongs in a thread.

        Query by query and without copies, for numpy lets other threads run in a product, but not in a large copy.
        """
        count = min(K, int(self.live.sum()))
        found = []
        for query in self.queries:
            time.sleep(_REST_S)
            scores = self.scores(query)
            best = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
            found.append(best[np.argsort(-scores[best])])
        return found


async def least_width(start: int, is_enough: Callable[[int], Awaitable[bool]]) -> int:
    """The least of *WIDTHS* that *is_enough*, sought from *start*: few are measured where little has changed."""
    at = min(range(len(WIDTHS)), key=lambda place: abs(WIDTHS[place] - start))
    if await is_enough(WIDTHS[at]):
        while at > 0 and await is_enough(WIDTHS[at - 1]):
            at -= 1
        return WIDTHS[at]
    while at < len(WIDTHS) - 1:
        at += 1
        if await is_enough(WIDTHS[at]):
            break
    return WIDTHS[at]


def made_up_queries(slots: Slots, vectors: Vectors) -> Vectors:
    """Users before any came: the means of many items drawn at random, as hard to serve as users come.

    Measured with the demo's towers and 100,000 items: they asked for 4 candidates a result, users of unrelated clicks
    for 4 to 4.5, users of related clicks for 2.5. The first 200 who come put it right.
    """
    random = np.random.default_rng(len(slots))
    queries = np.stack([vectors[random.choice(slots, _LIKED)].sum(axis=0) for _ in range(_QUERIES)])
    unit: Vectors = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), np.float32(1e-9))
    return unit
