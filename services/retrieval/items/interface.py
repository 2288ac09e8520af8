"""What answers are chosen from: the items on show and their vectors, in this process or in an engine of their own."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.filters import Filter
from nearline.telemetry import gauge
from nearline.user_documents import NO_HASHES, Hashes

AVAILABLE_ITEMS = gauge("index_items", "Available items, which answers may contain")

Scores = NDArray[np.floating[Any]]


class OrderedItems(Protocol):
    """Items by a score, best first (ranking.py: Ranking)."""

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """``(id, score)``, best first."""

    def among(self, item_ids: Iterable[str]) -> Iterator[tuple[str, float]]:
        """``(id, score)`` of those of *item_ids* that rank, best first."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items, best first: ids, what an answer prints of each (a comma and its JSON up to the score), and scores."""

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
    """What the stages of an answer look at, for each of n items.

    *categories* (n,) are hashes, the same for the same name. *vectors* (n, dimension) are of unit norm; ``None`` if
    they were not asked for, or the index does not give them.
    """

    categories: NDArray[np.uint64]
    vectors: NDArray[np.float32] | None = None

    def take(self, order: NDArray[np.int64]) -> "ItemFeatures":
        """Those at the places *order*, in that order."""
        vectors = None if self.vectors is None else self.vectors[order]
        return ItemFeatures(self.categories[order], vectors)


class Rankings(Protocol):
    """Items by popularity (ranking.py: Trending)."""

    def top(self) -> OrderedItems:
        """``(id, score)``, most popular first."""

    def top_of(self, categories: Iterable[str]) -> OrderedItems:
        """``(id, score)`` of the items of *categories* together, most popular first."""

    def popularity(self, item_ids: Sequence[str]) -> NDArray[np.float64]:
        """How popular each of *item_ids* is beside the most popular item: 0-1, on a scale of logarithms."""


class ItemIndex(Protocol):
    """Every item that can be recommended. *filter* leaves only what passes it; *excluded* are hashes of ids, sorted.

    ``nearest`` and ``vectors`` may raise ``Unavailable``: when it is an engine that does not answer.
    """

    @property
    def trending(self) -> Rankings:
        """Items by popularity."""

    @property
    def generation(self) -> int:
        """How many changes of items this process took in: two answers of one number chose from the same items."""

    @property
    def is_remote(self) -> bool:
        """Whether a search waits for another process."""

    def check(self, filter: Filter) -> None:
        """``FilterError`` if it names an attribute that no item on show has, or has as another type."""

    async def nearest(
        self, vector: NDArray[np.float32], k: int, excluded: Hashes, filter: Filter | None, oversample: int = 0
    ) -> Candidates:
        """The *k* best by inner product with *vector*, fewer only if there are fewer; and some *oversample* more.

        The oversample is near too, but not surely the nearest that there is.
        """

    async def pick(
        self, ranked: OrderedItems, places: int, taken: Container[str], excluded: Hashes, filter: Filter | None
    ) -> Candidates:
        """The first *places* of *ranked* that are on show and not *taken*, in their order and with their scores."""

    async def vectors(self, item_ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The candidate vectors of those of *item_ids* that are on show; not to be written."""

    async def features(self, items: Candidates, *, vectors: bool = False) -> ItemFeatures:
        """What the stages look at, for each of *items*; with *vectors*, if the index gives them."""

    def passing(self, filter: Filter, items: Candidates) -> NDArray[np.bool_]:
        """Whether each of *items* is on show and passes *filter*."""

    def newest(self) -> OrderedItems:
        """``(id, listed_ms)``, latest first."""

    def favourite_categories(self, seen: Iterable[int]) -> list[str]:
        """The categories that hold most of the items with the hashes *seen*, most first."""


class CandidateSource(Protocol):
    """One named source of an answer's candidates, less what the answer's hard exclusions forbid."""

    async def fetch(self, places: int, oversample: int) -> Candidates:
        """The best for the *places*, and up to *oversample* more to choose from."""

    async def best(
        self, places: int, to: Filter | None = None, without: Sequence[Filter] = (), left_out: Hashes = NO_HASHES
    ) -> Candidates:
        """The best for the *places* that pass *to* and none of *without*, less the items with the hashes *left_out*."""

    async def of(self, item_ids: Sequence[str]) -> Candidates:
        """Those of *item_ids* that the source has."""
