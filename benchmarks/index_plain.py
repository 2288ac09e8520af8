"""What one would write without us, in a process of its own: an index, and a lock around everything that touches it.

    .venv/peers/bin/python -m benchmarks.index_plain --kind locked --folder build/bench-index/plain --socket 5

``locked`` is hnswlib: one thread adds what comes, another asks. A changed item's old label is marked deleted and its
new vector gets a new label, since an update in place costs ten times as much; a full index is resized. ``flat`` is
exact search by faiss, where a change is written over the old row. Runs in the environment ``peers``; the changes are
files that ``benchmarks.index_churn`` wrote.
"""

import argparse
import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.index_asking import ANSWER, QUESTION
from benchmarks.index_peers import BUILD_WIDTH, LINKS, Labels, width_for
from nearline.item_vectors import Vectors

K = 50
RECALL = 0.955  # as services/retrieval/in_process/widths.py
_GROW = 1.25
_TICK_S = 0.005
_SAMPLE_EVERY_S = 0.1
_MEASURED = 200


class Plain(Protocol):
    """An index whose rows are items."""

    def put(self, item: int, vector: Vectors) -> None:
        """The item's vector is this now."""

    def search(self, vector: Vectors) -> list[int]:
        """About the *K* best items."""


class Locked:
    """hnswlib with labels that are never used again."""

    def __init__(self, vectors: Vectors, queries: Vectors) -> None:
        import hnswlib

        self._index: Any = hnswlib.Index("ip", vectors.shape[1])
        self._index.init_index(len(vectors), M=LINKS, ef_construction=BUILD_WIDTH, random_seed=100)
        self._index.add_items(vectors, np.arange(len(vectors)), num_threads=2)
        self._label_of = list(range(len(vectors)))
        self._item_of = list(range(len(vectors)))
        truth = np.stack([np.argpartition(vectors @ query, -K)[-K:] for query in queries[:_MEASURED]])
        self.width = width_for(self._at, queries[:_MEASURED], truth, RECALL) or 0
        self._index.set_ef(self.width)

    def _at(self, vector: Vectors, width: int) -> Labels:
        self._index.set_ef(width)
        labels: Labels = self._index.knn_query(vector, k=K, num_threads=1)[0][0].astype(np.int64)
        return labels

    def put(self, item: int, vector: Vectors) -> None:
        label = len(self._item_of)
        if label == self._index.get_max_elements():
            self._index.resize_index(int(label * _GROW))
        self._index.add_items(vector, label, num_threads=1)
        self._index.mark_deleted(self._label_of[item])
        self._label_of[item] = label
        self._item_of.append(item)

    def search(self, vector: Vectors) -> list[int]:
        labels = self._index.knn_query(vector, k=K, num_threads=1)[0][0].tolist()
        return [self._item_of[label] for label in labels]


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


class Side:
    """One index, its lock, the thread that changes it, and what is noted of its answers."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._folder = folder
        self._queries: Vectors = np.load(folder / "queries.npy")
        self._cycles: dict[int, tuple[NDArray[np.int64], Vectors]] = {}
        vectors, *_ = (self._cycle(number)[1] for number in range(3))
        self._index: Any = {"locked": Locked, "flat": Flat}[kind](vectors, self._queries)
        self._items, self._applied = len(vectors), len(vectors)
        self._lock = threading.Lock()
        self._rate, self._since, self._base = 0.0, 0.0, 0
        self._samples: list[tuple[int, int, list[int]]] = []

    def _cycle(self, number: int) -> tuple[NDArray[np.int64], Vectors]:
        if number not in self._cycles:
            order, vectors = (np.load(self._folder / f"{name}-{number}.npy") for name in ("order", "vectors"))
            self._cycles[number] = order, vectors
        return self._cycles[number]

    def change(self) -> None:
        """Take in one change."""
        number, place = divmod(self._applied, self._items)
        order, vectors = self._cycle(number)
        with self._lock:
            self._index.put(int(order[place]), vectors[place])
            self._applied += 1

    def keep_changing(self) -> None:
        """Take in changes at the rate that was told, for ever."""
        while True:
            due = self._base + int((time.perf_counter() - self._since) * self._rate) if self._rate else 0
            while self._applied < due:
                self.change()
            time.sleep(_TICK_S)

    def answer(self, port: socket.socket) -> None:
        """Answer questions until the other side hangs up."""
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
        """Do what a line of JSON says."""
        if do == "rate":
            self._since, self._base = time.perf_counter(), self._applied
            self._rate = per_s
        elif do == "advance":
            for _ in range(count):
                self.change()
        elif do == "samples":
            samples, self._samples = self._samples, []
            return samples
        return {"applied": self._applied, "width": self._index.width}


def main() -> None:
    """Become the index under test."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=("locked", "flat"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    given = parser.parse_args()
    side = Side(given.kind, given.folder)
    with socket.socket(fileno=given.socket) as port:
        port.setblocking(True)
        for work in (lambda: side.answer(port), side.keep_changing):
            threading.Thread(target=work, daemon=True).start()
        for line in sys.stdin:
            print(json.dumps({"said": side.told(**json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
