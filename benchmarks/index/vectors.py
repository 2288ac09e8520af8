"""Makes the vectors for measuring the index: a seeded recipe based on the demo's own towers.

Items: the committed item tower's candidate vectors of the demo's catalogue, through the real Triton server. To get
*count* of them each is a demo item's vector plus Gaussian noise, normalised again. Queries: the committed user tower's
vectors of every real history of Online Retail with two or more items, from its newest 50 events; none is made up.

The amount of noise was chosen so that a vector is as near to its nearest neighbour as the demo's items are to theirs. A
jittered catalogue holds 27 copies of each item, so the nearest neighbour of most is a copy of the same item; with much
less noise it would be a catalogue of duplicates, with much more a cloud without structure. ``noise_for`` finds it by
halving and ``python -m benchmarks.index.vectors`` prints both means (docs/benchmarks.md).

The catalogue's changes are seeded too. Change *j* gives one item a new vector of the recipe: the first *items* changes
list the catalogue, the next *items* replace all of it in a random order, and so on. So the number of changes applied at
an answer is enough to compute the exact answer afterwards, outside the timed part.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.tower_speed import user_batch
from local.layout import BUILD, ROOT
from local.triton import REPOSITORY, running_triton
from nearline.adapters.triton import TritonTowers
from nearline.datasets import Prepared, load_online_retail
from nearline.features import DIMENSION, HISTORY_LENGTH
from nearline.item_vectors import ItemFields, ItemVector, Vectors, encode_item_vector
from nearline.log import Record
from nearline.sequences import UserSequence
from nearline.space import Space
from nearline.topics import item_vectors_topic

# The length of the noise over that of the vector. Found by ``noise_for`` with the towers of space 1, seed 1, 100,000.
NOISE = 0.66
_CACHE = BUILD / "bench-index" / "towers"
_DATA = ROOT / "data" / "online-retail"
_BATCH = 64
_TIMEOUT_MS = 10_000
_FEWEST_EVENTS = 2
_LOOKED_AT = 1_000  # vectors whose nearest neighbour is sought
_HALVINGS = 12
_TIED = 1e-6  # rows as near as the last true one
_CHUNK = 500  # vectors that ``Lean`` draws at once
_CATEGORIES = 20


@dataclass(frozen=True)
class TowerVectors:
    """The towers' unit vectors of the demo's items and of real users, in a seeded order."""

    items: Vectors  # (items, 64), no two equal
    users: Vectors  # (users, 64)

    def draw(self, random: np.random.Generator, count: int, *, dimension: int = DIMENSION) -> Vectors:
        """*count* items of the recipe; for 128 dimensions two independent halves with equal weight."""
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
    # All items get equally many copies, so that all neighbourhoods are equally dense.
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


class Changes:
    """The endless sequence of changes of a catalogue of *items*."""

    def __init__(self, source: TowerVectors, seed: int, items: int, dimension: int) -> None:
        self.items = items
        self._cycle = cache(lambda number: self._draw(source, (seed, number), dimension))

    def cycle(self, number: int) -> tuple[NDArray[np.int64], Vectors]:
        """Items in the order in which cycle *number* changes them, and their new vectors; it is kept."""
        return self._cycle(number)

    def draw_ahead(self, change: int) -> None:
        """Draw all changes up to *change* now: a cycle of 100,000 takes half a second, which must not be timed."""
        for number in range(change // self.items + 1):
            self._cycle(number)

    def of(self, change: int) -> tuple[int, Vectors]:
        """The item and its new vector."""
        order, vectors = self._cycle(change // self.items)
        place = change % self.items
        return int(order[place]), vectors[place]

    def _draw(self, source: TowerVectors, seed: tuple[int, int], dimension: int) -> tuple[NDArray[np.int64], Vectors]:
        random = np.random.default_rng(seed)
        order = random.permutation(self.items) if seed[1] else np.arange(self.items)
        return order, source.draw(random, self.items, dimension=dimension)


class Lean:
    """Changes that go over the items in turn for ever, drawn a few hundred at a time: it holds next to nothing."""

    def __init__(self, source: TowerVectors, seed: int, items: int, dimension: int) -> None:
        self._items = items
        self._chunk = lru_cache(1)(
            lambda number: source.draw(np.random.default_rng((seed, number)), _CHUNK, dimension=dimension)
        )

    def of(self, change: int) -> tuple[int, Vectors]:
        """The item and its new vector."""
        return change % self._items, self._chunk(change // _CHUNK)[change % _CHUNK]


class ReplayedVectors:
    """The vectors of all items after any number of changes; it only goes forward."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self.vectors: Vectors = changes.cycle(0)[1].copy()  # by item
        self._done = changes.items

    def to(self, change: int) -> Vectors:
        """The vectors after *change* changes; not before the catalogue is listed."""
        if change < self._done:
            raise ValueError(f"{change} changes were asked for, {self._done} are replayed already")
        while self._done < change:
            number, place = divmod(self._done, self._changes.items)
            order, vectors = self._changes.cycle(number)
            last = min(self._changes.items, place + change - self._done)
            self.vectors[order[place:last]] = vectors[place:last]
            self._done += last - place
        return self.vectors


@dataclass(frozen=True, slots=True)
class ReplayAnswer:
    """An answer: which query, after how many changes, and the items by the number of results that were asked for."""

    change: int
    query: int
    found: dict[int, list[int]]  # k -> item numbers


def recall(scores: Vectors, found: Sequence[int], k: int) -> float:
    """Share of the *k* best of *scores* that *found* holds; what ties with the last counts."""
    last = np.partition(scores, len(scores) - k)[len(scores) - k]
    return float((scores[list(found)] >= last - _TIED).sum()) / k


def judge(changes: Changes, queries: Vectors, answers: Sequence[ReplayAnswer]) -> dict[int, list[float]]:
    """Recall of each answer against exact search over what was live when it was given, by k."""
    replay, recalls = ReplayedVectors(changes), dict[int, list[float]]()
    for seen in sorted(answers, key=lambda seen: seen.change):
        scores = replay.to(seen.change) @ queries[seen.query]
        for k, found in seen.found.items():
            recalls.setdefault(k, []).append(recall(scores, found, k))
    return recalls


def lowest_mean(values: Sequence[float], window: int) -> float | None:
    """The lowest mean of *window* values that follow each other; of all where there are fewer; ``None`` of none."""
    if not len(values):
        return None
    sums = np.concatenate(([0.0], np.cumsum(values)))
    width = min(window, len(values))
    return float((sums[width:] - sums[:-width]).min() / width)


def record_maker(changes: "Changes | Lean", space: Space) -> Callable[[int], Record]:
    """The records of the topic ``item-vectors`` that carry *changes*."""
    topic = item_vectors_topic(space)

    def record_of(number: int) -> Record:
        item, vector = changes.of(number)
        value = ItemVector(item_id(item), number + 1, shown(item), vector, vector.astype(np.float16), "")
        return Record(topic, 0, number, 0, value.item_id.encode(), encode_item_vector(value, space))

    return record_of


def item_id(number: int) -> str:
    """The id of item *number*."""
    return f"bench-{number:06d}"


def number_of(item: str) -> int:
    """The number of the item with this id."""
    return int(item[-6:])


def shown(number: int) -> ItemFields:
    """The fields of item *number*: a title like a shop's, and prices spread evenly over 0 to 100."""
    price = (number * 7_919 % 10_000) / 100
    category = f"category {number % _CATEGORIES}"
    return ItemFields(
        f"SET OF {number % 12} VINTAGE ITEMS {number}", category, "en", price, listed_ms=1_290_000_000_000 + number
    )


def main() -> None:
    """Print the figures behind the recipe."""
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
