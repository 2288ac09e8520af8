"""Maintains the index while it serves requests: folds the delta, rebuilds the graph, measures the search width.

Folding and measuring run on the event loop that serves requests, in slices of half a millisecond, or longer ones when
requests leave no time (loop_budget.py); long work runs in low-priority threads, over rows that do not change.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial

from nearline.item_vectors import Vectors
from nearline.telemetry import counter, gauge, get_logger
from services.retrieval.in_process.background import Background, give_back
from services.retrieval.in_process.graphs import Build
from services.retrieval.in_process.index import ASKED_ENOUGH, LiveIndex
from services.retrieval.in_process.live_recall import LiveRecall
from services.retrieval.in_process.loop_budget import fold_slice_s, measure_slice_s
from services.retrieval.in_process.widths import ENOUGH, ROUGH, Asking, Settling, Widths, rough_width
from services.retrieval.items.interface import AVAILABLE_ITEMS

_BETWEEN_S = 0.001  # between two slices, if requests leave time: some 900 rows a second are folded
_REPORT_S = 0.5
_AT_ONCE = 100  # queries compared at one moment, at most: its rows cannot be reused until all are compared
_MORE = 4  # measure again after so many times as many queries as before
_IDLE_SLOWDOWN = 15  # factor on the pause between queries while recall is fine: measuring takes 1 % of the time, not 15
_ROUGHLY = 32  # queries, enough to tell a width from one twice as large
_PRUNED = 300  # rows of a slice, about 0.5 ms: 20,000 are removed while 100,000 rows are built at 500 changes/s
_WORTH_A_BUILD = 0.02  # share of removed rows; fewer cannot be the cause of a lower recall

_DELTA = gauge("index_delta_rows", "Rows that are searched exactly because they are not in the graph yet")
_REMOVED = gauge("index_removed_rows", "Removed rows that the graph still contains")
_WIDTH = gauge(
    "index_width_candidates",
    "Measured search width (ef) of the graph for k results",
    "k",
    known=map(str, ENOUGH),
)
_BUILDS = counter("index_builds_total", "Graphs that were built and adopted")


class IndexMaintenance:
    """Folds the delta, rebuilds the graph and measures it, whenever the index or its live recall makes it due.

    No graph is built before *loaded* returns true, because it would be rebuilt over and over while items load.
    """

    def __init__(
        self,
        index: LiveIndex,
        loaded: Callable[[], bool],
        recall: LiveRecall | None = None,
        *,
        rest_s: float = 5.0,
        pause_s: float = 0.01,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pause_s = pause_s
        self._clock = clock  # in seconds
        self._index = index
        self._loaded = loaded
        self.recall = recall or LiveRecall(index)
        self.builds = 0  # graphs that were adopted and measured
        self._rest_s = rest_s
        self._built_at = self._measured_at = -rest_s
        self._measure_at = ASKED_ENOUGH
        self._waited_s = 0.0  # for how long requests kept measuring waiting last time
        self._is_guess = True  # the widths were not measured with real queries yet
        self._is_folding, self._folded_at = False, 0.0
        self._stopping = threading.Event()
        self._builder = Background("index-build")

    async def run(self, idle_s: float = 0.05) -> None:
        """Maintain the index until cancelled; a running build is then cancelled too."""
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(_repeat(self._fold, idle_s))
                parts.create_task(_repeat(self.step, idle_s))
                parts.create_task(self.recall.run())
                parts.create_task(self._report())
        finally:
            self._stopping.set()
            self._builder.close()

    async def step(self) -> bool:
        """Rebuild or measure if due; return whether either was."""
        if self._is_build_due():
            await self._rebuild()
        elif self.recall.has_fallen:
            await self._restore_recall()
        elif self._is_measure_due():
            await self._measure(self._pause_s if self._is_guess else _IDLE_SLOWDOWN * self._pause_s)
        else:
            return False
        return True

    def _is_build_due(self) -> bool:
        return self._loaded() and self._index.build_due and self._has_rested(self._built_at)

    def _is_measure_due(self) -> bool:
        enough = self._index.has_graph and self._index.asks >= self._measure_at
        return enough and (self._is_guess or self._has_rested(self._measured_at))

    def _has_rested(self, since: float) -> bool:
        return time.monotonic() - since >= self._rest_s

    async def _fold(self) -> bool:
        """Fold for half a millisecond, or longer if requests kept it waiting; return whether folding was due."""
        due, started = self._index.fold_due, self._clock()
        waited = started - self._folded_at if self._is_folding else 0.0
        end = started + fold_slice_s(waited, self._index.delta_rows)
        while self._index.fold_due and self._clock() < end:
            self._index.fold()
        self._is_folding, self._folded_at = due, self._clock()
        return due

    async def _rebuild(self) -> None:
        await self._build()
        await self._builder.run(give_back)
        await self._measure()
        self.builds += 1

    async def _restore_recall(self) -> None:
        """Measure the widths again; if they do not grow and removed rows may be the cause, rebuild the graph."""
        was = self._index.widths
        get_logger().warning("live recall has fallen", **self.recall.report())
        await self._measure()
        now = self._index.widths
        wider = now.of_10 > was.of_10 or now.of_50 > was.of_50
        if not wider and self._index.removed_rows > _WORTH_A_BUILD * self._index.live:
            await self._rebuild()

    async def _build(self) -> None:
        started = time.monotonic()
        build = self._index.start_build()
        try:
            while await self._builder.run(lambda: build.run(self._stopping.is_set)):
                if not self._index.extend(build):
                    while self._index.prune(build, _PRUNED):
                        await asyncio.sleep(0)
                    self._index.adopt(build)
                    self._note(build, time.monotonic() - started)
                    return
        finally:
            self._index.drop(build)
            self._built_at = time.monotonic()

    def _note(self, build: Build, took_s: float) -> None:
        _BUILDS.inc()
        get_logger().info("built a graph", rows=len(build.slots), took_s=round(took_s, 1))

    async def _measure(self, pause_s: float | None = None) -> None:
        """Set the smallest widths with enough recall; stop without a change if a build becomes due."""
        pause_s = self._pause_s if pause_s is None else pause_s
        real = self._index.asks >= ASKED_ENOUGH
        self._measure_at = _MORE * self._index.asks + ASKED_ENOUGH
        queries = self._index.queries()
        near = await self._roughly(queries[:: max(1, len(queries) // _ROUGHLY)], pause_s)
        if self._is_guess:
            self._index.widths = near
        settling = {k: Settling(near.of(k), enough) for k, enough in ENOUGH.items()}
        while asking := [(k, width) for k, one in settling.items() for width in one.untried() if one.width is None]:
            recalls = await self._recalls(queries, asking, pause_s)
            for k, one in settling.items():
                one.learn({width: recall for (of, width), recall in recalls.items() if of == k})
            if self._is_build_due():
                return
        found = {k: one.width or self._index.widths.of(k) for k, one in settling.items()}
        self._index.widths = Widths(found[10], found[50])
        self._measured_at, self._is_guess = time.monotonic(), not real
        self.recall.forget()
        get_logger().info("measured the graph", width_of_10=found[10], width_of_50=found[50], queries=len(queries))

    async def _roughly(self, queries: Vectors, pause_s: float) -> Widths:
        """Roughly sufficient widths from few queries: quickly, because a width twice too large slows all searches."""
        recalls = await self._recalls(queries, [(k, width) for k in ENOUGH for width in ROUGH], pause_s)
        found = {
            k: rough_width({width: recall for (of, width), recall in recalls.items() if of == k}, enough)
            for k, enough in ENOUGH.items()
        }
        return Widths(found[10], found[50])

    async def _recalls(self, queries: Vectors, asking: Sequence[Asking], pause_s: float) -> dict[Asking, float]:
        """The mean recall of each of *asking*: query by query, or several at once if requests leave no time."""
        sums = dict.fromkeys(asking, 0.0)
        done = 0
        while done < len(queries):
            compared = await self._compare(queries[done : done + _AT_ONCE], asking, measure_slice_s(self._waited_s))
            for recalls in compared:
                for one, recall in recalls.items():
                    sums[one] += recall / len(queries)
            done += len(compared)
            paused = self._clock()
            await asyncio.sleep(pause_s)
            self._waited_s = max(0.0, self._clock() - paused - pause_s)
        return sums

    async def _compare(self, queries: Vectors, asking: Sequence[Asking], slice_s: float) -> list[dict[Asking, float]]:
        """The recalls of as many of *queries* as fit in *slice_s*, at least one; all at the same moment."""
        end = self._clock() + slice_s
        with ExitStack() as held:
            work = []
            for query in queries:
                moment = held.enter_context(self._index.moment(query))
                found = {(k, width): self._index.find(query, k, width=width)[0] for k, width in asking}
                work.append(partial(moment.recall, found, cut=lambda one: one[0]))
                if self._clock() >= end:
                    break
            return await self._builder.run(lambda: [recall() for recall in work])

    async def _report(self) -> None:
        """Update the gauges twice a second, even during a build."""
        while True:
            AVAILABLE_ITEMS.set(self._index.live)
            _DELTA.set(self._index.delta_rows)
            _REMOVED.set(self._index.removed_rows)
            for k in ENOUGH:
                _WIDTH.labels(str(k)).set(self._index.widths.of(k))
            await asyncio.sleep(_REPORT_S)


async def _repeat(work: Callable[[], Awaitable[bool]], idle_s: float) -> None:
    """Call *work* forever: at once while it returns true, else after *idle_s*."""
    while True:
        await asyncio.sleep(_BETWEEN_S if await work() else idle_s)
