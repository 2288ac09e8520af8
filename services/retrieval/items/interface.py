"""The interface of an item index, local or remote: the available items and their vectors, from which answers come."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.filters import Filter
from nearline.telemetry import gauge
from nearline.user_documents import NO_HASHES, Hashes

AVAILABLE_ITEMS = gauge("index_items", "Available items")

Scores = NDArray[np.floating[Any]]


class OrderedItems(Protocol):
    """Items by a score, best first (popularity.py: Leaderboard)."""

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """``(id, score)``, best first."""

    def among(self, item_ids: Iterable[str]) -> Iterator[tuple[str, float]]:
        """``(id, score)`` of those of *item_ids* that rank, best first."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items, best first: ids, the JSON of each (*printed*: a comma and its fields up to the score), and scores."""

    item_ids: list[str]
    printed: list[bytes]
    scores: Scores

    def __len__(self) -> int:
        """How many there are."""
        return len(self.item_ids)

    def take(self, order: NDArray[np.int64]) -> "Candidates":
        """Those at the places *order*, in that order."""
        ids, printed, places = self.item_ids, self.printed, order.tolist()
        return Candidates([ids[place] for place in places], [printed[place] for place in places], self.scores[order])


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """The features of n items that the pipeline uses.

    *categories* (n,) are hashes of the names. *vectors* (n, dimension) are of unit norm; ``None`` if they were not
    requested, or the index does not return vectors.
    """

    categories: NDArray[np.uint64]
    vectors: NDArray[np.float32] | None = None

    def take(self, order: NDArray[np.int64]) -> "ItemFeatures":
        """Those at the places *order*, in that order."""
        vectors = None if self.vectors is None else self.vectors[order]
        return ItemFeatures(self.categories[order], vectors)


class Rankings(Protocol):
    """Items by popularity (popularity.py: Trending)."""

    def top(self) -> OrderedItems:
        """``(id, score)``, most popular first."""

    def top_of(self, categories: Iterable[str]) -> OrderedItems:
        """``(id, score)`` of the items of *categories* together, most popular first."""

    def popularity(self, item_ids: Sequence[str]) -> NDArray[np.float64]:
        """The popularity of each of *item_ids* relative to the most popular item: 0-1, on a logarithmic scale."""


class ItemIndex(Protocol):
    """All available items. Results contain only items that pass *filter*; *excluded* are sorted hashes of ids.

    ``nearest`` and ``vectors`` raise ``Unavailable`` if the index is a remote engine that does not answer.
    """

    @property
    def trending(self) -> Rankings:
        """Items by popularity."""

    @property
    def generation(self) -> int:
        """How many changes of items this process applied: answers with the same number chose from the same items."""

    @property
    def is_remote(self) -> bool:
        """Whether a search waits for another process."""

    def check(self, filter: Filter) -> None:
        """Raise ``FilterError`` if no available item has an attribute of *filter*, or has it with another type."""

    async def nearest(
        self, vector: NDArray[np.float32], k: int, excluded: Hashes, filter: Filter | None, oversample: int = 0
    ) -> Candidates:
        """The *k* best by inner product with *vector*, fewer only if there are fewer; and up to *oversample* more.

        The oversample need not be exactly the next best.
        """

    async def pick(
        self, ranked: OrderedItems, places: int, taken: Container[str], excluded: Hashes, filter: Filter | None
    ) -> Candidates:
        """The first *places* of *ranked* that are available and not *taken*, in their order and with their scores."""

    async def vectors(self, item_ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The candidate vectors of those of *item_ids* that are available; read-only."""

    async def features(self, items: Candidates, *, vectors: bool = False) -> ItemFeatures:
        """The features of *items*; with *vectors*, if the index returns vectors."""

    def passing(self, filter: Filter, items: Candidates) -> NDArray[np.bool_]:
        """Whether each of *items* is available and passes *filter*."""

    def newest(self) -> OrderedItems:
        """``(id, listed_ms)``, latest first."""

    def favourite_categories(self, seen: Iterable[int]) -> list[str]:
        """The categories with most of the items whose hashes are *seen*, most first."""


class CandidateSource(Protocol):
    """A source of candidates for an answer; it returns only items that the answer's hard exclusions allow."""

    async def fetch(self, places: int, oversample: int) -> Candidates:
        """The best *places* candidates, and up to *oversample* more to choose from."""

    async def best(
        self, places: int, to: Filter | None = None, without: Sequence[Filter] = (), left_out: Hashes = NO_HASHES
    ) -> Candidates:
        """The best *places* candidates that pass *to* and no filter of *without*, except the hashes *left_out*."""

    async def of(self, item_ids: Sequence[str]) -> Candidates:
        """Those of *item_ids* that the source has."""
