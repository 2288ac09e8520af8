"""The vectors that the index is measured with: a written recipe, seeded, out of the demo's own towers.

Items: the candidate vectors that the committed item tower gives the demo's catalogue, through the real Triton server.
To get *count* of them each is a demo item's vector plus Gaussian noise, of unit norm again. Queries: what the committed
user tower makes of every real history of Online Retail that names two or more items, its newest 50 events; nothing in
them is made up.

How much noise was chosen so that a vector is as near to its nearest neighbour as the demo's items are to theirs. A
jittered catalogue holds 27 copies of each item, so the nearest neighbour of most is a copy of the same item; with much
less noise it would be a catalogue of duplicates, with much more a cloud without structure. ``noise_for`` finds it by
halving and ``python -m benchmarks.index_vectors`` prints both means (docs/benchmarks.md).
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from benchmarks.tower_speed import user_batch
from local.layout import BUILD, ROOT
from local.triton import REPOSITORY, running_triton
from nearline.adapters.triton import TritonTowers
from nearline.datasets import Prepared, load_online_retail
from nearline.features import DIMENSION, HISTORY_LENGTH
from nearline.item_vectors import Vectors
from nearline.sequences import UserSequence
from nearline.space import Space

# The length of the noise over that of the vector. Found by ``noise_for`` with the towers of space 1, seed 1, 100,000.
NOISE = 0.66
_CACHE = BUILD / "bench-index" / "towers"
_DATA = ROOT / "data" / "online-retail"
_BATCH = 64
_TIMEOUT_MS = 10_000
_FEWEST_EVENTS = 2
_LOOKED_AT = 1_000  # vectors whose nearest neighbour is sought
_HALVINGS = 12


@dataclass(frozen=True)
class TowerVectors:
    """What the towers gave: unit vectors of the demo's items and of real users, in a seeded order."""

    items: Vectors  # (items, 64), no two equal
    users: Vectors  # (users, 64)

    def draw(self, random: np.random.Generator, count: int, *, dimension: int = DIMENSION) -> Vectors:
        """*count* items of the recipe; of 128 dimensions, two independent halves that weigh the same."""
        halves = [_jittered(self.items, random, count, NOISE) for _ in range(dimension // DIMENSION)]
        return _joined(halves)

    def queries(self, count: int, *, dimension: int = DIMENSION, skip: int = 0) -> Vectors:
        """Users *skip* to *skip* + *count*, round and round; of 128 dimensions two different users' halves."""
        rows = [
            (np.arange(skip, skip + count) + half * 1_009) % len(self.users) for half in range(dimension // DIMENSION)
        ]
        return _joined([self.users[row] for row in rows])


def source(seed: int) -> TowerVectors:
    """The towers' vectors: from the cache under ``build/`` if the towers are the same, else from Triton (a minute)."""
    folder = _CACHE / _digest()
    if not (folder / "users.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        items, users = _encoded()
        np.save(folder / "items.npy", items)
        np.save(folder / "users.npy", users)
    items, users = np.load(folder / "items.npy"), np.load(folder / "users.npy")
    return TowerVectors(items, users[np.random.default_rng(seed).permutation(len(users))])


def nearest_cosine(vectors: Vectors, looked_at: int = _LOOKED_AT) -> float:
    """The mean cosine between a vector and the nearest other one; of the first *looked_at*."""
    scores = vectors[:looked_at] @ vectors.T
    scores[np.arange(len(scores)), np.arange(len(scores))] = -1.0
    return float(scores.max(axis=1).mean())


def noise_for(items: Vectors, count: int, seed: int) -> float:
    """The noise at which *count* jittered vectors are as near to their neighbours as *items* are to theirs."""
    wanted, low, high = nearest_cosine(items, len(items)), 0.0, 2.0
    for _ in range(_HALVINGS):
        noise = (low + high) / 2
        near = nearest_cosine(_jittered(items, np.random.default_rng(seed), count, noise))
        low, high = (noise, high) if near > wanted else (low, noise)
    return (low + high) / 2


def _jittered(items: Vectors, random: np.random.Generator, count: int, noise: float) -> Vectors:
    # Every item gets its copies before one gets another: a demo item's neighbourhood is as dense as the next one's.
    rows = random.permutation(count) % len(items)
    shaken = random.standard_normal((count, items.shape[1]), np.float32)
    return _unit(items[rows] + shaken * np.float32(noise / np.sqrt(items.shape[1])))


def _joined(halves: list[Vectors]) -> Vectors:
    return np.concatenate(halves, axis=1) * np.float32(len(halves) ** -0.5)


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _digest() -> str:
    """Of everything that the towers' vectors depend on."""
    files = sorted(path for path in (*REPOSITORY.rglob("*"), *_DATA.glob("*.parquet")) if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _encoded() -> tuple[Vectors, Vectors]:
    with running_triton() as server:
        return asyncio.run(_encode(server.url, load_online_retail(_DATA)))


async def _encode(url: str, prepared: Prepared) -> tuple[Vectors, Vectors]:
    """Candidate vectors of all items (duplicates left out) and vectors of all users."""
    towers = TritonTowers(url, Space(1, DIMENSION), timeout_ms=_TIMEOUT_MS)
    await towers.open()
    try:
        pairs = list(prepared.items.items())
        starts = range(0, len(pairs), _BATCH)
        both = [await towers.encode_items(towers.features.item_inputs(pairs[at : at + _BATCH])) for at in starts]
        history = np.concatenate([one[1] for one in both]).astype(np.float16)
        row_of = {item_id: row for row, (item_id, _) in enumerate(pairs)}
        users = []
        for some in _batches(histories(prepared)):
            users.append(await towers.encode_users(user_batch(towers.features, some, history, row_of)))
        return np.unique(np.concatenate([one[0] for one in both]), axis=0), np.concatenate(users)
    finally:
        await towers.close()


def histories(prepared: Prepared) -> list[UserSequence]:
    """The newest events of every user who has two or more, as the job keeps them."""
    events = prepared.events.sort("time_ms", "event_id").group_by("user_id", maintain_order=True).tail(HISTORY_LENGTH)
    kept = events.group_by("user_id", maintain_order=True).agg(pl.all()).sort("user_id")
    columns = ("user_id", "item_id", "time_ms", "type", "value", "event_id", "country")
    rows = kept.filter(pl.col("item_id").list.len() >= _FEWEST_EVENTS).select(columns).iter_rows()
    return [
        UserSequence(user, 1, items, times, types, values, ids, [{"country": country} for country in countries])
        for user, items, times, types, values, ids, countries in rows
    ]


def _batches(sequences: list[UserSequence]) -> Iterator[list[UserSequence]]:
    yield from (sequences[at : at + _BATCH] for at in range(0, len(sequences), _BATCH))


def main() -> None:
    """Print what the recipe rests on."""
    towers, random = source(1), np.random.default_rng(1)
    facts = {
        "items": len(towers.items),
        "users": len(towers.users),
        "nearest_cosine_of_items": round(nearest_cosine(towers.items, len(towers.items)), 4),
        "noise": round(noise_for(towers.items, 100_000, 1), 3),
        "nearest_cosine_of_100000": round(nearest_cosine(towers.draw(random, 100_000)), 4),
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
