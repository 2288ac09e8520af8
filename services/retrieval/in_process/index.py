"""The live index: vectors are inserted and removed between searches.

One thread (the event loop's) owns everything here. A new vector goes into a small delta that is searched exactly, so it
is found at once; ``fold`` moves rows of the delta into the graph, a few at a time between two searches. What takes
long, the first graph and a new graph without removed rows, is a ``Build`` in another thread; ``adopt`` then swaps the
reference.

A row is identified by its slot. A slot is reused once no search reads its row. A graph has its own copies of vectors,
and identifies a row by its label: the slot, and how often the slot was used before. So removed rows take no memory
here.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nearline.item_vectors import Vectors
from services.retrieval.in_process.graphs import Build, Graph, NearestSlots, Slots
from services.retrieval.in_process.rows import Rows
from services.retrieval.in_process.widths import Moment, Widths, made_up_queries

MakeGraph = Callable[[int], Graph]  # capacity -> an empty graph
T = TypeVar("T", bound=np.generic)

ASKED_ENOUGH = 200  # real queries, from which on the graph is measured with them and not with synthetic ones
_ASKED = 256  # queries that are kept
_RESERVED = 1 << 20  # rows of address space; memory is allocated when a row is written, so growing copies nothing
_AGAIN = 1 << 32  # each use of a slot increases its label by this


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """When the index folds and when it rebuilds; in rows unless the name says otherwise."""

    exact_below: int = 2_000  # a scan of fewer rows is as fast as a graph, and exact
    fold_above: int = 1_000  # a delta of 1,000 x 64 costs a search about 0.02 ms
    bulk: int = 5_000  # a delta above this and a quarter of the graph is not folded: a new graph is built
    removed_share: float = 0.25  # removed rows are traversed but not returned: more of them only cost time
    headroom: float = 1.6  # capacity of a new graph over its rows; an unused row takes 45 bytes
    candidate_rows: int = 30  # rows that can be fetched and compared while a graph looks at one candidate, 1.2 us
    fetch_rows: int = 4  # rows that can be compared sequentially while one is fetched at random


@dataclass(frozen=True, slots=True)
class IndexState:
    """The state of an index without its graph; arrays by slot cover every slot that was ever used."""

    vectors: Vectors
    labels: Slots
    alive: NDArray[np.bool_]
    in_graph: NDArray[np.bool_]
    delta_slots: Slots
    widths: Widths


class LiveIndex:
    """Slots and their vectors, searchable from the moment they are inserted until the moment they are removed."""

    def __init__(
        self, dimension: int, make_graph: MakeGraph, limits: IndexLimits | None = None, *, cores: int = 1
    ) -> None:
        self._make = make_graph
        self._cores = cores
        self._limits = limits or IndexLimits()
        self._graph: Graph | None = None
        self._vectors: Vectors = np.empty((_RESERVED, dimension), np.float32)  # by slot
        self._labels: Slots = np.zeros(1024, np.int64)  # the graph's label of the row in each slot
        self._alive = np.zeros(1024, bool)
        self._in_graph = np.zeros(1024, bool)  # the row is alive and in the current graph
        self._used = 0  # slots that were ever used
        self._free: list[int] = []
        self._delta: Vectors = np.empty((1024, dimension), np.float32)  # unused without a graph: all rows are scanned
        self._delta_slots: Slots = np.empty(1024, np.int64)
        self._start = self._end = 0  # the delta's rows that are not folded yet
        self._build: Build | None = None
        self._unplanned: list[int] = []  # labels of rows that were inserted since the build was planned
        self._held = 0  # moments in use
        self.live = 0
        self.widths = Widths()
        self._asked: Vectors = np.zeros((_ASKED, dimension), np.float32)  # the newest queries, a ring
        self.asks = 0

    @property
    def delta_rows(self) -> int:
        """How many rows are searched exactly."""
        return self.live if self._graph is None else self._end - self._start

    @property
    def removed_rows(self) -> int:
        """How many rows of the graph are removed: traversed but not returned."""
        return self._graph.removed if self._graph else 0

    @property
    def slots(self) -> int:
        """How many slots were ever used; all are below this number."""
        return self._used

    @property
    def has_graph(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    def insert(self, vector: Vectors) -> int:
        """Make *vector* searchable at once; return its slot."""
        slot = self._free.pop() if self._free and not self._held else self._new_slot()
        self._vectors[slot] = vector
        self._labels[slot] += _AGAIN
        self._alive[slot] = True
        if self._graph is not None:
            self._append(slot, vector)
        if self._build is not None:
            self._unplanned.append(int(self._labels[slot]))
        self.live += 1
        return slot

    def remove(self, slot: int) -> None:
        """Exclude *slot* from all later searches; removing it again changes nothing."""
        if not self._alive[slot]:
            return
        self._alive[slot] = False
        self.live -= 1
        if self._graph is None:
            self._free.append(slot)
        elif self._in_graph[slot]:
            self._graph.remove(int(self._labels[slot]))
            self._in_graph[slot] = False
            self._free.append(slot)

    def vector(self, slot: int) -> Vectors:
        """The vector in *slot*; read-only."""
        vector: Vectors = self._vectors[slot]
        return vector

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors in *slots* (n, dimension), a copy."""
        vectors: Vectors = self._vectors[slots]
        return vectors

    def search(self, vector: Vectors, wanted: int, spare: int = 0, rows: Rows | None = None) -> NearestSlots:
        """The *wanted* + *spare* best live slots, of *rows* if given, and their inner products, best first.

        Fewer if there are fewer. Exact in the delta; the graph is searched with the width that was measured to be
        enough for *wanted* results, whichever of the others are dropped later.
        """
        self._asked[self.asks % _ASKED] = vector
        self.asks += 1
        if rows is not None:
            return self._search_among(rows, vector, wanted + spare)
        return self.find(vector, wanted, spare)

    def find(self, vector: Vectors, wanted: int, spare: int = 0, width: int = 0) -> NearestSlots:
        """As ``search`` at this *width* (0: the measured one), but not counted as a query."""
        count = wanted + spare
        graph = self._graph
        if graph is None:
            return self._pass_over_all(vector, count)
        reachable = graph.count - graph.removed
        if reachable < self._limits.exact_below:  # most rows were removed: the graph search takes longer than a scan
            return self._look_at_all(vector, count)
        labels, scores = graph.search(vector, count, width or self.widths.beside(wanted, spare))
        slots = labels % _AGAIN
        if len(slots) < min(count, reachable):
            return self._look_at_all(vector, count)
        if self._start == self._end:
            return slots, scores
        floor = float(scores[-1]) if len(scores) == count else -np.inf
        fresh, fresh_scores = self._scan(vector, count, floor)
        if len(fresh) == 0:
            return slots, scores
        return _best(np.concatenate((slots, fresh)), np.concatenate((scores, fresh_scores)), count)

    def _search_among(self, rows: Rows, vector: Vectors, count: int) -> NearestSlots:
        """The best of *rows*: from the graph's results if enough of them pass, else by an exact scan of *rows*."""
        count = min(count, rows.count)
        reach = int(_enough(count) * self.live / max(1, rows.count))
        width = self.widths.of(reach)
        cheapest = min(rows.count, self._used // self._limits.fetch_rows)
        if self._graph is not None and width * self._limits.candidate_rows < cheapest:
            labels, scores = self._graph.search(vector, reach, width)
            slots = labels % _AGAIN
            reached = len(slots) == min(reach, self._graph.count - self._graph.removed)
            floor = float(scores[-1]) if len(scores) else np.inf  # the graph's results end at this score
            kept = rows.passing[slots]
            fresh, fresh_scores = self._scan(vector, count, floor, rows)
            if reached and np.count_nonzero(kept) + len(fresh) >= count:
                slots, scores = np.concatenate((slots[kept], fresh)), np.concatenate((scores[kept], fresh_scores))
                return _best(slots, scores, count)
        return self._look_at(rows, vector, count)

    def _look_at(self, rows: Rows, vector: Vectors, count: int) -> NearestSlots:
        """The best of *rows*, exactly: row by row, or by a scan of all rows where that is faster."""
        if rows.count * self._limits.fetch_rows < self._used:
            slots = rows.slots
            return _best(slots, self._vectors[slots] @ vector, count)
        scores = self._vectors[: self._used] @ vector
        slots = np.flatnonzero(rows.passing[: self._used])
        return _best(slots, scores[slots], count)

    def _look_at_all(self, vector: Vectors, count: int) -> NearestSlots:
        """The best of all live rows, exactly: a thousand in 0.1 ms."""
        slots = np.flatnonzero(self._alive[: self._used])
        return _best(slots, self._vectors[slots] @ vector, count)

    def _pass_over_all(self, vector: Vectors, count: int) -> NearestSlots:
        """As ``_look_at_all``, for when nearly all slots are alive: no row is copied."""
        slots = np.flatnonzero(self._alive[: self._used])
        return _best(slots, (self._vectors[: self._used] @ vector)[slots], count)

    def asked(self, nth: int) -> Vectors:
        """One of the newest queries, 0 is the newest; the oldest that is kept if *nth* is older."""
        query: Vectors = self._asked[(self.asks - 1 - min(nth, _ASKED - 1)) % _ASKED].copy()
        return query

    @contextmanager
    def moment(self, query: Vectors) -> Iterator[Moment]:
        """All rows that are live now, to answer *query* exactly in another thread; none changes until this ends."""
        self._held += 1
        try:
            yield Moment(query, self._alive[: self._used].copy(), self._vectors[: self._used])
        finally:
            self._held -= 1

    def queries(self) -> Vectors:
        """Queries to measure the graph with: the newest ones, or synthetic ones until 200 have come."""
        if self.asks >= ASKED_ENOUGH:
            return self._asked[: self.asks].copy()
        return made_up_queries(np.flatnonzero(self._alive[: self._used]), self._vectors[: self._used])

    def _scan(self, vector: Vectors, count: int, floor: float = -np.inf, rows: Rows | None = None) -> NearestSlots:
        """The best of the delta with a score above *floor*, of *rows* if given."""
        slots = self._delta_slots[self._start : self._end]
        scores = self._delta[self._start : self._end] @ vector
        hits = np.flatnonzero(scores > floor)
        hits = hits[(self._alive if rows is None else rows.passing)[slots[hits]]]
        return _best(slots[hits], scores[hits], count)

    @property
    def fold_due(self) -> bool:
        """Whether the delta is large enough to fold, and the graph has room."""
        graph = self._graph
        return graph is not None and self._is_large and graph.count < graph.capacity

    @property
    def _is_large(self) -> bool:
        return self.delta_rows > self._limits.fold_above

    def fold(self) -> None:
        """Move the oldest row of the delta into the graph, about 0.2 ms; a removed row is only dropped.

        This happens during a build too, or the delta would grow until it ends; rows that the build lacks are in the
        delta again once it is adopted.
        """
        if self._graph is None or not self.fold_due:
            return
        oldest = slice(self._start, self._start + 1)
        slot = int(self._delta_slots[self._start])
        if self._alive[slot]:
            self._graph.add(self._labels[self._delta_slots[oldest]], self._delta[oldest])
            self._in_graph[slot] = True
        else:
            self._free.append(slot)
        self._start += 1

    @property
    def build_due(self) -> bool:
        """Whether a new graph should be built."""
        if self._build is not None:
            return False
        if self._graph is None:
            return self.live >= self._limits.exact_below
        return (
            self._graph.removed > self._limits.removed_share * self._graph.count
            or self.delta_rows > max(self._limits.bulk, self._graph.count // 4)
            or (self._graph.count >= self._graph.capacity and self._is_large)
        )

    def start_build(self) -> Build:
        """Start to build a graph of all rows that are live now."""
        slots = np.flatnonzero(self._alive[: self._used]).astype(np.int64)
        capacity = int(len(slots) * self._limits.headroom) + self._limits.bulk
        # Without a graph every search scans all rows: then a build on all cores is best for requests.
        threads = self._cores if self._graph is None else 1
        self._build = Build(self._make(capacity), self._holds, threads)
        self._build.add(slots, self._labels[slots], self._vectors)
        self._unplanned = []
        return self._build

    def extend(self, build: Build) -> bool:
        """Add the rows since the start to *build*, so that they need not be folded; ``False`` if they are few."""
        slots = self._lacked()
        if len(slots) <= self._limits.fold_above or len(build.slots) + len(slots) > build.graph.capacity:
            return False
        build.add(slots, self._labels[slots], self._vectors)
        self._unplanned = []
        return True

    def _holds(self, slots: Slots, labels: Slots) -> NDArray[np.bool_]:
        """Whether each of *slots* still has the row with this label, and it is alive."""
        holds: NDArray[np.bool_] = (self._labels[slots] == labels) & self._alive[slots]
        return holds

    def _lacked(self) -> Slots:
        """The live rows that were inserted since the build was planned."""
        labels = np.array(self._unplanned, np.int64)
        lacked: Slots = labels % _AGAIN
        return lacked[self._holds(lacked, labels)]

    def prune(self, build: Build, most: int) -> bool:
        """Remove up to *most* rows from a finished *build* that are no longer alive; return whether more are left."""
        gone = np.flatnonzero(~self._holds(build.slots, build.labels) & ~build.pruned)
        for place in gone[:most].tolist():
            build.graph.remove(int(build.labels[place]))
        build.pruned[gone[:most]] = True
        return len(gone) > most

    def drop(self, build: Build) -> None:
        """Forget *build*, which was cancelled or adopted."""
        if self._build is build:
            self._build, self._unplanned = None, []

    def adopt(self, build: Build) -> None:
        """Use *build*'s graph from now on: rows removed meanwhile leave it, rows that it lacks are the new delta."""
        if build is not self._build:
            raise ValueError("a build can be adopted once, and only while it is the newest")
        self.prune(build, len(build.slots))
        lacked = self._lacked()
        self._graph, self._build, self._unplanned = build.graph, None, []
        self._in_graph[:] = False
        self._in_graph[build.slots[self._holds(build.slots, build.labels)]] = True
        self._hold_delta(lacked)
        self._reclaim()

    def state(self) -> tuple[IndexState, Graph | None]:
        """The current state, without copies: read it before anything changes."""
        used, delta = slice(0, self._used), slice(self._start, self._end)
        rows = (
            self._vectors[used],
            self._labels[used],
            self._alive[used],
            self._in_graph[used],
            self._delta_slots[delta],
        )
        return IndexState(*rows, self.widths), self._graph

    def restore(self, state: IndexState, graph: Graph | None) -> None:
        """Fill this empty index with the state of another one."""
        used = len(state.alive)
        if self._used or self._build is not None:
            raise ValueError(f"only an empty index can be restored; this one has used {self._used} slots")
        self._vectors = np.empty((max(_RESERVED, used), state.vectors.shape[1]), np.float32)
        self._vectors[:used] = state.vectors
        self._labels = _grown(state.labels, max(1024, used))
        self._alive = _grown(state.alive, max(1024, used))
        self._in_graph = _grown(state.in_graph & state.alive, max(1024, used))
        self._graph, self._used = graph, used
        self._hold_delta(state.delta_slots if graph is not None else np.empty(0, np.int64))
        self.live, self.widths = int(state.alive.sum()), state.widths
        self._reclaim()

    def clear(self) -> None:
        """Remove everything."""
        if self._build is not None:
            raise ValueError("an index cannot be cleared while a graph is being built")
        LiveIndex.__init__(self, self._vectors.shape[1], self._make, self._limits, cores=self._cores)

    def _reclaim(self) -> None:
        """Free every slot that is neither alive nor in the delta."""
        known = self._alive[: self._used].copy()
        known[self._delta_slots[self._start : self._end]] = True
        self._free = np.flatnonzero(~known).tolist()

    def _new_slot(self) -> int:
        if self._used == len(self._vectors):
            self._vectors = _grown(self._vectors, 2 * self._used)
        if self._used == len(self._alive):
            self._alive = _grown(self._alive, 2 * self._used)
            self._in_graph = _grown(self._in_graph, 2 * self._used)
            self._labels = _grown(self._labels, 2 * self._used)
        self._labels[self._used] = self._used - _AGAIN  # ``insert`` adds _AGAIN
        self._used += 1
        return self._used - 1

    def _append(self, slot: int, vector: Vectors) -> None:
        if self._end == len(self._delta):
            self._shrink_delta()
        self._delta[self._end] = vector
        self._delta_slots[self._end] = slot
        self._end += 1

    def _shrink_delta(self) -> None:
        """Drop folded and removed rows from the delta, and leave room for as many again."""
        slots = self._delta_slots[self._start : self._end]
        alive = self._alive[slots]
        self._free += slots[~alive].tolist()
        self._hold_delta(slots[alive])

    def _hold_delta(self, slots: Slots) -> None:
        """Make *slots* the delta."""
        room = max(1024, 2 * len(slots))
        self._delta, self._delta_slots = _grown(self._vectors[slots], room), _grown(slots, room)
        self._start, self._end = 0, len(slots)


def _enough(count: int) -> float:
    """How many rows should be expected to pass so that *count* do: three standard deviations more, and a few."""
    return count + 3.0 * math.sqrt(count) + 3.0


def _best(slots: Slots, scores: Vectors, count: int) -> NearestSlots:
    if len(scores) > 8 * count:  # below that, sorting all of them is faster than partitioning first
        kept = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        slots, scores = slots[kept], scores[kept]
    order = scores.argsort()[: -count - 1 : -1]
    return slots[order], scores[order]


def _grown(array: NDArray[T], rows: int) -> NDArray[T]:
    """A copy of *array* with room for *rows*; the old array is unchanged, because another thread may still read it."""
    larger = np.zeros((max(rows, len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
