"""The live index: vectors come and go while it is searched, and nothing is written while it is read.

One thread (the event loop's) owns everything here. A new vector goes into a small delta that is searched exactly, so it
is found at once and with certainty; ``fold`` moves rows of the delta into the graph, a few at a time between two
searches. What would take long, the first graph and one that leaves removed rows behind, is a ``Build`` that runs in
another thread; ``adopt`` then swaps the reference.

A row is known by its slot. A slot is used again once nobody reads its row: a graph keeps vectors of its own, and knows
a row by its label, the slot and how often that was used before. So rows that were removed take no memory here.
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

ASKED_ENOUGH = 200  # queries that came, to measure with them and not with made-up ones
_ASKED = 256  # queries that are kept
_RESERVED = 1 << 20  # rows of address space; memory is taken when one is written, and nothing is copied to grow
_AGAIN = 1 << 32  # what the label of a slot grows by with each use


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """When the index folds and when it builds anew; rows unless named otherwise."""

    exact_below: int = 2_000  # a scan of fewer is as fast as a graph, and exact
    fold_above: int = 1_000  # a delta of 1,000 x 64 costs a search about 0.02 ms
    bulk: int = 5_000  # a delta of more than this and a quarter of the graph is built beside it, not folded
    removed_share: float = 0.25  # removed rows carry the search but are not found: more only cost time
    headroom: float = 1.6  # capacity of a new graph over its rows; one that is not used yet takes 45 bytes
    candidate_rows: int = 30  # rows that can be fetched and compared while a graph looks at one candidate, 1.2 us
    fetch_rows: int = 4  # rows that can be compared in their order while one is fetched from its place


@dataclass(frozen=True, slots=True)
class IndexState:
    """All that an index holds beside its graph; the arrays by slot are as long as slots were handed out."""

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
        self._labels: Slots = np.zeros(1024, np.int64)  # under which a graph knows the row that is in the slot now
        self._alive = np.zeros(1024, bool)
        self._in_graph = np.zeros(1024, bool)  # the served one has this row, and it is alive
        self._used = 0  # slots ever handed out
        self._free: list[int] = []
        self._delta: Vectors = np.empty((1024, dimension), np.float32)  # without a graph there is none: all are scanned
        self._delta_slots: Slots = np.empty(1024, np.int64)
        self._start = self._end = 0  # the delta's rows that are not folded yet
        self._build: Build | None = None
        self._unplanned: list[int] = []  # labels of what came since the build's rows were planned
        self._held = 0  # moments that somebody still looks at
        self.live = 0
        self.widths = Widths()
        self._asked: Vectors = np.zeros((_ASKED, dimension), np.float32)  # the newest queries, a ring
        self.asks = 0

    @property
    def delta_rows(self) -> int:
        """Rows that are searched exactly."""
        return self.live if self._graph is None else self._end - self._start

    @property
    def removed_rows(self) -> int:
        """Rows of the graph that only carry the search."""
        return self._graph.removed if self._graph else 0

    @property
    def slots(self) -> int:
        """How many slots were ever handed out; all are below this number."""
        return self._used

    @property
    def has_graph(self) -> bool:
        """Whether searches go through a graph yet."""
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
        """Never find *slot* again, from now on; a slot that was removed before changes nothing."""
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
        """The vector in *slot*; not to be written."""
        vector: Vectors = self._vectors[slot]
        return vector

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors in *slots* (n, dimension), a copy."""
        vectors: Vectors = self._vectors[slots]
        return vectors

    def search(self, vector: Vectors, wanted: int, spare: int = 0, rows: Rows | None = None) -> NearestSlots:
        """The *wanted* + *spare* best live slots, of *rows* if given, and their inner products, best first.

        Fewer if there are fewer. Exact in the delta; in the graph as wide as was measured to be enough for *wanted* of
        them, whichever of the others will be left out.
        """
        self._asked[self.asks % _ASKED] = vector
        self.asks += 1
        if rows is not None:
            return self._search_among(rows, vector, wanted + spare)
        return self.find(vector, wanted, spare)

    def find(self, vector: Vectors, wanted: int, spare: int = 0, width: int = 0) -> NearestSlots:
        """What ``search`` finds at this *width*, or the measured one: for ourselves, no query that came."""
        count = wanted + spare
        graph = self._graph
        if graph is None:
            return self._pass_over_all(vector, count)
        reachable = graph.count - graph.removed
        if reachable < self._limits.exact_below:  # most of it was removed: the way through it is longer than past all
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
        """The best of *rows*: what passes of a graph's answer, if that holds them all for certain; else all of them."""
        count = min(count, rows.count)
        reach = int(_enough(count) * self.live / max(1, rows.count))
        width = self.widths.of(reach)
        cheapest = min(rows.count, self._used // self._limits.fetch_rows)
        if self._graph is not None and width * self._limits.candidate_rows < cheapest:
            labels, scores = self._graph.search(vector, reach, width)
            slots = labels % _AGAIN
            reached = len(slots) == min(reach, self._graph.count - self._graph.removed)
            floor = float(scores[-1]) if len(scores) else np.inf  # below it the graph was not looked at
            kept = rows.passing[slots]
            fresh, fresh_scores = self._scan(vector, count, floor, rows)
            if reached and np.count_nonzero(kept) + len(fresh) >= count:
                slots, scores = np.concatenate((slots[kept], fresh)), np.concatenate((scores[kept], fresh_scores))
                return _best(slots, scores, count)
        return self._look_at(rows, vector, count)

    def _look_at(self, rows: Rows, vector: Vectors, count: int) -> NearestSlots:
        """The best of *rows*, exactly: row by row, or by a pass over all rows where that is quicker."""
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
        """The same where nearly all slots are of live rows: no row is copied."""
        slots = np.flatnonzero(self._alive[: self._used])
        return _best(slots, (self._vectors[: self._used] @ vector)[slots], count)

    def asked(self, nth: int) -> Vectors:
        """One of the newest queries, 0 the very newest; of older ones than are kept, the oldest kept."""
        query: Vectors = self._asked[(self.asks - 1 - min(nth, _ASKED - 1)) % _ASKED].copy()
        return query

    @contextmanager
    def moment(self, query: Vectors) -> Iterator[Moment]:
        """All rows that are live now, to answer *query* exactly from another thread; they stay until this ends."""
        self._held += 1
        try:
            yield Moment(query, self._alive[: self._used].copy(), self._vectors[: self._used])
        finally:
            self._held -= 1

    def queries(self) -> Vectors:
        """What the graph can be measured with: the newest queries, or made-up ones while fewer than 200 came."""
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
        """Move the oldest row of the delta into the graph, about 0.2 ms; one that was removed is only dropped.

        During a build too, or the delta would grow all the while; what the build lacks is the delta again once it is
        adopted.
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
        """Start a graph of all rows that are live now."""
        slots = np.flatnonzero(self._alive[: self._used]).astype(np.int64)
        capacity = int(len(slots) * self._limits.headroom) + self._limits.bulk
        # Until there is a graph every search looks at all rows: then a build that takes all cores serves requests best.
        threads = self._cores if self._graph is None else 1
        self._build = Build(self._make(capacity), self._holds, threads)
        self._build.add(slots, self._labels[slots], self._vectors)
        self._unplanned = []
        return self._build

    def extend(self, build: Build) -> bool:
        """Add to *build* what came since it was started, so that it need not be folded; ``False`` if that is little."""
        slots = self._lacked()
        if len(slots) <= self._limits.fold_above or len(build.slots) + len(slots) > build.graph.capacity:
            return False
        build.add(slots, self._labels[slots], self._vectors)
        self._unplanned = []
        return True

    def _holds(self, slots: Slots, labels: Slots) -> NDArray[np.bool_]:
        """Whether each of *slots* still has the row that had this label, alive."""
        holds: NDArray[np.bool_] = (self._labels[slots] == labels) & self._alive[slots]
        return holds

    def _lacked(self) -> Slots:
        """The live rows that came since the build's were planned."""
        labels = np.array(self._unplanned, np.int64)
        lacked: Slots = labels % _AGAIN
        return lacked[self._holds(lacked, labels)]

    def prune(self, build: Build, most: int) -> bool:
        """Take up to *most* rows that were removed meanwhile out of a *build* that ran; whether more are left."""
        gone = np.flatnonzero(~self._holds(build.slots, build.labels) & ~build.pruned)
        for place in gone[:most].tolist():
            build.graph.remove(int(build.labels[place]))
        build.pruned[gone[:most]] = True
        return len(gone) > most

    def drop(self, build: Build) -> None:
        """Forget a build that was called off."""
        if self._build is build:
            self._build, self._unplanned = None, []

    def adopt(self, build: Build) -> None:
        """Serve *build*'s graph from now on: what was removed meanwhile leaves it, what it lacks is the delta."""
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
        """What it holds now, to be read before anything changes: nothing is copied."""
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
        """Hold what another index held; for one that is still empty."""
        used = len(state.alive)
        if self._used or self._build is not None:
            raise ValueError(f"only an empty index can be restored; this one has handed out {self._used} slots")
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
        """Hold nothing, as a new one."""
        if self._build is not None:
            raise ValueError("an index cannot be cleared while a graph is built of it")
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
        self._labels[self._used] = self._used - _AGAIN  # which its first use sets right
        self._used += 1
        return self._used - 1

    def _append(self, slot: int, vector: Vectors) -> None:
        if self._end == len(self._delta):
            self._shrink_delta()
        self._delta[self._end] = vector
        self._delta_slots[self._end] = slot
        self._end += 1

    def _shrink_delta(self) -> None:
        """Leave folded and removed rows behind, with room for as many again."""
        slots = self._delta_slots[self._start : self._end]
        alive = self._alive[slots]
        self._free += slots[~alive].tolist()
        self._hold_delta(slots[alive])

    def _hold_delta(self, slots: Slots) -> None:
        """The delta is *slots* from now on."""
        room = max(1024, 2 * len(slots))
        self._delta, self._delta_slots = _grown(self._vectors[slots], room), _grown(slots, room)
        self._start, self._end = 0, len(slots)


def _enough(count: int) -> float:
    """How many of an answer should pass so that *count* do: three standard deviations more, and a few."""
    return count + 3.0 * math.sqrt(count) + 3.0


def _best(slots: Slots, scores: Vectors, count: int) -> NearestSlots:
    if len(scores) > 8 * count:  # below that, sorting all of them is quicker than choosing first
        kept = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        slots, scores = slots[kept], scores[kept]
    order = scores.argsort()[: -count - 1 : -1]
    return slots[order], scores[order]


def _grown(array: NDArray[T], rows: int) -> NDArray[T]:
    """A copy of *array* with room for *rows*; the old one is left as it is, for whoever still reads it."""
    larger = np.zeros((max(rows, len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
