"""Graphs, and how one comes to be: row by row in a thread of its own, then measured."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
Vectors = NDArray[np.float32]
Found = tuple[Slots, Vectors]  # slots and inner products, best first

_CHUNK = 64  # rows added between two looks at whether the build was called off: about 15 ms
_SCAN_CHUNK = 4_096
_SAMPLE = 200  # queries that a new graph is measured with
_SAMPLE_K = 50
_SAMPLE_RECALL = 0.97  # on the sample; other queries and later changes may cost a little
_WIDTHS = (1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


class Graph(Protocol):
    """An approximate index of fixed capacity (nearline/adapters/hnsw.py); one thread uses it at a time."""

    capacity: int
    count: int
    removed: int

    def add(self, slots: Slots, vectors: Vectors) -> None:
        """Add *vectors* (n, dimension) under new *slots*."""

    def remove(self, slot: int) -> None:
        """Never find *slot* again."""

    def search(self, vector: Vectors, count: int, width: int) -> Found:
        """The *count* best slots and their inner products, best first."""


class Build:
    """A graph that is being built. ``add`` is the index's; ``run`` and ``measure`` take long and may run in a thread.

    The rows that it was given stay as they are in the index until it is adopted or dropped.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.slots: Slots = np.empty(0, np.int64)  # in the graph once ``run`` has returned true
        self.delta_end = 0  # how far the index's delta is in it
        self.width_per_result = _WIDTHS[-1]  # how wide it must be searched (HNSW's ef) for each result
        self._vectors: Vectors = np.empty((0, 0), np.float32)  # by slot

    def add(self, slots: Slots, vectors: Vectors, delta_end: int) -> None:
        """Plan *slots*, whose rows are in *vectors*; not while ``run`` or ``measure`` is under way."""
        self.slots = np.concatenate((self.slots, slots))
        self._vectors = vectors
        self.delta_end = delta_end

    def run(self, called_off: Callable[[], bool]) -> bool:
        """Put every planned row into the graph; ``False`` if called off."""
        while self.graph.count < len(self.slots):
            if called_off():
                return False
            chunk = self.slots[self.graph.count : self.graph.count + _CHUNK]
            self.graph.add(chunk, self._vectors[chunk])
        return True

    def measure(self) -> None:
        """Find the least width with which the graph finds nearly all true neighbours of a sample of queries.

        How wide is wide enough depends on the vectors: 1 for each result in clear clusters, 6 among random vectors.
        """
        queries = self._sample()
        truth = [set(found.tolist()) for found in self._nearest(queries)]
        for width in _WIDTHS:
            self.width_per_result = width
            found = [self.graph.search(query, _SAMPLE_K, int(width * _SAMPLE_K))[0].tolist() for query in queries]
            hits = sum(len(true.intersection(some)) for true, some in zip(truth, found, strict=True))
            if hits >= _SAMPLE_RECALL * sum(map(len, truth)):
                return

    def _sample(self) -> Vectors:
        """Items and mixtures of two items (a user lies between the items that he likes), of unit norm."""
        random = np.random.default_rng(len(self.slots))
        count = min(_SAMPLE, max(8, len(self.slots) // 50))
        one, other = random.choice(self.slots, (2, count))
        share = random.choice((0.0, 0.25, 0.5), (count, 1)).astype(np.float32)
        mixed = self._vectors[one] + share * self._vectors[other]
        queries: Vectors = mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), np.float32(1e-9))
        return queries

    def _nearest(self, queries: Vectors) -> Slots:
        """The true neighbours of each of *queries*, (queries, at most 50), in no order."""
        best, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        for start in range(0, len(self.slots), _SCAN_CHUNK):
            chunk = self.slots[start : start + _SCAN_CHUNK]
            scores = np.concatenate((scores, queries @ self._vectors[chunk].T), axis=1)
            best = np.concatenate((best, np.broadcast_to(chunk, (len(queries), len(chunk)))), axis=1)
            kept = np.argpartition(-scores, min(_SAMPLE_K, scores.shape[1]) - 1, axis=1)[:, :_SAMPLE_K]
            scores, best = np.take_along_axis(scores, kept, 1), np.take_along_axis(best, kept, 1)
        return best
