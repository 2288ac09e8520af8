"""An engine of its own that keeps items and searches them (Milvus): what retrieval asks of it, whichever it is.

Engines are adapters (``nearline/adapters/milvus.py``); ``tests/contract/test_item_index.py`` holds them to this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MAX_PRINTED = 65_535  # bytes of what an answer prints of an item; the largest text that Milvus takes
MAX_RESULTS = 16_384  # of one request; Milvus' limit

EngineHits = list[tuple[str, bytes, float]]  # ids, what an answer prints of them, and inner products, best first


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One item on show as an engine keeps it.

    *facts* and *numbers* are what filters look at (services/retrieval/in_engine/expressions.py); *printed* is what an
    answer shows.
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
    """What an engine tells of an item without its vector."""

    item_id: str
    version: int
    printed: bytes


class ItemEngine(Protocol):
    """The items of one space. A change is in every answer that is asked for after the call that made it returned.

    *where* is an expression of the engine's language, ``""`` for no condition. Every method but ``close`` raises
    ``Unavailable`` when the engine does not answer within its deadline.
    """

    async def open(self) -> None:
        """Connect, and make what is missing; ``SpaceMismatch`` if what is there is of another dimension."""

    async def close(self) -> None:
        """Let go of everything; safe to call twice."""

    async def search(self, vector: NDArray[np.float32], limit: int, where: str) -> EngineHits:
        """The *limit* best by inner product with *vector* of those that pass *where*."""

    async def versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        """The newest version that was put or hidden, of each of *item_ids* that was and is not forgotten."""

    async def cards(self, item_ids: Sequence[str]) -> list[Card]:
        """Those of *item_ids* that are on show, in any order."""

    async def vectors(self, item_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of those of *item_ids* that are on show; at most ``MAX_RESULTS`` ids."""

    async def shown_versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        """The version of those of *item_ids* that are on show."""

    async def matching(self, where: str, limit: int) -> list[Card]:
        """Some *limit* items that pass *where*; all of them if they are fewer."""

    async def count(self, where: str) -> int:
        """How many items pass *where*."""

    async def put(self, rows: Sequence[EngineRow]) -> None:
        """Show *rows*, in the place of other versions; an id comes once."""

    async def hide(self, versions: Mapping[str, int]) -> None:
        """Show these items no longer, and remember at which version that was said."""

    async def forget(self, item_ids: Sequence[str]) -> None:
        """Show these items no longer, and keep nothing of them."""

    async def live(self) -> int | None:
        """The space that the engine's alias points at, or ``None`` if it points nowhere yet."""

    async def make_live(self) -> None:
        """Point the alias at this space, in one step."""
