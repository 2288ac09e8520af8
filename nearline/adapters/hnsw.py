"""A graph for approximate nearest neighbours by inner product, on hnswlib.

hnswlib allows concurrent adds and concurrent queries, but never an add beside a query. So one thread owns a graph at a
time: first the one that builds it, then the one that serves it.
"""

from pathlib import Path
from typing import Any, Self

import hnswlib
import numpy as np
from numpy.typing import NDArray

from nearline.item_vectors import Vectors

GraphLabels = NDArray[np.int64]

_SEED = 100


class HnswGraph:
    """Finds vectors of unit norm, by slot (an integer), by inner product; holds at most *capacity*.

    *links* is HNSW's M and *build_width* its efConstruction (Malkov and Yashunin 2018). Of 100,000 items encoded by
    the demo's tower and users who like anything, 50 results at a width of 200: recall .847 with 16 links and a build
    width of 100, .931 with 32 and 100, .956 with 32 and 200, and all three took the same time.
    """

    def __init__(self, dimension: int, capacity: int, *, links: int = 32, build_width: int = 200) -> None:
        self._index: Any = hnswlib.Index("ip", dimension)
        self._index.init_index(capacity, M=links, ef_construction=build_width, random_seed=_SEED)
        self.capacity = capacity
        self.count = 0  # slots ever added, removed ones included
        self.removed = 0
        self._width = 0

    @classmethod
    def load(cls, path: Path, dimension: int, capacity: int, *, count: int, removed: int) -> Self:
        """Load the graph that ``save`` wrote; a file changed since may crash the process: compare digests first.

        ``ValueError`` if it does not hold *count* slots, of which *removed* are marked as removed.
        """
        graph = cls.__new__(cls)
        graph._index = hnswlib.Index("ip", dimension)
        try:
            graph._index.load_index(str(path), max_elements=capacity)
        except RuntimeError as error:
            raise ValueError(f"{path} is no graph of {dimension} dimensions: {error}") from None
        if graph._index.get_current_count() != count:
            raise ValueError(f"{path} holds {graph._index.get_current_count()} slots; {count} were saved")
        graph.capacity, graph.count, graph.removed, graph._width = capacity, count, removed, 0
        return graph

    def save(self, path: Path) -> None:
        """Write the graph to a file; no other thread of the process runs Python meanwhile (0.1 s for 100,000 x 64)."""
        self._index.save_index(str(path))

    def add(self, slots: GraphLabels, vectors: Vectors, threads: int = 1) -> None:
        """Add *vectors* (n, dimension) under *slots* that were never added before; other threads run meanwhile.

        With several of hnswlib's *threads* the graph is as good, but differs from run to run.
        """
        self._index.add_items(vectors, slots, num_threads=threads)
        self.count += len(slots)

    def remove(self, slot: int) -> None:
        """Leave *slot* out of results; the search still passes through it."""
        self._index.mark_deleted(slot)
        self.removed += 1

    def search(self, vector: Vectors, count: int, width: int) -> tuple[GraphLabels, Vectors]:
        """The *count* best slots and their inner products, best first; empty if fewer can be reached.

        *width* (ef) candidates are kept during the search: more find more of the true best and take longer.
        """
        count = min(count, self.count - self.removed)
        for tried in (width, 8 * width) if count else ():
            self._widen(max(tried, count))
            try:
                labels, distances = self._index.knn_query(vector, k=count, num_threads=1)
            except RuntimeError:  # fewer than count were reachable: hnswlib has no partial answers
                continue
            return labels[0].astype(np.int64), np.subtract(1.0, distances[0], dtype=np.float32)
        return np.empty(0, np.int64), np.empty(0, np.float32)

    def _widen(self, width: int) -> None:
        if width != self._width:
            self._index.set_ef(width)
            self._width = width
