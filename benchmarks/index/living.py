"""Runs the index as the service does, in its own process: queried by a socket, controlled by lines of JSON.

python -m benchmarks.index.living --seed 1 --items 100000 --socket 5      (benchmarks.index.churn starts it)
"""

import argparse
import asyncio
import ctypes
import gc
import json
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.index.asking import ANSWER, QUESTION
from benchmarks.index.vectors import (
    Changes,
    Lean,
    ReplayAnswer,
    ReplayedVectors,
    item_id,
    judge,
    lowest_mean,
    number_of,
    recall,
    record_maker,
    shown,
    source,
)
from benchmarks.index.wired import SWITCH_S, Wired, until
from nearline.adapters.hnsw import HnswGraph
from nearline.features import DIMENSION
from nearline.filters import parse
from nearline.item_vectors import ItemVector, Vectors
from nearline.space import Space
from nearline.telemetry import configure_logs
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.in_process.maintenance import IndexMaintenance

K = 50
CUTS = (10, 50)
_SAMPLE_EVERY_S = 0.06  # interval of sampled answers, one per cut, which are judged afterwards
_WINDOW = 500  # answers per window; the lowest mean of a window is reported
_HELD_OUT = 1_000  # queries that the index has never seen, for the final figures
_LOOK_S = 0.01
_SETTLED_ROWS = 2_000  # a delta of fewer is at rest; the next round may come
_ASKED_IN_ROUND = 25
_AHEAD = 3  # times all items, that are drawn before anything is timed
_NOBODY = np.empty(0, np.uint64)
FILTER = "price < 5"  # prices lie evenly between 0 and 100: a twentieth passes
_KIB_IN_MIB = 1024
_LOOK_AT_MEMORY_S = 0.25  # a measurement walks all pages: more often would slow the process down
_FAST_PER_S, _SERVED_PER_S = 1_000, 500
_QUERIES = 2_000
_BLOCK = 100  # searches of one kind before the other's turn
_PAUSE_S = 0.001
_ALTERNATIONS = 3
_PERCENTILES = (("p50", 50), ("p99", 99))


class Living:
    """The wired index, its answers and their records."""

    def __init__(self, seed: int, items: int, users: int, port: socket.socket) -> None:
        towers = source(seed)
        self.changes = Changes(towers, seed, items, DIMENSION)
        self.wired = Wired(DIMENSION, record_maker(self.changes, Space(1, DIMENSION)))
        self._queries = towers.queries(users)
        self._held_out = towers.queries(_HELD_OUT, skip=users)
        self._socket = port
        self.over = asyncio.Event()
        self._in, self._out = bytearray(), bytearray()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: list[ReplayAnswer] = []
        self._sampled = 0.0
        self._most_delta = 0
        self._most_removed = 0.0

    async def run(self) -> None:
        """Serve until cancelled."""
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.wired.run())
            parts.create_task(self._watch())

    def _receive(self) -> None:
        chunk = self._socket.recv(1 << 16)
        if not chunk:  # the other side has disconnected
            self.over.set()
            return
        self._in += chunk
        whole = len(self._in) // QUESTION.size * QUESTION.size
        for query, due in QUESTION.iter_unpack(bytes(self._in[:whole])):
            task = asyncio.create_task(self._answer(query, due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        del self._in[:whole]

    async def _answer(self, query: int, due: float) -> None:
        # The sample is the answer itself; the k = 10 beside it comes after the clock was stopped.
        picked = await self.wired.catalogue.nearest(self._queries[query], K, _NOBODY, None)
        done = time.perf_counter()
        self._out += ANSWER.pack(due, done, self.wired.index.building)
        self._flush()
        if done - self._sampled >= _SAMPLE_EVERY_S:
            self._sampled = done
            change = self.wired.applied
            tenth = await self.wired.catalogue.nearest(self._queries[query], 10, _NOBODY, None)
            self._note(change, query, {K: picked.item_ids, 10: tenth.item_ids})

    def _note(self, change: int, query: int, found: dict[int, list[str]]) -> None:
        numbers = {k: [number_of(item) for item in items] for k, items in found.items()}
        self._answers.append(ReplayAnswer(change, query, numbers))

    def _flush(self) -> None:
        if self._out:
            try:
                del self._out[: self._socket.send(self._out)]
            except BlockingIOError:
                return
            except OSError:  # the other side has disconnected
                self._out.clear()
                self.over.set()

    async def _watch(self) -> None:
        while True:
            index = self.wired.index
            self._most_delta = max(self._most_delta, index.delta_rows)
            self._most_removed = max(self._most_removed, index.removed_rows / max(1, index.removed_rows + index.live))
            self._flush()
            await asyncio.sleep(_LOOK_S)

    async def load(self) -> dict[str, Any]:
        """List the catalogue; have 300 users ask, so that the width is measured with what comes."""
        self.changes.draw_ahead(_AHEAD * self.changes.items)
        started = time.perf_counter()
        await self.wired.list_catalogue(self.changes.items)
        took_s = time.perf_counter() - started
        for query in self._queries[:300]:
            await self.wired.catalogue.nearest(query, K, _NOBODY, None)
            await asyncio.sleep(0)
        return {"build_s": round(self.wired.index.built_s, 1), "ready_s": round(took_s, 1)}

    async def rate(self, per_s: float) -> dict[str, Any]:
        """So many changes a second from now on."""
        self.wired.feed.at_rate(per_s)
        return await self.state()

    async def state(self) -> dict[str, Any]:
        """The index's state; the largest delta and share of removed rows since ``mark``."""
        index = self.wired.index
        return {
            "replaced": self.wired.applied - self.changes.items,
            "lag": self.wired.feed.sent - self.wired.applied,
            "delta_rows": index.delta_rows,
            "delta_rows_max": self._most_delta,
            "removed_share_max": round(self._most_removed, 3),
            "builds": self.wired.upkeep.builds - 1,
            "build_s": round(index.built_s, 1),
            "building": index.building,
            "widths": asdict(index.widths),
        }

    async def mark(self) -> dict[str, Any]:
        """Reset the maxima of ``state``."""
        self._most_delta, self._most_removed = 0, 0.0
        return {}

    async def rounds(self, count: int, share: float) -> dict[str, Any]:
        """Replace *share* of the items *count* times, each as fast as the index applies them.

        A round begins when the delta of the one before is folded to ``_SETTLED_ROWS``; builds go on beside. Some
        users ask in the middle of each and at its end.
        """
        self.wired.feed.at_rate(0)
        await self.mark()
        each, started = int(share * self.changes.items), time.perf_counter()
        for number in range(count):
            target = self.wired.applied + each
            self.wired.feed.at_once(each)
            for part in (target - each // 2, target):
                await until(lambda part=part: self.wired.applied >= part, look_s=0.001)  # type: ignore[misc]
                await self._ask_some(number)
            await until(lambda: self.wired.index.delta_rows <= _SETTLED_ROWS)
        self.changes.draw_ahead(self.wired.applied + self.changes.items)
        return {"s": round(time.perf_counter() - started, 1), **await self.state()}

    async def _ask_some(self, number: int) -> None:
        for query in range(number * _ASKED_IN_ROUND, (number + 1) * _ASKED_IN_ROUND):
            query %= len(self._queries)
            found = {k: await self.wired.catalogue.nearest(self._queries[query], k, _NOBODY, None) for k in CUTS}
            self._note(self.wired.applied, query, {k: picked.item_ids for k, picked in found.items()})

    async def settle(self) -> dict[str, Any]:
        """Return when no changes are due."""
        index = self.wired.index
        await until(lambda: not (index.fold_due or index.build_due or index.building))
        return await self.state()

    async def judged(self) -> dict[str, Any]:
        """Recall of the answers sampled since the last call, against the items live at each."""
        answers, self._answers = self._answers, []
        recalls = await asyncio.to_thread(judge, self.changes, self._queries, answers)
        means = {f"recall_at_{k}": _rounded(float(np.mean(of))) for k, of in recalls.items()}
        lowest = {f"lowest_recall_at_{k}": _rounded(lowest_mean(of, _WINDOW)) for k, of in recalls.items()}
        return {"answers": len(answers), "window": min(_WINDOW, len(answers)), **means, **lowest}

    async def final(self) -> dict[str, Any]:
        """Recall of held-out users now, and of a graph built anew of the same vectors, its width found the same way."""
        replay = ReplayedVectors(self.changes).to(self.wired.applied)
        served = {k: [await self._found(query, k) for query in self._held_out] for k in CUTS}
        fresh = await self._fresh(replay)
        live, anew = dict[str, float](), dict[str, float]()
        for k in CUTS:
            scores = [replay @ query for query in self._held_out]
            live[f"recall_at_{k}"] = _mean_recall(scores, served[k], k)
            anew[f"fresh_recall_at_{k}"] = _mean_recall(
                scores, [fresh.search(query, k)[0].tolist() for query in self._held_out], k
            )
        widths = {"widths": asdict(self.wired.index.widths), "fresh_widths": asdict(fresh.widths)}
        return {**live, **anew, **widths, "queries": len(self._held_out)}

    async def _found(self, query: Any, k: int) -> list[int]:
        picked = await self.wired.catalogue.nearest(query, k, _NOBODY, None)
        return [number_of(item) for item in picked.item_ids]

    async def _fresh(self, vectors: Any) -> LiveIndex:
        """An index of *vectors*, which has seen the same users; slot = item."""
        fresh = LiveIndex(DIMENSION, lambda capacity: HnswGraph(DIMENSION, capacity))
        for vector in vectors:
            fresh.insert(vector)
        for query in self._queries[:300]:
            fresh.search(query, K)
        upkeep = IndexMaintenance(fresh, lambda: True, pause_s=0.0)
        keeping = asyncio.create_task(upkeep.run())
        await until(lambda: upkeep.builds > 0)
        keeping.cancel()
        await asyncio.wait([keeping])
        return fresh


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _mean_recall(scores: list[Any], found: list[list[int]], k: int) -> float:
    return round(float(np.mean([recall(one, rows, k) for one, rows in zip(scores, found, strict=True)])), 4)


def pss_mib() -> float:
    """The proportional set size of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / _KIB_IN_MIB for line in lines if line.startswith("Pss:"))


def trimmed_mib() -> float:
    """The same once what was freed is given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return pss_mib()


class Peak:
    """The greatest proportional set size while the ``with`` lasts, looked at from a thread."""

    def __enter__(self) -> "Peak":
        self.mib, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_AT_MEMORY_S):
            self.mib = max(self.mib, pss_mib())


async def memory(seed: int, items: int, dimension: int) -> dict[str, float]:
    """MiB of catalogue and index: at rest, the most while a third is replaced and a graph built, at rest again."""
    lean = Lean(source(seed), seed, items, dimension)
    wired = Wired(dimension, record_maker(lean, Space(1, dimension)))
    lean.of(0)
    empty = trimmed_mib()
    keeping = asyncio.create_task(wired.run())
    with Peak() as first:
        await wired.list_catalogue(items)
    found = {"steady": pss_mib() - empty, "steady_trimmed": trimmed_mib() - empty, "first_build": first.mib - empty}
    with Peak() as peak:
        builds = wired.upkeep.builds
        wired.feed.at_rate(_FAST_PER_S)
        await until(lambda: wired.index.building)
        wired.feed.at_rate(_SERVED_PER_S)
        await until(lambda: wired.upkeep.builds > builds)
        wired.feed.at_rate(0)
        await until(lambda: not (wired.index.fold_due or wired.index.building))
    found |= {"folding": peak.mib - empty, "steady_after": pss_mib() - empty, "empty": empty}
    await _cancel(keeping)
    return {name: round(mib, 1) for name, mib in found.items()}


async def catalogue_alone(items: int) -> dict[str, float]:
    """MiB of what a catalogue holds beside the index: its vectors have one dimension here."""
    catalogue = Catalogue(1, LiveIndex(1, lambda capacity: HnswGraph(1, capacity)))
    vector = np.ones(1, np.float32)
    empty = trimmed_mib()
    for number in range(items):
        value = ItemVector(item_id(number), 1, shown(number), vector, vector.astype(np.float16), "")
        catalogue.apply(value)
    return {"catalogue": round(trimmed_mib() - empty, 1)}


async def filtered(seed: int, items: int, dimension: int) -> dict[str, Any]:
    """The build as the service does it; then a search with a filter beside one without, in turn."""
    towers = source(seed)
    changes = Changes(towers, seed, items, dimension)
    wired = Wired(dimension, record_maker(changes, Space(1, dimension)))
    queries = towers.queries(_QUERIES, dimension=dimension)
    keeping = asyncio.create_task(wired.run())
    await wired.list_catalogue(items)
    build_s = wired.index.built_s
    for query in queries[:300]:
        await wired.catalogue.nearest(query, K, _NOBODY, None)
    await asyncio.sleep(6)  # the width is measured anew with what came, after the upkeep's rest
    await until(lambda: not (wired.index.fold_due or wired.index.building))
    quiet = await _compare(wired, queries)
    share = await _recall_filtered(wired, queries[:200], ReplayedVectors(changes).to(wired.applied))
    wired.feed.at_rate(_SERVED_PER_S)
    beside = await _compare(wired, queries)
    await _cancel(keeping)
    known = share is not None
    return {
        "build_s": round(build_s, 1),
        "recall_at_50": share,
        "extra": quiet if known else None,
        "beside_500_per_s": beside if known else None,
        "widths": asdict(wired.index.widths),
    }


async def _compare(wired: Wired, queries: Vectors) -> dict[str, Any]:
    """Percentiles of both kinds in ms, and by how much the p99 with a filter is above: median, lowest, highest."""
    wanted = parse(FILTER)
    turns = []
    for _ in range(_ALTERNATIONS):
        took: dict[str, list[float]] = {"without": [], "with": []}
        for start in range(0, len(queries), _BLOCK):
            for kind, condition in (("without", None), ("with", wanted)):
                for query in queries[start : start + _BLOCK]:
                    began = time.perf_counter()
                    await wired.catalogue.nearest(query, K, _NOBODY, condition)
                    took[kind].append((time.perf_counter() - began) * 1e3)
                    if len(took[kind]) % 10 == 0:
                        await asyncio.sleep(_PAUSE_S)
        turns.append(
            {f"{p}_{kind}": float(np.percentile(of, at)) for kind, of in took.items() for p, at in _PERCENTILES}
        )
    extra = sorted(turn["p99_with"] - turn["p99_without"] for turn in turns)
    told = {name: round(float(np.median([turn[name] for turn in turns])), 3) for name in turns[0]}
    return {
        "p99": round(extra[len(extra) // 2], 3),
        "p99_low": round(extra[0], 3),
        "p99_high": round(extra[-1], 3),
        **told,
    }


async def _recall_filtered(wired: Wired, queries: Vectors, vectors: Vectors) -> float | None:
    """Recall of filtered answers against exact search of the items that pass; ``None`` if others are in them."""
    wanted = parse(FILTER)
    passing = np.array([(shown(number).price or 0) < 5 for number in range(len(vectors))])
    shares = []
    for query in queries:
        picked = await wired.catalogue.nearest(query, K, _NOBODY, wanted)
        numbers = [number_of(item) for item in picked.item_ids]
        if not passing[numbers].all():
            return None
        scores = np.where(passing, vectors @ query, np.float32(-2))
        shares.append(recall(scores, numbers, K))
    return round(float(np.mean(shares)), 4)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def listen(living: Living, loop: asyncio.AbstractEventLoop) -> None:
    """Do what lines of JSON say until there are no more."""
    names = ("load", "rate", "mark", "state", "rounds", "settle", "judged", "final")
    commands = {name: getattr(living, name) for name in names}
    commands |= {"memory": memory, "catalogue_alone": catalogue_alone, "filtered": filtered}
    try:
        for line in sys.stdin:
            told = json.loads(line)
            done = asyncio.run_coroutine_threadsafe(commands[told.pop("do")](**told), loop)
            print(json.dumps(done.result()), flush=True)
    finally:
        loop.call_soon_threadsafe(living.over.set)


async def serve(given: argparse.Namespace) -> None:
    """Run until the commands end."""
    with socket.socket(fileno=given.socket) as port:
        port.setblocking(False)
        living = Living(given.seed, given.items, given.users, port)
        threading.Thread(target=listen, args=(living, asyncio.get_running_loop()), daemon=True).start()
        running = asyncio.create_task(living.run())
        stopping = asyncio.create_task(living.over.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()


def main() -> None:
    """Become the index under test."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=3_000, help="users who ask; the others are held out")
    given = parser.parse_args()
    configure_logs("bench-index", level="warning")
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given))


if __name__ == "__main__":
    main()
