"""Fakes that keep what they were given; each passes the contract test of what it stands for, where there is one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadAnswer, Unavailable
from nearline.log import Record


class ScriptedReader:
    """A group reader that hands out *polls* one by one and remembers what was dealt with."""

    def __init__(self, *polls: list[Record]) -> None:
        self.polls = list(polls)
        self.dealt_with: list[Record] = []
        self.stays = 0

    async def poll(self) -> list[Record]:
        return self.polls.pop(0) if self.polls else []

    async def stay(self) -> None:
        self.stays += 1

    def done(self, records: list[Record]) -> None:
        self.dealt_with += records


class ScriptedTowers:
    """Towers that are pure functions: a user is the mean of its vectors, an item a hash of its tokens.

    ``down`` makes every call ``Unavailable``; a batch that holds a *poison* row (a user whose newest age is
    ``poison_age``, an item whose first token is in ``poison_tokens``) gets a ``BadAnswer`` as a whole.
    """

    def __init__(self, dimension: int = 64) -> None:
        self.dimension = dimension
        self.down = False
        self.poison_value: float | None = None
        self.poison_tokens: set[int] = set()
        self.user_calls: list[int] = []
        self.item_calls: list[int] = []

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        self.user_calls.append(len(batch["vectors"]))
        if self.down:
            raise Unavailable("the towers were told to be down")
        if self.poison_value is not None and (batch["vectors"][:, 0, 0] == np.float16(self.poison_value)).any():
            raise BadAnswer("NaN in the answer")
        known = (batch["types"] > 0).sum(axis=1, keepdims=True)
        mean = batch["vectors"].astype(np.float32).sum(axis=1) / np.maximum(known, 1)
        return (mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)).astype(np.float32)

    async def encode_items(
        self, tokens: NDArray[Any], numeric: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.item_calls.append(len(tokens))
        if self.down:
            raise Unavailable("the towers were told to be down")
        if self.poison_tokens & set(tokens[:, 0].tolist()):
            raise BadAnswer("zero norm in the answer")
        vectors = np.stack([np.random.default_rng(int(row[0])).normal(size=self.dimension) for row in tokens])
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return vectors, vectors


class Outbox:
    """Stands for a producer: keeps every message by topic; ``down`` makes it ``Unavailable``."""

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[bytes, bytes | None]]] = {}
        self.down = False

    async def __call__(self, topic: str, messages: list[tuple[bytes, bytes | None]]) -> None:
        if self.down:
            raise Unavailable("the log was told to be down")
        self.sent.setdefault(topic, []).extend(messages)
