"""The index alone: how long a search takes, and how much of the truth it finds.

Three kinds of vectors, since how wide a graph must be searched depends on them: tight clusters of about 50 items, loose
ones, and vectors of few dimensions in a space of many. One thread; times are of the thread's own processor, so other
work on the machine disturbs them less.

    python -m benchmarks.index --items 100000
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from nearline.adapters.hnsw import HnswGraph
from nearline.item_vectors import Vectors
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.in_process.widths import ENOUGH, Settling, Widths

Drawn = tuple[Vectors, Vectors]  # items and queries, unit norm

DIMENSION = 64
K = 50
_QUERIES = 500
_ROUNDS = 3  # the quickest counts
_TUNABLE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576"  # as services/retrieval/__main__.py sets it


def clusters(random: np.random.Generator, items: int, *, spread: float) -> Drawn:
    """About 50 items around each of many centres; *spread* is the noise against the centres' own."""
    centres = random.standard_normal((max(1, items // 50), DIMENSION))

    def draw(count: int) -> Vectors:
        chosen = centres[random.integers(0, len(centres), count)]
        return _unit(chosen + spread * random.standard_normal((count, DIMENSION)))

    return draw(items), draw(_QUERIES)


def few_dimensions(random: np.random.Generator, items: int) -> Drawn:
    """Two hundred overlapping tastes in 16 dimensions, seen through 64, with a little noise."""
    basis = random.standard_normal((16, DIMENSION)) / 4
    centres = random.standard_normal((200, 16))

    def draw(count: int) -> Vectors:
        taste = centres[random.integers(0, 200, count)] + 0.7 * random.standard_normal((count, 16))
        return _unit(taste @ basis + 0.1 * random.standard_normal((count, DIMENSION)))

    return draw(items), draw(_QUERIES)


KINDS: Mapping[str, Callable[[np.random.Generator, int], Drawn]] = {
    "tight clusters": lambda random, items: clusters(random, items, spread=0.5),
    "loose clusters": lambda random, items: clusters(random, items, spread=0.7),
    "16 of 64 dimensions": few_dimensions,
}


def _unit(vectors: NDArray[np.float64]) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def truth_of(items: Vectors, queries: Vectors) -> list[set[int]]:
    """The *K* best rows of *items* for each query, by exact search."""
    return [set(np.argpartition(items @ query, len(items) - K)[-K:].tolist()) for query in queries]


def timed_us(search: Callable[[Vectors], object], queries: Vectors) -> float:
    """Microseconds of processor time for one search, the best of a few rounds."""
    rounds = []
    for _ in range(_ROUNDS):
        started = time.thread_time()
        for query in queries:
            search(query)
        rounds.append((time.thread_time() - started) / len(queries) * 1e6)
    return min(rounds)


def recall(search: Callable[[Vectors], NDArray[np.int64]], queries: Vectors, truth: list[set[int]]) -> float:
    """Share of the true neighbours that *search* finds."""
    hits = sum(len(true.intersection(search(query).tolist())) for query, true in zip(queries, truth, strict=True))
    return hits / (K * len(queries))


def measure(kind: str, items: int, seed: int, table: Table) -> None:
    """Add the rows of one kind of vectors to *table*."""
    vectors, queries = KINDS[kind](np.random.default_rng(seed), items)
    truth = truth_of(vectors, queries)
    index = LiveIndex(DIMENSION, lambda capacity: HnswGraph(DIMENSION, capacity))
    started = time.thread_time()
    for vector in vectors:
        index.insert(vector)
    inserted_us = (time.thread_time() - started) / items * 1e6
    exact_us = timed_us(lambda query: index.search(query, K), queries[:50])
    build = index.start_build()
    started = time.thread_time()
    build.run(lambda: False)
    built_s = time.thread_time() - started
    index.adopt(build)
    chosen = settled_widths(index)
    title = f"{kind}: built in {built_s:.0f} s, an insert {inserted_us:.1f} us, exact search {exact_us:,.0f} us"
    table.add_section()
    table.add_row(title)
    for width in sorted({50, 64, 96, 128, 192, 256, 320, chosen.of(K)}):
        index.widths = Widths(width, width)
        _row(table, index, queries, truth, f"{width}{' (chosen)' if width == chosen.of(K) else ''}", "0")
    index.widths = chosen
    for rows in (1_000, 5_000):
        _grow_delta(index, rows, np.random.default_rng(seed + 1))
        _row(table, index, queries, None, str(chosen.of(K)), f"{rows:,}")


def settled_widths(index: LiveIndex) -> Widths:
    """What the service would settle on before any user came."""
    queries = index.queries()
    settled = {k: Settling(index.widths.of(k), enough) for k, enough in ENOUGH.items()}
    for k, settling in settled.items():
        while settling.width is None:
            settling.learn({width: _recall_at(index, queries, k, width) for width in settling.untried()})
    return Widths(settled[10].width or 0, settled[50].width or 0)


def _recall_at(index: LiveIndex, queries: Vectors, k: int, width: int) -> float:
    shares = []
    for query in queries:
        with index.moment(query) as moment:
            shares.append(moment.recall({k: index.find(query, k, width=width)[0]}, int)[k])
    return float(np.mean(shares))


def _row(
    table: Table, index: LiveIndex, queries: Vectors, truth: list[set[int]] | None, width: str, delta: str
) -> None:
    took = timed_us(lambda query: index.search(query, K), queries)
    found = "" if truth is None else f"{recall(lambda query: index.search(query, K)[0], queries, truth):.4f}"
    table.add_row("", width, delta, f"{took:.0f}", f"{1e6 / took:,.0f}", found)


def _grow_delta(index: LiveIndex, rows: int, random: np.random.Generator) -> None:
    for vector in _unit(random.standard_normal((rows - index.delta_rows, DIMENSION))):
        index.insert(vector)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description="Searches a second and recall of the index alone, in one thread.")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=[*KINDS], action="append", help="only this kind of vectors")
    given = parser.parse_args()
    table = Table(title=f"{given.items:,} x {DIMENSION}, seed {given.seed}, load {os.getloadavg()[0]:.1f}")
    for name in ("vectors", "width (ef)", "delta rows", "us a search", "searches/s", f"recall@{K}"):
        table.add_column(name, justify="left" if name == "vectors" else "right")
    for kind in given.kind or KINDS:
        measure(kind, given.items, given.seed, table)
    Console().print(table)


if __name__ == "__main__":
    if _TUNABLE not in os.environ.get("GLIBC_TUNABLES", ""):  # read when a program starts
        os.environ |= {"GLIBC_TUNABLES": _TUNABLE, "OPENBLAS_NUM_THREADS": "1"}
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    main()
