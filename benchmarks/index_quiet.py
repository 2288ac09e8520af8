"""What the index costs when nobody hurries it: memory at rest and while it is rebuilt, a build, a filter.

Each in a process of its own, the service's classes on the service's event loop (benchmarks/index_wired.py):

    python -m benchmarks.index_quiet --what memory --dimension 128 --items 100000

Memory is the process's proportional set size above what it was with everything imported and nothing listed.
"""

import argparse
import asyncio
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.index_asking import SURROUNDINGS
from benchmarks.index_changes import Changes, ReplayedVectors, recall
from benchmarks.index_vectors import TowerVectors, source
from benchmarks.index_wired import SWITCH_S, Wired, item_id, number_of, record_maker, shown, until
from local.layout import ROOT
from local.system import Say
from nearline.adapters.hnsw import HnswGraph
from nearline.errors import Unavailable
from nearline.features import DIMENSION
from nearline.filters import parse
from nearline.item_vectors import ItemVector, Vectors, encode_item_vector
from nearline.log import Record
from nearline.space import Space
from nearline.telemetry import configure_logs
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex

K = 50
FILTER = "price < 5"  # prices lie evenly between 0 and 100: a twentieth passes
_MIB = 1024
_CHUNK = 500
_LOOK_S = 0.25  # a look walks all pages: more often would slow down what is looked at
_FAST_PER_S, _SERVED_PER_S = 1_000, 500
_QUERIES = 2_000
_BLOCK = 100  # searches of one kind before the other's turn
_PAUSE_S = 0.001
_ALTERNATIONS = 3
_NOBODY = np.empty(0, np.uint64)


class Lean:
    """Records of new vectors for ever, drawn a few hundred at a time: it holds next to nothing."""

    def __init__(self, towers: TowerVectors, seed: int, items: int, space: Space) -> None:
        self._items, self._space = items, space
        self._chunk = lru_cache(1)(
            lambda number: towers.draw(np.random.default_rng((seed, number)), _CHUNK, dimension=space.dimension)
        )

    def vector(self, change: int) -> Vectors:
        """The vector of this change."""
        vector: Vectors = self._chunk(change // _CHUNK)[change % _CHUNK]
        return vector

    def record(self, change: int) -> Record:
        """The record of this change: every item in turn."""
        item, vector = change % self._items, self.vector(change)
        value = ItemVector(item_id(item), change + 1, shown(item), vector, vector.astype(np.float16), "")
        return Record("item-vectors", 0, change, 0, value.item_id.encode(), encode_item_vector(value, self._space))


def pss_mib() -> float:
    """The proportional set size of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / _MIB for line in lines if line.startswith("Pss:"))


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
        while not self._over.wait(_LOOK_S):
            self.mib = max(self.mib, pss_mib())


async def memory(seed: int, items: int, dimension: int) -> dict[str, float]:
    """MiB of catalogue and index: at rest, the most while a third is replaced and a graph built, at rest again."""
    lean = Lean(source(seed), seed, items, Space(1, dimension))
    wired = Wired(dimension, lean.record)
    lean.vector(0)
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


async def catalogue_alone(seed: int, items: int, dimension: int) -> dict[str, float]:
    """MiB of what a catalogue holds beside the index: its vectors have one dimension here."""
    space = Space(1, 1)
    catalogue = Catalogue(1, LiveIndex(1, lambda capacity: HnswGraph(1, capacity)))
    vector = np.ones(1, np.float32)
    empty = trimmed_mib()
    for number in range(items):
        value = ItemVector(item_id(number), 1, shown(number), vector, vector.astype(np.float16), "")
        catalogue.apply(value)
    return {"catalogue": round(trimmed_mib() - empty, 1), "dimension": space.dimension}


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


_PERCENTILES = (("p50", 50), ("p99", 99))


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


_WHAT = {"memory": memory, "catalogue": catalogue_alone, "filtered": filtered}


def measure_memory(items: int, seed: int, say: Say) -> dict[str, Any]:
    """``{"mib_per_100k": …}`` of 128 dimensions: the index alone, the catalogue's own data, the whole process."""
    say("memory of the catalogue without an index")
    data = _ask("catalogue", items, seed, 128)["catalogue"]
    say("memory at rest and while a third is replaced, 128 dimensions")
    whole = _ask("memory", items, seed, 128)
    scale = 100_000 / items
    alone = {name: round((whole[name] - data) * scale, 1) for name in ("steady", "folding")}
    return {"mib_per_100k": {**alone, "catalogue": round(data * scale, 1), "whole": whole}}


def measure_filter(items: int, seed: int, say: Say) -> dict[str, Any]:
    """``{"filter_5pct_extra_ms": …, "build_s": …}``."""
    say("a build, and a filter that 5 % pass")
    found = _ask("filtered", items, seed, DIMENSION)
    extra = found["extra"] or {"p99": None}
    return {
        "build_s": found["build_s"],
        "filter_5pct_extra_ms": {
            **extra,
            "recall_at_50": found["recall_at_50"],
            "beside_500_per_s": found["beside_500_per_s"],
        },
    }


def _ask(what: str, items: int, seed: int, dimension: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.index_quiet", "--what", what, "--items", str(items)]
    words += ["--seed", str(seed), "--dimension", str(dimension)]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **SURROUNDINGS}, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise Unavailable(f"{what} of {items:,} x {dimension} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Measure one thing in this process and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--what", choices=_WHAT, required=True)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dimension", type=int, default=DIMENSION)
    given = parser.parse_args()
    configure_logs("bench-index", level="warning")
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_WHAT[given.what](given.seed, given.items, given.dimension))))


if __name__ == "__main__":
    main()
