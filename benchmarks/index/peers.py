"""Measures other indexes at the same task: libraries at equal recall, and simple indexes built on them.

    .venv/peers/bin/python -m benchmarks.index.peers --peer "faiss HNSW SQ8" --folder build/bench-index/peers
    .venv/peers/bin/python -m benchmarks.index.peers --beside locked --folder build/bench-index/plain --socket 5

Runs in the environment ``peers``, which has numpy and these libraries alone, on vectors in ``.npy`` files; ``compare``
and benchmarks/index/churn.py write those and start it, one process for each index, so that one's memory is not
another's. Searches come one at a time from one thread of Python, as in the service. A peer's result is one line of
JSON. An index *beside* ours is queried by a socket while its vectors change; ``locked`` is hnswlib with one lock around
everything, ``flat`` exact search by faiss, where a change overwrites the old row.
"""

import argparse
import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.index.asking import ANSWER, QUESTION, SURROUNDINGS, Pace
from local.layout import BUILD, ROOT, environment_python
from nearline.errors import Misconfigured, Unavailable
from nearline.item_vectors import Vectors

if TYPE_CHECKING:  # it needs libraries that the environment peers does not have
    from benchmarks.index.vectors import TowerVectors

Labels = NDArray[np.int64]

K = 50
RECALLS = (0.955, 0.99)
LINKS, BUILD_WIDTH = 32, 200
PASSING = 0.05  # of the rows, of the filter
_WIDEST = 2_000
_ROUNDS = 3  # the quickest counts
_SINGLE = 500  # rows that are added one by one
_SPARE = 5_000
_GROW = 1.25
_TICK_S = 0.0002
_CHANGES_EVERY_S = 0.005
_SAMPLE_EVERY_S = 0.1
_MEASURED = 200
_MIB = 1024 * 1024


class Peer(Protocol):
    """One index under test."""

    def build(self, vectors: Vectors, threads: int) -> None:
        """Hold *vectors* under the labels 0, 1, 2, …"""

    def search(self, vector: Vectors, width: int) -> Labels:
        """About the *K* best labels."""

    def add(self, label: int, vector: Vectors) -> None:
        """One more row."""

    def save(self, path: str) -> None:
        """Write it."""

    def load(self, path: str) -> None:
        """Read what ``save`` wrote, in place of what it held."""

    def filtered(self, passing: NDArray[np.bool_]) -> Callable[[Vectors, int], Labels] | None:
        """A search of rows that pass alone, or ``None`` if it knows no such thing."""


class Hnswlib:
    """hnswlib, as nearline/adapters/hnsw.py uses it."""

    def __init__(self, dimension: int, links: int = LINKS) -> None:
        import hnswlib

        self._make: Callable[[], Any] = lambda: hnswlib.Index("ip", dimension)
        self._links = links
        self._index: Any = None

    def build(self, vectors: Vectors, threads: int) -> None:
        self._index = self._make()
        self._index.init_index(len(vectors) + _SPARE, M=self._links, ef_construction=BUILD_WIDTH, random_seed=100)
        self._index.add_items(vectors, np.arange(len(vectors)), num_threads=threads)

    def search(self, vector: Vectors, width: int) -> Labels:
        self._index.set_ef(width)
        found: Labels = self._index.knn_query(vector, k=K, num_threads=1)[0][0].astype(np.int64)
        return found

    def add(self, label: int, vector: Vectors) -> None:
        if label >= self._index.get_max_elements():
            self._index.resize_index(int(label * _GROW))
        self._index.add_items(vector, label, num_threads=1)

    def remove(self, label: int) -> None:
        """Never find it again."""
        self._index.mark_deleted(label)

    def save(self, path: str) -> None:
        self._index.save_index(path)

    def load(self, path: str) -> None:
        index = self._make()
        index.load_index(path, max_elements=self._index.get_max_elements())
        self._index = index

    def filtered(self, passing: NDArray[np.bool_]) -> Callable[[Vectors, int], Labels]:
        passes = passing.tolist().__getitem__

        def search(vector: Vectors, width: int) -> Labels:
            self._index.set_ef(width)
            found: Labels = self._index.knn_query(vector, k=K, num_threads=1, filter=passes)[0][0].astype(np.int64)
            return found

        return search


class Faiss:
    """faiss: HNSW over a storage of some precision, or flat."""

    def __init__(self, dimension: int, storage: str, *, again: int = 0) -> None:
        import faiss

        self._faiss: Any = faiss
        self._dimension, self._storage = dimension, storage
        self._again = again  # candidates whose exact scores decide, 0 for none
        self._index: Any = None
        self._exact: Vectors = np.empty((0, dimension), np.float32)
        faiss.omp_set_num_threads(1)

    def _make(self) -> Any:
        faiss, metric = self._faiss, self._faiss.METRIC_INNER_PRODUCT
        if self._storage == "flat":
            return faiss.IndexFlatIP(self._dimension)
        if self._storage == "f32":
            index = faiss.IndexHNSWFlat(self._dimension, LINKS, metric)
        else:
            kind = {"SQ8": faiss.ScalarQuantizer.QT_8bit, "fp16": faiss.ScalarQuantizer.QT_fp16}[self._storage]
            index = faiss.IndexHNSWSQ(self._dimension, kind, LINKS, metric)
        index.hnsw.efConstruction = BUILD_WIDTH
        return index

    def build(self, vectors: Vectors, threads: int) -> None:
        self._index = self._make()
        self._faiss.omp_set_num_threads(threads)
        if not self._index.is_trained:
            self._index.train(vectors)
        self._index.add(vectors)
        self._faiss.omp_set_num_threads(1)
        if self._again:
            self._exact = np.zeros((len(vectors) + _SPARE, self._dimension), np.float32)
            self._exact[: len(vectors)] = vectors

    def search(self, vector: Vectors, width: int) -> Labels:
        return self._search(vector, width, None)

    def _search(self, vector: Vectors, width: int, selector: Any) -> Labels:
        count = max(K, self._again)
        options: dict[str, Any] = {} if selector is None else {"params": self._params(width, selector)}
        if self._storage != "flat":
            self._index.hnsw.efSearch = max(width, count)
        labels: Labels = self._index.search(vector[None], count, **options)[1][0]
        if not self._again:
            return labels
        labels = labels[labels >= 0]
        scores = self._exact[labels] @ vector
        best: Labels = labels[np.argpartition(scores, max(0, len(scores) - K))[-K:]]
        return best

    def _params(self, width: int, selector: Any) -> Any:
        if self._storage == "flat":
            return self._faiss.SearchParameters(sel=selector)
        return self._faiss.SearchParametersHNSW(sel=selector, efSearch=max(width, K, self._again))

    def add(self, label: int, vector: Vectors) -> None:
        self._index.add(vector[None])
        if self._again:
            self._exact[label] = vector

    def save(self, path: str) -> None:
        self._faiss.write_index(self._index, path)

    def load(self, path: str) -> None:
        self._index = self._faiss.read_index(path)

    def filtered(self, passing: NDArray[np.bool_]) -> Callable[[Vectors, int], Labels]:
        kept = np.packbits(passing, bitorder="little")
        selector = self._faiss.IDSelectorBitmap(kept)

        def search(vector: Vectors, width: int) -> Labels:
            return self._search(vector, width, selector)

        search.kept = kept  # type: ignore[attr-defined]  # faiss does not keep the bits alive
        return search


class Usearch:
    """usearch: HNSW in some precision; its Python knows no filters."""

    def __init__(self, dimension: int, precision: str) -> None:
        from usearch.index import Index

        self._make: Callable[[], Any] = lambda: Index(
            ndim=dimension, metric="ip", dtype=precision, connectivity=LINKS, expansion_add=BUILD_WIDTH
        )
        self._index: Any = None

    def build(self, vectors: Vectors, threads: int) -> None:
        self._index = self._make()
        self._index.add(np.arange(len(vectors)), vectors, threads=threads)

    def search(self, vector: Vectors, width: int) -> Labels:
        self._index.expansion_search = width
        found: Labels = self._index.search(vector, K, threads=1).keys.astype(np.int64)
        return found

    def add(self, label: int, vector: Vectors) -> None:
        self._index.add(label, vector, threads=1)

    def save(self, path: str) -> None:
        self._index.save(path)

    def load(self, path: str) -> None:
        index = self._make()
        index.load(path)
        self._index = index

    def filtered(self, passing: NDArray[np.bool_]) -> None:
        return None


PEERS: Mapping[str, Callable[[int], Peer]] = {
    "hnswlib": lambda dimension: Hnswlib(dimension),
    "hnswlib, 16 links": lambda dimension: Hnswlib(dimension, 16),
    "faiss HNSW": lambda dimension: Faiss(dimension, "f32"),
    "faiss HNSW fp16": lambda dimension: Faiss(dimension, "fp16"),
    "faiss HNSW SQ8": lambda dimension: Faiss(dimension, "SQ8"),
    "faiss HNSW SQ8, re-ranked": lambda dimension: Faiss(dimension, "SQ8", again=2 * K),
    "usearch f32": lambda dimension: Usearch(dimension, "f32"),
    "usearch f16": lambda dimension: Usearch(dimension, "f16"),
    "usearch bf16": lambda dimension: Usearch(dimension, "bf16"),
    "usearch i8": lambda dimension: Usearch(dimension, "i8"),
    "faiss flat": lambda dimension: Faiss(dimension, "flat"),
}


def recall(search: Callable[[Vectors], Labels], queries: Vectors, truth: Labels) -> float:
    """Share of the true neighbours that are found."""
    hits = sum(len(np.intersect1d(search(query), true)) for query, true in zip(queries, truth, strict=True))
    return hits / truth.size


def width_for(search: Callable[[Vectors, int], Labels], queries: Vectors, truth: Labels, wanted: float) -> int | None:
    """The least width with enough recall, by halving; ``None`` if not even the widest search has it."""

    def enough(width: int) -> bool:
        return recall(lambda query: search(query, width), queries, truth) >= wanted

    low, high = K, K
    while not enough(high):
        if high == _WIDEST:
            return None
        low, high = high, min(2 * high, _WIDEST)
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def timed(search: Callable[[Vectors], Labels], queries: Vectors) -> dict[str, float]:
    """Searches/s, and the percentiles of one in us."""
    best = np.empty(0)
    for _ in range(_ROUNDS):
        took = np.array([_seconds(lambda query=query: search(query)) for query in queries])  # type: ignore[misc]
        best = took if not len(best) or took.sum() < best.sum() else best
    p50, p99 = np.percentile(best, [50, 99]) * 1e6
    return {"per_s": round(len(queries) / best.sum()), "p50_us": round(float(p50)), "p99_us": round(float(p99))}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def held(work: Callable[[], object]) -> dict[str, float]:
    """How long *work* takes in a thread, and for how long it kept another thread of Python from running."""
    gaps, done = [0.0], threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(_TICK_S)
            now = time.perf_counter()
            gaps[0] = max(gaps[0], now - last)
            last = now

    ticker = threading.Thread(target=tick)
    ticker.start()
    time.sleep(0.05)
    gaps[0] = 0.0
    took = _seconds(work)
    done.set()
    ticker.join()
    return {"s": round(took, 3), "held_ms": round(gaps[0] * 1e3, 1)}


def resident_mib() -> float:
    """What this process holds, after everything freed was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / _MIB


def measure(make: Callable[[int], Peer], folder: Path, dimension: int) -> dict[str, Any]:
    """All measurements of one peer; for dimensions other than the served one, only its memory."""
    vectors, queries, truth = (np.load(folder / f"{name}-{dimension}.npy") for name in ("items", "queries", "truth"))
    peer = make(dimension)
    _warm(make(dimension), vectors)
    before = resident_mib()
    built_s = _seconds(lambda: peer.build(vectors, 2))
    found: dict[str, Any] = {"mib_per_100k": round((resident_mib() - before) * 100_000 / len(vectors), 1)}
    if dimension != 64:
        return found
    found |= {"build_s": {"2": round(built_s, 1)}, "recall": _at_equal_recall(peer, queries, truth)}
    found |= {"files": _saved(peer, folder), "filter": _filtered(peer, vectors, queries)}
    found["add_us"] = _added_us(peer, vectors)
    found["build_s"]["1"] = round(_seconds(lambda: make(dimension).build(vectors, 1)), 1)
    return found


def _warm(peer: Peer, vectors: Vectors) -> None:
    """Have libraries make their threads and buffers before memory is looked at."""
    peer.build(vectors[:500], 2)
    peer.search(vectors[0], K)


def _at_equal_recall(peer: Peer, queries: Vectors, truth: Labels) -> dict[str, dict[str, float]]:
    few = slice(0, 500)
    found: dict[str, dict[str, float]] = {}
    for wanted in RECALLS:
        width = width_for(peer.search, queries[few], truth[few], wanted)
        if width is None:
            best = recall(lambda query: peer.search(query, _WIDEST), queries[few], truth[few])
            found[str(wanted)] = {"most_recall": round(best, 4)}
            continue
        reached = recall(lambda query, width=width: peer.search(query, width), queries, truth)  # type: ignore[misc]
        times = timed(lambda query, width=width: peer.search(query, width), queries)  # type: ignore[misc]
        found[str(wanted)] = {"width": width, "recall": round(reached, 4), **times}
    return found


def _saved(peer: Peer, folder: Path) -> dict[str, Any]:
    path = folder / f"index-{os.getpid()}"
    try:
        saved = held(lambda: peer.save(str(path)))
        size = path.stat().st_size / _MIB
        return {"save": saved, "load": held(lambda: peer.load(str(path))), "mib": round(size, 1)}
    finally:
        path.unlink(missing_ok=True)


def _filtered(peer: Peer, vectors: Vectors, queries: Vectors) -> dict[str, Any] | None:
    """The cost of a selective filter at equal recall, beside exact search of the passing rows."""
    passing = np.random.default_rng(0).random(len(vectors)) < PASSING
    search = peer.filtered(passing)
    rows, few = np.flatnonzero(passing), queries[:200]
    truth = np.stack([rows[np.argpartition(vectors[rows] @ query, len(rows) - K)[-K:]] for query in few])
    kept = vectors[rows]
    found: dict[str, Any] = {"exact": timed(lambda query: rows[np.argpartition(kept @ query, len(rows) - K)[-K:]], few)}
    if search is None:
        return found
    width = width_for(search, few, truth, RECALLS[0])
    if width is not None:
        found["native"] = {"width": width, **timed(lambda query: search(query, width), few)}
    return found


def _added_us(peer: Peer, vectors: Vectors) -> int:
    """What one row more takes, the mean of many."""
    count = len(vectors)
    more = np.random.default_rng(1).permutation(count)[:_SINGLE]
    took = [_seconds(lambda n=n, row=row: peer.add(count + n, vectors[row])) for n, row in enumerate(more)]  # type: ignore[misc]
    return round(float(np.mean(took)) * 1e6)


class Beside(Protocol):
    """An index whose rows are items, and change."""

    width: int

    def put(self, item: int, vector: Vectors) -> None:
        """The item's vector is this now."""

    def search(self, vector: Vectors) -> list[int]:
        """About the *K* best items."""


class Locked:
    """hnswlib: a changed item's old label is marked deleted and its new vector gets a label that is never used again.

    An update in place costs ten times as much.
    """

    def __init__(self, vectors: Vectors, queries: Vectors) -> None:
        self._index = Hnswlib(vectors.shape[1])
        self._index.build(vectors, 2)
        self._label_of = list(range(len(vectors)))
        self._item_of = list(range(len(vectors)))
        few = queries[:_MEASURED]
        self.width = width_for(self._index.search, few, truth_of(vectors, few), RECALLS[0]) or 0

    def put(self, item: int, vector: Vectors) -> None:
        label = len(self._item_of)
        self._index.add(label, vector)
        self._index.remove(self._label_of[item])
        self._label_of[item] = label
        self._item_of.append(item)

    def search(self, vector: Vectors) -> list[int]:
        return [self._item_of[label] for label in self._index.search(vector, self.width).tolist()]


class Flat:
    """faiss, exact."""

    width = 0

    def __init__(self, vectors: Vectors, queries: Vectors) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._index: Any = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)
        self._rows = faiss.rev_swig_ptr(self._index.get_xb(), vectors.size).reshape(vectors.shape)

    def put(self, item: int, vector: Vectors) -> None:
        self._rows[item] = vector

    def search(self, vector: Vectors) -> list[int]:
        items: list[int] = self._index.search(vector[None], K)[1][0].tolist()
        return items


BESIDE: Mapping[str, Callable[[Vectors, Vectors], Beside]] = {"locked": Locked, "flat": Flat}


class Side:
    """One index, its lock, the thread that changes it, and the records of its answers."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._folder = folder
        self._queries: Vectors = np.load(folder / "queries.npy")
        self._cycles: dict[int, tuple[NDArray[np.int64], Vectors]] = {}
        vectors, *_ = (self._cycle(number)[1] for number in range(3))
        self._index = BESIDE[kind](vectors, self._queries)
        self._items, self._applied = len(vectors), len(vectors)
        self._lock = threading.Lock()
        self._pace = Pace()
        self._samples: list[tuple[int, int, list[int]]] = []

    def _cycle(self, number: int) -> tuple[NDArray[np.int64], Vectors]:
        if number not in self._cycles:
            order, vectors = (np.load(self._folder / f"{name}-{number}.npy") for name in ("order", "vectors"))
            self._cycles[number] = order, vectors
        return self._cycles[number]

    def change(self) -> None:
        """Apply one change."""
        number, place = divmod(self._applied, self._items)
        order, vectors = self._cycle(number)
        with self._lock:
            self._index.put(int(order[place]), vectors[place])
            self._applied += 1

    def keep_changing(self) -> None:
        """Apply changes at the configured rate, for ever."""
        while True:
            due = self._pace.due
            while self._applied < due:
                self.change()
            time.sleep(_CHANGES_EVERY_S)

    def answer(self, port: socket.socket) -> None:
        """Answer queries until the other side disconnects."""
        waiting, sampled = bytearray(), 0.0
        while chunk := port.recv(1 << 16):
            waiting += chunk
            whole = len(waiting) // QUESTION.size * QUESTION.size
            for query, due in QUESTION.iter_unpack(bytes(waiting[:whole])):
                with self._lock:
                    found = self._index.search(self._queries[query])
                    change = self._applied
                done = time.perf_counter()
                port.sendall(ANSWER.pack(due, done, False))
                if done - sampled >= _SAMPLE_EVERY_S:
                    sampled = done
                    self._samples.append((change, query, found))
            del waiting[:whole]

    def told(self, do: str, per_s: float = 0.0, count: int = 0) -> Any:
        """Execute a command from a line of JSON."""
        if do == "rate":
            self._pace.at_rate(per_s, self._applied)
        elif do == "advance":
            for _ in range(count):
                self.change()
        elif do == "samples":
            samples, self._samples = self._samples, []
            return samples
        return {"applied": self._applied, "width": self._index.width}


def serve(kind: str, folder: Path, descriptor: int) -> None:
    """Run the index of this *kind*: answer queries, apply changes and execute commands until the input ends."""
    side = Side(kind, folder)
    with socket.socket(fileno=descriptor) as port:
        port.setblocking(True)
        for work in (lambda: side.answer(port), side.keep_changing):
            threading.Thread(target=work, daemon=True).start()
        for line in sys.stdin:
            print(json.dumps({"said": side.told(**json.loads(line))}), flush=True)


def compare(
    source: "TowerVectors", *, items: int, queries: int, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The results of each peer by name; each is measured in its own process."""
    folder = BUILD / "bench-index" / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    for dimension in (64, 128):
        vectors = source.draw(np.random.default_rng(seed), items, dimension=dimension)
        asked = source.queries(queries, dimension=dimension)
        for name, array in (("items", vectors), ("queries", asked), ("truth", truth_of(vectors, asked))):
            np.save(folder / f"{name}-{dimension}.npy", array)
    found: dict[str, Any] = {}
    for peer in PEERS:
        say(peer)
        found[peer] = _ask(folder, peer, 64)
        wide = _ask(folder, peer, 128)
        found[peer]["mib_per_100k"] = {"64": found[peer]["mib_per_100k"], "128": wide["mib_per_100k"]}
    return found


def truth_of(vectors: Vectors, queries: Vectors) -> Labels:
    """The *K* best rows of *vectors* for each query, by exact search, in no order."""
    return np.stack([np.argpartition(vectors @ query, len(vectors) - K)[-K:] for query in queries])


def peers_command() -> list[str]:
    """The start of the command line that runs this in its environment; ``Misconfigured`` if that is not built."""
    python = environment_python("peers")
    if not python.exists():
        raise Misconfigured("the environment peers is missing: python3 -m local.environments peers")
    return [str(python), "-m", "benchmarks.index.peers"]


def _ask(folder: Path, peer: str, dimension: int) -> dict[str, Any]:
    words = [*peers_command(), "--peer", peer, "--folder", str(folder), "--dimension", str(dimension)]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **SURROUNDINGS}, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise Unavailable(f"{peer} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Measure one peer and print the JSON, or become an index beside ours."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--peer", choices=PEERS)
    what.add_argument("--beside", choices=BESIDE)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--socket", type=int, help="of the questions to an index beside ours")
    given = parser.parse_args()
    if given.beside:
        serve(given.beside, given.folder, given.socket)
    else:
        print(json.dumps(measure(PEERS[given.peer], given.folder, given.dimension)))


if __name__ == "__main__":
    main()
