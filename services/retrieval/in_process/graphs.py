"""Graphs, and how one comes to be: row by row, in a thread of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.item_vectors import Vectors

Slots = NDArray[np.int64]
NearestSlots = tuple[Slots, Vectors]  # slots and inner products, best first

_CHUNK = 64  # rows of each thread between two looks at whether the build was called off: about 15 ms


@dataclass(frozen=True, slots=True)
class SavedGraph:
    """What a graph's file does not say of itself."""

    capacity: int
    count: int
    removed: int


class Graph(Protocol):
    """An approximate index of fixed capacity (nearline/adapters/hnsw.py); one thread uses it at a time.

    It knows rows by whatever numbers it was given, each of them once: here "slots" are the index's labels.
    """

    capacity: int
    count: int
    removed: int

    def add(self, slots: Slots, vectors: Vectors, threads: int = 1) -> None:
        """Add *vectors* (n, dimension) under new *slots*."""

    def remove(self, slot: int) -> None:
        """Never find *slot* again."""

    def search(self, vector: Vectors, count: int, width: int) -> NearestSlots:
        """The *count* best slots and their inner products, best first; fewer, or none, if it cannot reach so many."""

    def save(self, path: Path) -> None:
        """Write it to a file; neither searched nor changed meanwhile."""


class Build:
    """A graph that is being built. ``add`` is the index's; ``run`` takes long and may run in a thread.

    A row that it was given may be removed meanwhile and its slot used again, even while it is read: what comes of that
    is in the graph under a label that nobody has any more, and ``prune`` takes it out.
    """

    def __init__(self, graph: Graph, holds: Callable[[Slots, Slots], NDArray[np.bool_]], threads: int = 1) -> None:
        self.graph = graph
        self._holds = holds
        self._threads = threads
        self._done = 0  # of the slots, those that were put into the graph or left out
        self.slots: Slots = np.empty(0, np.int64)  # in the graph once ``run`` has returned true
        self.pruned: NDArray[np.bool_] = np.empty(0, bool)  # of these slots, those that were left out or removed again
        self.labels: Slots = np.empty(0, np.int64)  # under which the graph knows them
        self._vectors: Vectors = np.empty((0, 0), np.float32)  # by slot

    def add(self, slots: Slots, labels: Slots, vectors: Vectors) -> None:
        """Plan *slots*, whose rows are in *vectors*, under *labels*; not while ``run`` is under way."""
        self.slots = np.concatenate((self.slots, slots))
        self.labels = np.concatenate((self.labels, labels))
        self.pruned = np.concatenate((self.pruned, np.zeros(len(slots), bool)))
        self._vectors = vectors

    def run(self, called_off: Callable[[], bool]) -> bool:
        """Put every planned row into the graph that is still alive; ``False`` if called off."""
        while self._done < len(self.slots):
            if called_off():
                return False
            chunk = slice(self._done, self._done + self._threads * _CHUNK)
            alive = self._holds(self.slots[chunk], self.labels[chunk])
            self.pruned[chunk] = ~alive
            if alive.any():
                rows = self._vectors[self.slots[chunk][alive]]
                self.graph.add(self.labels[chunk][alive], rows, self._threads)
            self._done += len(alive)
        return True
