"""The item index on a remote engine."""

from collections import Counter
from collections.abc import Container, Iterable
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nearline.errors import Unavailable
from nearline.filters import Filter
from nearline.hashing import hash64, hash64_all
from nearline.item_engine import MAX_RESULTS, EngineHits, ItemEngine
from nearline.item_vectors import ItemFields
from nearline.user_documents import Hashes
from services.retrieval.in_engine.expressions import both, excluding, passes, translate
from services.retrieval.in_engine.guard import GuardedEngine
from services.retrieval.in_engine.head_items import HeadItem, HeadItems, known_from
from services.retrieval.items.interface import Candidates, ItemFeatures, OrderedItems
from services.retrieval.items.popularity import Leaderboard, Trending
from services.retrieval.items.printed import shown_fields

_SPARE = 32  # seen items that the first search allows for; a second search excludes all of them in the engine
_CHUNK = 500  # ranked items of one lookup


class EngineItems:
    """The items of *engine*, searched there; popular and newest items come from *window*."""

    is_remote = True

    def __init__(self, engine: ItemEngine, guard: GuardedEngine, window: HeadItems) -> None:
        self._engine = engine
        self._guard = guard
        self._window = window

    @property
    def trending(self) -> Trending:
        """The items in memory by popularity."""
        return self._window.trending

    def check(self, filter: Filter) -> None:
        """Accept every filter: an engine does not list its attributes, and an unknown one matches no item."""

    @property
    def generation(self) -> int:
        """How many changes of the items in memory this process applied; changes in the engine are not counted."""
        return self._window.changes

    async def nearest(
        self, vector: NDArray[np.float32], k: int, excluded: Hashes, filter: Filter | None, spare: int = 0
    ) -> Candidates:
        """The *k* best by inner product with *vector*, and up to *spare* more; ``Unavailable`` without the engine."""
        where = translate(filter)
        refused = set(excluded.tolist())
        came = await self._guard.search(vector, min(k + spare + min(len(refused), _SPARE), MAX_RESULTS), where)
        found = [each for each in came if hash64(each[0]) not in refused] if refused else came
        if len(found) < k and len(refused) > _SPARE:
            unseen = both(where, excluding(excluded.view(np.int64).tolist()))
            found = await self._guard.search(vector, min(k + spare, MAX_RESULTS), unseen)
        return _picked(found[: k + spare])

    async def features(self, items: Candidates, *, vectors: bool = False) -> ItemFeatures:
        """The categories of *items*, by which diversity compares them; vectors stay in the engine."""
        categories = hash64_all([str(shown["category"]) for shown in map(shown_fields, items.printed)])
        return ItemFeatures(categories)

    def passing(self, filter: Filter, items: Candidates) -> NDArray[np.bool_]:
        """Whether each of *items* passes *filter*."""
        shown = (ItemFields(**shown_fields(printed)) for printed in items.printed)  # type: ignore[arg-type]
        return np.array([passes(filter.node, each) for each in shown], bool)

    async def pick(
        self, ranked: OrderedItems, places: int, taken: Container[str], excluded: Hashes, filter: Filter | None
    ) -> Candidates:
        """The first *places* of *ranked* that are available and not *taken*, in their order and with their scores."""
        refused = set(excluded.tolist())
        found: EngineHits = []
        rest = iter(ranked)
        while len(found) < places and (chunk := list(islice(rest, _CHUNK))):
            others = await self._others([item_id for item_id, _ in chunk])
            for item_id, score in chunk:
                known = self._window.get(item_id) or others.get(item_id)
                if known is None or item_id in taken or known.item_hash in refused:
                    continue
                if filter is None or passes(filter.node, known.shown):
                    found.append((item_id, known.printed, score))
        return _picked(found[:places])

    async def vectors(self, item_ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The candidate vectors of those of *item_ids* that are available; ``Unavailable`` without the engine."""
        return await self._guard.vectors(list(item_ids))

    def newest(self) -> Leaderboard:
        """``(id, listed_ms)`` of the newest items in memory, latest first."""
        return self._window.newest

    def favourite_categories(self, seen: Iterable[int], most: int = 3) -> list[str]:
        """The categories with most of the items in memory whose hashes are *seen*, most first."""
        counts = Counter(category for item_hash in seen if (category := self._window.category_of(item_hash)))
        return sorted(counts, key=lambda category: (-counts[category], category))[:most]

    async def _others(self, item_ids: list[str]) -> dict[str, HeadItem]:
        """Those of *item_ids* that are not in memory, from the engine; none while it is down.

        Ranked items usually are in memory, so usually there are none.
        """
        missing = [item_id for item_id in item_ids if self._window.get(item_id) is None]
        try:
            cards = await self._engine.cards(missing) if missing else []
        except Unavailable:
            return {}
        return {card.item_id: known_from(card) for card in cards}


def _picked(found: EngineHits) -> Candidates:
    scores = np.array([score for _, _, score in found], np.float64)
    return Candidates([item_id for item_id, _, _ in found], [printed for _, printed, _ in found], scores)
