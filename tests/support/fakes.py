"""Fakes that keep what they were given; each passes the contract test of what it stands for, where there is one."""

import asyncio
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadAnswer, BadInput, Unavailable
from nearline.features import TOKENS, Features
from nearline.item_engine import Card, EngineHits, EngineRow
from nearline.log import AddressedMessage, Appended, Message, Record
from nearline.space import Space

LOG_MS = 1_800_000_000_000


class ScriptedReader:
    """A group reader that hands out *polls* one by one and remembers what was dealt with."""

    def __init__(self, *polls: list[Record]) -> None:
        self.polls = list(polls)
        self.dealt_with: list[Record] = []
        self.stays = 0
        self.lag = 0
        self.settled = 0

    async def open(self) -> None:
        pass

    async def poll(self) -> list[Record]:
        return self.polls.pop(0) if self.polls else []

    async def stay(self) -> None:
        self.stays += 1

    async def settle(self) -> None:
        self.settled += 1

    def done(self, records: list[Record]) -> None:
        self.dealt_with += records

    async def close(self) -> None:
        pass


class ScriptedTowers:
    """Towers that are pure functions: a user is the mean of its vectors, an item a hash of its tokens.

    ``down`` makes every call ``Unavailable``; a batch that holds a *poison* row (a user whose newest age is
    ``poison_age``, an item whose first token is in ``poison_tokens``) gets a ``BadAnswer`` as a whole.
    """

    def __init__(self, dimension: int = 64) -> None:
        self.dimension = dimension
        self.features = Features(dimension=dimension)
        self.down = False
        self.poison_value: float | None = None
        self.poison_tokens: set[int] = set()
        self.user_calls: list[int] = []
        self.item_calls: list[int] = []
        self.contexts: list[list[int]] = []

    async def open(self) -> None:
        if self.down:
            raise Unavailable("the towers were told to be down")

    async def close(self) -> None:
        pass

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        self.user_calls.append(len(batch["vectors"]))
        self.contexts += batch["context"].tolist()
        if self.down:
            raise Unavailable("the towers were told to be down")
        if self.poison_value is not None and (batch["vectors"][:, 0, 0] == np.float16(self.poison_value)).any():
            raise BadAnswer("NaN in the answer")
        known = (batch["types"] > 0).sum(axis=1, keepdims=True)
        mean = batch["vectors"].astype(np.float32).sum(axis=1) / np.maximum(known, 1)
        unit: NDArray[np.float32] = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
        return unit.astype(np.float32)

    async def encode_items(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens = inputs[TOKENS]
        self.item_calls.append(len(tokens))
        if self.down:
            raise Unavailable("the towers were told to be down")
        if self.poison_tokens & set(tokens[:, 0].tolist()):
            raise BadAnswer("zero norm in the answer")
        vectors = np.stack([np.random.default_rng(int(row[0])).normal(size=self.dimension) for row in tokens])
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return vectors, vectors


class Outbox:
    """Stands for a producer: keeps every message by topic and returns its place; ``down`` makes it ``Unavailable``.

    The nth message of a topic is in partition 0, unless it names another, n milliseconds after ``LOG_MS``.

    While ``held`` is an event that is not set, nothing is acknowledged. A message of more than ``most_bytes`` is
    refused with all that came with it, as a broker refuses a request. ``calls`` keeps how many messages came together.
    """

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[Any, bytes | None]]] = {}  # keys are bytes; exposures have none
        self.headers: dict[str, list[tuple[tuple[str, bytes], ...]]] = {}
        self.places: dict[str, list[Appended]] = {}
        self.calls: list[int] = []
        self.down = False
        self.held: asyncio.Event | None = None
        self.most_bytes: int | None = None

    async def __call__(
        self,
        topic: str,
        messages: Sequence[Message | AddressedMessage],
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> list[Appended]:
        self.calls.append(len(messages))
        if self.held is not None:
            await self.held.wait()
        if self.down:
            raise Unavailable("the log was told to be down")
        if self.most_bytes is not None and any(len(value or b"") > self.most_bytes for _, value, *_ in messages):
            raise BadInput("too_large", "the log was told to take no record of that size")
        kept = self.sent.setdefault(topic, [])
        places = [appended(len(kept) + n, *partition) for n, (_, _, *partition) in enumerate(messages)]
        kept += [(key, value) for key, value, *_ in messages]
        self.headers.setdefault(topic, []).extend([headers] * len(messages))
        self.places.setdefault(topic, []).extend(places)
        return places

    def records(self, topic: str) -> list[Record]:
        """What is in *topic*, as a reader of the log would get it."""
        places, messages = self.places.get(topic, []), self.sent.get(topic, [])
        return [
            Record(topic, at.partition, at.offset, at.append_ms, *message)
            for at, message in zip(places, messages, strict=True)
        ]


def appended(nth: int, partition: int = 0) -> Appended:
    """The place of the nth message of a topic in an ``Outbox``."""
    return Appended(LOG_MS + nth, partition, nth)


class FakeTable:
    """A table reader that hands out *polls* one by one, then is caught up and follows nothing until cancelled.

    A poll that is an exception is raised. ``opened`` and ``closed`` count.
    """

    def __init__(self, *polls: list[Record] | Exception) -> None:
        self.polls = list(polls)
        self.caught_up = False
        self.lag = 0
        self.opened = 0
        self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def poll(self) -> list[Record]:
        if not self.polls:
            self.caught_up = True
            await asyncio.sleep(0.001)
            return []
        polled = self.polls.pop(0)
        if isinstance(polled, Exception):
            raise polled
        self.caught_up = not self.polls
        return polled

    async def close(self) -> None:
        self.closed += 1


class ExactGraph:
    """A graph that looks at every vector; passes ``tests/contract/test_graphs.py`` as hnswlib does."""

    def __init__(self, dimension: int, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.removed = 0
        self._vectors = np.empty((0, dimension), np.float32)
        self._slots: list[int] = []
        self._gone: set[int] = set()

    def add(self, slots: NDArray[np.int64], vectors: NDArray[np.float32], threads: int = 1) -> None:
        if self.count + len(slots) > self.capacity:
            raise RuntimeError(f"the graph holds {self.capacity} rows")
        self._vectors = np.concatenate((self._vectors, vectors))
        self._slots += slots.tolist()
        self.count += len(slots)

    def remove(self, slot: int) -> None:
        if slot in self._gone or slot not in self._slots:
            raise RuntimeError(f"slot {slot} is not in the graph")
        self._gone.add(slot)
        self.removed += 1

    def search(
        self, vector: NDArray[np.float32], count: int, width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        scores = self._vectors @ vector
        order = [row for row in np.argsort(-scores, kind="stable") if self._slots[row] not in self._gone][:count]
        return np.array([self._slots[row] for row in order], np.int64), scores[order]

    def save(self, path: Path) -> None:
        path.write_bytes(pickle.dumps((self._vectors, self._slots, self._gone)))

    @classmethod
    def load(cls, path: Path, dimension: int, capacity: int, *, count: int, removed: int) -> "ExactGraph":
        graph = cls(dimension, capacity)
        graph._vectors, graph._slots, graph._gone = pickle.loads(path.read_bytes())
        graph.count, graph.removed = count, removed
        return graph


class FakeEngine:
    """An item engine in memory; its expressions are near enough to Python's to be run as such.

    ``down`` makes every call ``Unavailable``. Several of these over one *kept* are replicas of one engine.
    """

    def __init__(self, space: Space, kept: dict[str, Any] | None = None) -> None:
        self._space = space
        self._kept: dict[str, Any] = kept if kept is not None else {"alias": None}
        self._rows: dict[str, EngineRow] = self._kept.setdefault(f"items {space.number}", {})
        self._gone: dict[str, int] = self._kept.setdefault(f"gone {space.number}", {})
        self.down = False
        self.opened = 0

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("the engine was told to be down")

    async def open(self) -> None:
        self._answer()
        self.opened += 1

    async def close(self) -> None:
        pass

    async def search(self, vector: NDArray[np.float32], limit: int, where: str) -> EngineHits:
        self._answer()
        scored = [(float(row.vector @ vector), row) for row in self._passing(where)]
        scored.sort(key=lambda each: -each[0])
        return [(row.item_id, row.printed, score) for score, row in scored[:limit]]

    async def versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        gone = {item_id: self._gone[item_id] for item_id in item_ids if item_id in self._gone}
        return gone | await self.shown_versions(item_ids)

    async def shown_versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        return {card.item_id: card.version for card in await self.cards(item_ids)}

    async def cards(self, item_ids: Sequence[str]) -> list[Card]:
        self._answer()
        return [_card(self._rows[item_id]) for item_id in item_ids if item_id in self._rows]

    async def vectors(self, item_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        self._answer()
        return {item_id: self._rows[item_id].vector for item_id in item_ids if item_id in self._rows}

    async def matching(self, where: str, limit: int) -> list[Card]:
        self._answer()
        return [_card(row) for row in self._passing(where)][:limit]

    async def count(self, where: str) -> int:
        return len(await self.matching(where, 1_000_000))

    async def put(self, rows: Sequence[EngineRow]) -> None:
        self._answer()
        for row in rows:
            self._rows[row.item_id] = row
            self._gone.pop(row.item_id, None)

    async def hide(self, versions: Mapping[str, int]) -> None:
        self._answer()
        self._gone.update(versions)
        for item_id in versions:
            self._rows.pop(item_id, None)

    async def forget(self, item_ids: Sequence[str]) -> None:
        self._answer()
        for item_id in item_ids:
            self._rows.pop(item_id, None)
            self._gone.pop(item_id, None)

    async def live(self) -> int | None:
        self._answer()
        alias: int | None = self._kept["alias"]
        return alias

    async def make_live(self) -> None:
        self._answer()
        self._kept["alias"] = self._space.number

    def _passing(self, where: str) -> list[EngineRow]:
        return [row for row in self._rows.values() if not where or eval(where, {**_FUNCTIONS, **_names(row)})]


_FUNCTIONS = {"array_contains_any": lambda values, sought: not set(values).isdisjoint(sought)}


def _names(row: EngineRow) -> dict[str, Any]:
    nothing = float("nan")
    return {
        "facts": row.facts,
        "numbers": defaultdict(lambda: nothing, row.numbers),
        "price": nothing if row.price is None else row.price,
        "listed_ms": nothing if row.listed_ms is None else row.listed_ms,
        "item_hash": row.item_hash - (1 << 64) if row.item_hash >= 1 << 63 else row.item_hash,
    }


def _card(row: EngineRow) -> Card:
    return Card(row.item_id, row.version, row.printed)
