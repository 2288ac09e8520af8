"""The interface of a remote engine that stores and searches items, such as Milvus.

Engines are adapters (``nearline/adapters/milvus.py``) and pass ``tests/contract/test_item_index.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MAX_PRINTED = 65_535  # bytes of an item's serialised form in answers; Milvus' largest text
MAX_RESULTS = 16_384  # per request; Milvus' limit

EngineHits = list[tuple[str, bytes, float]]  # id, serialised form for answers, inner product; best first


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One available item as an engine stores it.

    Filters read *facts* and *numbers* (services/retrieval/in_engine/expressions.py); *printed* goes into answers.
    """

    item_id: str
    version: int
    item_hash: int  # hash64 of the id
    vector: NDArray[np.float32]  # (dimension,)
    price: float | None
    listed_ms: float | None
    facts: tuple[int, ...]  # below 2**63
    numbers: Mapping[str, float]
    printed: bytes


@dataclass(frozen=True, slots=True)
class Card:
    """An item in an engine, without its vector."""

    item_id: str
    version: int
    printed: bytes


class ItemEngine(Protocol):
    """The items of one space. Once a call that changes items returns, every later call sees the change.

    *where* is an expression in the engine's language, ``""`` for no condition. Every method but ``close`` raises
    ``Unavailable`` if the engine does not answer within its deadline.
    """

    async def open(self) -> None:
        """Connect, and create what is missing; ``SpaceMismatch`` if existing data has another dimension."""

    async def close(self) -> None:
        """Close all connections; safe to call twice."""

    async def search(self, vector: NDArray[np.float32], limit: int, where: str) -> EngineHits:
        """The *limit* best items by inner product with *vector* among those that pass *where*."""

    async def versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        """The newest version put or hidden of each of *item_ids* that has one and was not erased since."""

    async def cards(self, item_ids: Sequence[str]) -> list[Card]:
        """The available items among *item_ids*, in any order."""

    async def vectors(self, item_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of the available items among *item_ids*; at most ``MAX_RESULTS`` ids."""

    async def shown_versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        """The versions of the available items among *item_ids*."""

    async def matching(self, where: str, limit: int) -> list[Card]:
        """Any *limit* items that pass *where*; all of them if they are fewer."""

    async def count(self, where: str) -> int:
        """How many items pass *where*."""

    async def put(self, rows: Sequence[EngineRow]) -> None:
        """Make *rows* available, replacing other versions; each id comes once."""

    async def hide(self, versions: Mapping[str, int]) -> None:
        """Make these items unavailable, and keep the version at which they became so."""

    async def forget(self, item_ids: Sequence[str]) -> None:
        """Erase these items and their versions."""

    async def live(self) -> int | None:
        """The space that the engine's alias points at, or ``None`` without an alias."""

    async def make_live(self) -> None:
        """Point the alias at this space, in one step."""
