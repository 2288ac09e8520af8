"""hnswlib beside faiss and usearch at equal recall: which library the index should be built on.

Each in a process of its own of the environment ``peers`` (benchmarks/index_peers.py), on the same vectors, with the
same held-out users and exact search as the truth.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.index_vectors import TowerVectors
from local.layout import BUILD, ENVIRONMENTS, ROOT
from nearline.errors import Misconfigured, Unavailable
from nearline.item_vectors import Vectors

K = 50
DIMENSIONS = (64, 128)
PEERS = (
    "hnswlib",
    "hnswlib, 16 links",
    "faiss HNSW",
    "faiss HNSW fp16",
    "faiss HNSW SQ8",
    "faiss HNSW SQ8, re-ranked",
    "usearch f32",
    "usearch f16",
    "usearch bf16",
    "usearch i8",
    "faiss flat",
)
_TUNABLE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576"  # as services/retrieval/__main__.py sets it


def measure(source: TowerVectors, *, items: int, queries: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What is known of each peer, by its name."""
    folder = BUILD / "bench-index" / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    for dimension in DIMENSIONS:
        _write(folder, dimension, source, items, queries, seed)
    found: dict[str, Any] = {}
    for peer in PEERS:
        say(peer)
        found[peer] = _ask(folder, peer, 64)
        found[peer]["mib_per_100k"] = {
            "64": found[peer]["mib_per_100k"],
            "128": _ask(folder, peer, 128)["mib_per_100k"],
        }
    return found


def _write(folder: Path, dimension: int, source: TowerVectors, items: int, queries: int, seed: int) -> None:
    vectors = source.draw(np.random.default_rng(seed), items, dimension=dimension)
    asked = source.queries(queries, dimension=dimension)
    for name, array in (("items", vectors), ("queries", asked), ("truth", truth(vectors, asked, K))):
        np.save(folder / f"{name}-{dimension}.npy", array)


def truth(vectors: Vectors, queries: Vectors, count: int) -> NDArray[np.int64]:
    """The *count* best rows of *vectors* for each query, by exact search, in no order."""
    best = [np.argpartition(vectors @ query, len(vectors) - count)[len(vectors) - count :] for query in queries]
    return np.stack(best)


def _ask(folder: Path, peer: str, dimension: int) -> dict[str, Any]:
    python = ENVIRONMENTS / "peers" / "bin" / "python"
    if not python.exists():
        raise Misconfigured("the environment peers is missing: python3 -m local.environments peers")
    words = [str(python), "-m", "benchmarks.index_peers", "--peer", peer, "--folder", str(folder)]
    surroundings = {**os.environ, "GLIBC_TUNABLES": _TUNABLE, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*words, "--dimension", str(dimension)], cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise Unavailable(f"{peer} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
