"""The interface of an HNSW graph, and ``Build``, which builds one in another thread."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.item_vectors import Vectors

Slots = NDArray[np.int64]
NearestSlots = tuple[Slots, Vectors]  # slots and inner products, best first

_CHUNK = 64  # rows of each thread between two checks whether the build was cancelled: about 15 ms


@dataclass(frozen=True, slots=True)
class SavedGraph:
    """The facts about a saved graph that its file does not contain."""

    capacity: int
    count: int
    removed: int


class Graph(Protocol):
    """An approximate index of fixed capacity (nearline/adapters/hnsw.py); for one thread at a time.

    A row is identified by any number, used once: its "slots" are the labels of ``LiveIndex``.
    """

    capacity: int
    count: int
    removed: int

    def add(self, slots: Slots, vectors: Vectors, threads: int = 1) -> None:
        """Add *vectors* (n, dimension) under new *slots*."""

    def remove(self, slot: int) -> None:
        """Exclude *slot* from all later searches."""

    def search(self, vector: Vectors, count: int, width: int) -> NearestSlots:
        """The *count* best slots and their inner products, best first; fewer, or none, if it cannot reach that many."""

    def save(self, path: Path) -> None:
        """Write it to a file; it must not be searched or changed meanwhile."""


class Build:
    """A graph that is being built. The index calls ``add``; ``run`` takes long and may run in another thread.

    A planned row may be removed meanwhile and its slot used again, even while ``run`` reads it: then the graph has the
    wrong row under an unused label, which ``LiveIndex.prune`` removes.
    """

    def __init__(self, graph: Graph, holds: Callable[[Slots, Slots], NDArray[np.bool_]], threads: int = 1) -> None:
        self.graph = graph
        self._holds = holds
        self._threads = threads
        self._done = 0  # how many of the slots were added to the graph or skipped
        self.slots: Slots = np.empty(0, np.int64)  # in the graph once ``run`` has returned true
        self.pruned: NDArray[np.bool_] = np.empty(0, bool)  # whether each of these slots was skipped or removed again
        self.labels: Slots = np.empty(0, np.int64)  # their labels in the graph
        self._vectors: Vectors = np.empty((0, 0), np.float32)  # by slot

    def add(self, slots: Slots, labels: Slots, vectors: Vectors) -> None:
        """Plan to add *slots*, whose rows are in *vectors*, under *labels*; not while ``run`` is running."""
        self.slots = np.concatenate((self.slots, slots))
        self.labels = np.concatenate((self.labels, labels))
        self.pruned = np.concatenate((self.pruned, np.zeros(len(slots), bool)))
        self._vectors = vectors

    def run(self, is_cancelled: Callable[[], bool]) -> bool:
        """Add every planned row that is still alive to the graph; ``False`` if cancelled."""
        while self._done < len(self.slots):
            if is_cancelled():
                return False
            chunk = slice(self._done, self._done + self._threads * _CHUNK)
            alive = self._holds(self.slots[chunk], self.labels[chunk])
            self.pruned[chunk] = ~alive
            if alive.any():
                rows = self._vectors[self.slots[chunk][alive]]
                self.graph.add(self.labels[chunk][alive], rows, self._threads)
            self._done += len(alive)
        return True
