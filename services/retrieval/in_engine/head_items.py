"""The most popular and the newest items, which a replica keeps in memory when all items are in a remote engine.

They fill the places of an answer that are not personal, and are the only items while the engine is down. There are a
few thousand of them, so popular items of a small category may be missing. An unavailable item leaves at once if this
replica wrote the change, else at the next refresh from the engine, some seconds later.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sortedcontainers import SortedList

from nearline.errors import Unavailable
from nearline.hashing import hash64
from nearline.item_engine import MAX_RESULTS, Card, ItemEngine
from nearline.item_vectors import ItemFields
from nearline.log import Record
from nearline.popularity import decode_popularity
from nearline.telemetry import gauge, get_logger
from services.retrieval.items.popularity import Leaderboard, Trending
from services.retrieval.items.printed import shown_fields

POPULAR, NEWEST = 5_000, 500
_CHUNK = 500  # items of one request to the engine
_HOUR_MS = 3_600_000
_EVER_MS = 2**42
_WIDEN = 4  # each search for the newest items goes so many times further back than the one before

_ITEMS = gauge("window_items", "Available items in this replica's memory, with items in an engine")


@dataclass(frozen=True, slots=True)
class HeadItem:
    """An available item in memory."""

    version: int
    item_hash: int
    printed: bytes
    shown: ItemFields


def known_from(card: Card) -> HeadItem:
    """The item of *card*."""
    shown = ItemFields(**shown_fields(card.printed))  # type: ignore[arg-type]
    return HeadItem(card.version, hash64(card.item_id), card.printed, shown)


class Top:
    """The *most* ids with the highest scores."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._scores: dict[str, float] = {}
        self._order: SortedList = SortedList()  # (score, id)

    def __contains__(self, item_id: object) -> bool:
        """Whether *item_id* is one of them."""
        return item_id in self._scores

    def __iter__(self) -> Iterator[str]:
        """The ids, in any order."""
        return iter(self._scores)

    def put(self, item_id: str, score: float) -> str | None:
        """Set the score of *item_id*; return the evicted id (possibly this one), or ``None``."""
        self.drop(item_id)
        self._scores[item_id] = score
        self._order.add((score, item_id))
        if len(self._order) <= self._most:
            return None
        _, least = self._order.pop(0)
        del self._scores[least]
        return str(least)

    def drop(self, item_id: str) -> None:
        """Remove *item_id*, if it is there."""
        score = self._scores.pop(item_id, None)
        if score is not None:
            self._order.remove((score, item_id))


class HeadItems:
    """The most popular and newest items of *engine* with their JSON; for one thread."""

    def __init__(
        self, engine: ItemEngine, now_ms: Callable[[], int], *, popular: int = POPULAR, newest: int = NEWEST
    ) -> None:
        self.trending = Trending()
        self.newest = Leaderboard()
        self._engine = engine
        self._now_ms = now_ms
        self._popular = Top(popular)
        self._new = Top(newest)
        self._most_new = newest
        self._known: dict[str, HeadItem] = {}
        self._by_hash: dict[int, str] = {}
        self.changes = 0  # items that came, changed or left

    def __len__(self) -> int:
        """How many available items are in memory."""
        return len(self._known)

    def get(self, item_id: str) -> HeadItem | None:
        """The item, if it is in memory."""
        return self._known.get(item_id)

    def category_of(self, item_hash: int) -> str:
        """The category of the item with this hash; ``""`` if it is not in memory."""
        item_id = self._by_hash.get(item_hash)
        return "" if item_id is None else self._known[item_id].shown.category

    def score(self, item_id: str, score: float) -> None:
        """Set the item's popularity."""
        self.trending.score(item_id, score)
        evicted = self._popular.put(item_id, score)
        if evicted is not None:
            self.trending.unscore(evicted)
            self._forget_if_unwanted(evicted)

    def unscore(self, item_id: str) -> None:
        """Remove the item's popularity."""
        self._popular.drop(item_id)
        self.trending.unscore(item_id)
        self._forget_if_unwanted(item_id)

    def show(self, cards: Iterable[Card]) -> None:
        """Keep those of *cards*, which are available items, that are popular or new."""
        for card in cards:
            known = known_from(card)
            listed_ms = float(known.shown.listed_ms or 0)
            evicted = self._new.put(card.item_id, listed_ms)
            if card.item_id in self._popular or card.item_id in self._new:
                self._keep(card.item_id, known, listed_ms)
            if evicted is not None:
                self.newest.drop(evicted)
                self._forget_if_unwanted(evicted)

    def hide(self, item_ids: Iterable[str]) -> None:
        """Remove items that are unavailable; their popularity is kept in case they return."""
        for item_id in item_ids:
            self._new.drop(item_id)
            self._forget(item_id)

    async def run(self, every_s: float = 2.0, newest_every: int = 30) -> None:
        """Refresh every *every_s*, and find the newest items every *newest_every* times; until cancelled."""
        looks = 0
        while True:
            try:
                await self.refresh()
                if looks % newest_every == 0:
                    await self.find_newest()
                looks += 1
            except Unavailable as error:
                get_logger().debug("cannot refresh the items in memory", reason=str(error))
            await asyncio.sleep(every_s)

    async def refresh(self) -> None:
        """Update the items in memory, and those that should be, to the engine's state."""
        wanted = list({*self._popular, *self._new})
        for start in range(0, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            versions = await self._engine.shown_versions(part)
            changed = [item_id for item_id in part if versions.get(item_id, -1) != self._version(item_id)]
            cards = await self._engine.cards([item_id for item_id in changed if item_id in versions])
            self.hide(set(changed) - {card.item_id for card in cards})
            self.show(cards)
        _ITEMS.set(len(self._known))

    async def find_newest(self) -> None:
        """Add the items of the engine that were listed last; only some, if they are more than one result holds."""
        back_ms = _HOUR_MS
        while back_ms < _EVER_MS:
            where = f"listed_ms >= {float(self._now_ms() - back_ms)!r}"
            if await self._engine.count(where) >= self._most_new:
                break
            back_ms *= _WIDEN
        else:
            where = ""
        self.show(await self._engine.matching(where, MAX_RESULTS))

    def _version(self, item_id: str) -> int:
        known = self._known.get(item_id)
        return -1 if known is None else known.version

    def _keep(self, item_id: str, known: HeadItem, listed_ms: float) -> None:
        self.changes += 1
        self._known[item_id] = known
        self._by_hash[known.item_hash] = item_id
        self.trending.show(item_id, known.shown.category)
        if item_id in self._new:
            self.newest.put(item_id, listed_ms)

    def _forget_if_unwanted(self, item_id: str) -> None:
        if item_id not in self._popular and item_id not in self._new:
            self._forget(item_id)

    def _forget(self, item_id: str) -> None:
        known = self._known.pop(item_id, None)
        self.trending.hide(item_id)
        self.newest.drop(item_id)
        if known is not None:
            self.changes += 1
            del self._by_hash[known.item_hash]


def popular_records(window: HeadItems) -> Callable[[Record], None]:
    """A function that applies records of ``item-popularity`` to *window*."""

    def apply(record: Record) -> None:
        if record.value is None:
            window.unscore(record.id)
        else:
            window.score(record.id, decode_popularity(record.value).score)

    return apply
