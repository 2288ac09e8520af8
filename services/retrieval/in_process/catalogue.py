"""The item index in memory: the available items, their JSON, and their vectors.

The newest version of an item wins, in whatever order records arrive; of records with one version the last one does. An
item that is retired, unavailable or purged is in no answer from that moment on.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadInput, SpaceMismatch
from nearline.filters import Filter
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields, ItemVector
from nearline.user_documents import Hashes
from services.retrieval.in_process.columns import FieldColumns
from services.retrieval.in_process.graphs import Slots
from services.retrieval.in_process.histories import NO_ROW, HistoryVectors
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.in_process.masks import Masks
from services.retrieval.in_process.rows import Rows
from services.retrieval.items.interface import Candidates, ItemFeatures, OrderedItems
from services.retrieval.items.popularity import Leaderboard, Trending
from services.retrieval.items.printed import NO_ATTRIBUTES, attributes_of, render, shown_fields
from services.retrieval.items.text_index import TextIndex

_NO_SLOT = -1
_ALLOWANCES = (32, 128, 512)  # excluded items that one search after the other allows for; the last allows for all
_MANY = 256  # excluded items: of so many usually more than 32 are near, and two searches take longer than a wide one
_NO_HISTORY: NDArray[np.float16] = np.empty(0, np.float16)  # of restored items, which have their rows already


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One item at one version; *slot* is that of its vector, or -1 if the item is not available.

    *row* is that of its history vector, or -1 if that is unknown.
    """

    item_id: str
    version: int
    item_hash: int
    slot: int = _NO_SLOT
    category: str = ""
    row: int = NO_ROW


class Catalogue:
    """All items, changed record by record and searched in between; for one thread.

    *texts*, if given, indexes the words of the available items.
    """

    is_remote = False

    def __init__(self, dimension: int, index: LiveIndex, texts: TextIndex | None = None) -> None:
        self.index = index
        self.texts = texts
        self.trending = Trending()
        self.histories = HistoryVectors(dimension)
        self._dimension = dimension
        self._newest = Leaderboard()
        self._by_id: dict[str, CatalogueRow] = {}
        self._by_hash: dict[int, CatalogueRow] = {}
        self._ids: list[str] = []  # by slot
        self._printed: list[bytes] = []  # by slot
        self._hashes: Hashes = np.zeros(1024, np.uint64)  # by slot
        self._columns = FieldColumns()
        self._masks = Masks(self._columns)

    def __len__(self) -> int:
        """How many items are available."""
        return self.index.live

    def apply(self, item: ItemVector) -> bool:
        """Apply *item* unless a newer version is known; return whether it was applied.

        ``SpaceMismatch`` with both numbers if its vector is not of the index's dimension, ``BadInput`` if it is not
        finite; then nothing has changed.
        """
        known = self._by_id.get(item.item_id)
        if known is not None and item.version < known.version:
            return False
        if known is not None and item.version == known.version and known.row == NO_ROW:
            return self._complete(item, known)
        if item.candidate is not None:
            self._check(item.item_id, item.candidate)
        row = self.histories.put(item.history, NO_ROW if known is None else known.row)
        if item.candidate is None or not item.shown.available:
            self._hide(known)
            self._by_id[item.item_id] = CatalogueRow(item.item_id, item.version, hash64(item.item_id), row=row)
        else:
            self._unlist(known)
            self._show(item, item.candidate, known, row)
        return True

    def _complete(self, item: ItemVector, known: CatalogueRow) -> bool:
        """Add the history vector of an item that was restored without it, from a snapshot of an earlier build."""
        listing = replace(known, row=self.histories.put(item.history))
        self._by_id[item.item_id] = listing
        if listing.slot != _NO_SLOT:
            self._by_hash[listing.item_hash] = listing
        return True

    def purge(self, item_id: str) -> None:
        """Forget the item, whose record is gone from the log."""
        known = self._by_id.pop(item_id, None)
        self._hide(known)
        if known is not None:
            self.histories.drop(known.row)

    def rows(self) -> NDArray[np.int64]:
        """The row of the history vector of each of ``records``, or -1."""
        return np.fromiter((listing.row for listing in self._by_id.values()), np.int64, len(self._by_id))

    def records(self) -> Iterator[tuple[str, int, int, dict[str, object] | None]]:
        """``(id, version, slot, fields of ItemFields)`` of every known item; -1 and ``None`` if it is not available."""
        for listing in self._by_id.values():
            available = listing.slot != _NO_SLOT
            shown = shown_fields(self._printed[listing.slot]) if available else None
            yield listing.item_id, listing.version, listing.slot, shown

    def restore(
        self, records: Iterable[tuple[str, int, int, ItemFields | None]], rows: NDArray[np.int64] | None = None
    ) -> None:
        """Fill this empty catalogue with the *records* of another one, whose index is restored already.

        *rows* are those of the items' history vectors, in the order of *records*; ``None`` if they are unknown.
        """
        slots = self.index.slots
        self._ids, self._printed = [""] * slots, [b""] * slots
        self._hashes = np.zeros(max(1024, slots), np.uint64)
        self._columns.reserve(slots)
        places = repeat(NO_ROW) if rows is None else iter(rows.tolist())
        for (item_id, version, slot, shown), row in zip(records, places, strict=rows is not None):
            listing = self._by_id[item_id] = CatalogueRow(item_id, version, hash64(item_id), slot, row=row)
            if shown is not None:
                vector = self.index.vector(slot)
                self._show(ItemVector(item_id, version, shown, vector, _NO_HISTORY, ""), vector, listing, row)

    def clear(self) -> None:
        """Remove everything."""
        self.index.clear()
        if self.texts is not None:
            self.texts.clear()
        Catalogue.__init__(self, self._dimension, self.index, self.texts)

    def check(self, filter: Filter) -> None:
        """Raise ``FilterError`` if no available item has an attribute of *filter*, or has it with another type."""
        self._columns.check(filter)

    @property
    def generation(self) -> int:
        """How many changes of items this process applied."""
        return self._columns.changes.end

    async def nearest(
        self, vector: NDArray[np.float32], k: int, excluded: Hashes, filter: Filter | None, spare: int = 0
    ) -> Candidates:
        """The *k* best by inner product with *vector*, fewer only if there are fewer; and up to *spare* more."""
        rows = None if filter is None else self._masks.rows(filter)
        for allowed in _allowances(len(excluded)):
            slots, scores = self._nearest(vector, k, spare + allowed, excluded, rows)
            if len(slots) >= k:
                break
        return self._picked(slots[: k + spare].tolist(), scores[: k + spare])

    def _nearest(
        self, vector: NDArray[np.float32], k: int, spare: int, excluded: Hashes, rows: Rows | None
    ) -> tuple[Slots, NDArray[np.float32]]:
        slots, scores = self.index.search(vector, k, spare, rows)
        if len(excluded) and len(slots):
            hashes = self._hashes[slots]
            kept = excluded.take(excluded.searchsorted(hashes), mode="clip") != hashes
            slots, scores = slots[kept], scores[kept]
        return slots, scores

    async def features(self, items: Candidates, *, vectors: bool = False) -> ItemFeatures:
        """The features of *items*, which are available."""
        slots = self._slots(items)
        categories: NDArray[np.uint64] = self._columns.words("category", slots)
        return ItemFeatures(categories, self.index.vectors(slots) if vectors else None)

    def passing(self, filter: Filter, items: Candidates) -> NDArray[np.bool_]:
        """Whether each of *items*, which are available, passes *filter*."""
        passing: NDArray[np.bool_] = self._masks.rows(filter).passing[self._slots(items)]
        return passing

    def _slots(self, items: Candidates) -> Slots:
        by_id = self._by_id
        return np.array([by_id[item_id].slot for item_id in items.item_ids], np.int64)

    async def pick(
        self, ranked: OrderedItems, places: int, taken: Container[str], excluded: Hashes, filter: Filter | None
    ) -> Candidates:
        """The first *places* of *ranked* that are available and not *taken*, in their order and with their scores."""
        refused = set(excluded.tolist())
        slots: list[int] = []
        scores: list[float] = []
        for item_id, score in ranked if filter is None else self._passing(ranked, self._masks.rows(filter)):
            if len(slots) == places:
                break
            listing = self.get(item_id)
            if listing is not None and item_id not in taken and listing.item_hash not in refused:
                slots.append(listing.slot)
                scores.append(score)
        return self._picked(slots, np.array(scores))

    def _passing(self, ranked: OrderedItems, rows: Rows) -> Iterator[tuple[str, float]]:
        """Those of *ranked* that pass, in order.

        It walks down *ranked* for as many items as pass in all, and then looks the remaining ones up.
        """
        met = set()
        for nth, (item_id, score) in enumerate(ranked):
            if nth >= rows.count:
                break
            listing = self.get(item_id)
            if listing is not None and rows.passing[listing.slot]:
                met.add(item_id)
                yield item_id, score
        else:
            return
        ids = self._ids
        yield from ranked.among(ids[slot] for slot in rows.slots.tolist() if ids[slot] not in met)

    def _picked(self, slots: list[int], scores: NDArray[np.floating[Any]]) -> Candidates:
        ids, printed = self._ids, self._printed
        return Candidates([ids[slot] for slot in slots], [printed[slot] for slot in slots], scores)

    def get(self, item_id: str) -> CatalogueRow | None:
        """The item, if it is available."""
        listing = self._by_id.get(item_id)
        return listing if listing is not None and listing.slot != _NO_SLOT else None

    async def vectors(self, item_ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The candidate vectors of those of *item_ids* that are available; read-only."""
        found = ((item_id, self.get(item_id)) for item_id in item_ids)
        return {item_id: self.index.vector(listing.slot) for item_id, listing in found if listing is not None}

    def history_rows(self, item_ids: Iterable[str]) -> dict[str, int]:
        """The rows in ``histories`` of those of *item_ids* that are known, available or not."""
        found = ((item_id, self._by_id.get(item_id)) for item_id in item_ids)
        return {item_id: listing.row for item_id, listing in found if listing is not None and listing.row != NO_ROW}

    def newest(self) -> Leaderboard:
        """``(id, listed_ms)`` of every available item, latest first; an item without a listing time comes last."""
        return self._newest

    def favourite_categories(self, seen: Iterable[int], most: int = 3) -> list[str]:
        """The categories with most of the available items whose hashes are *seen*, most first."""
        counts: dict[str, int] = {}
        for item_hash in seen:
            listing = self._by_hash.get(item_hash)
            if listing is not None and listing.category:
                counts[listing.category] = counts.get(listing.category, 0) + 1
        return sorted(counts, key=lambda category: (-counts[category], category))[:most]

    def _show(self, item: ItemVector, vector: NDArray[np.float32], known: CatalogueRow | None, row: int) -> None:
        slot = self._slot_for(vector, known)
        item_hash = known.item_hash if known is not None else hash64(item.item_id)
        listing = CatalogueRow(item.item_id, item.version, item_hash, slot, item.shown.category, row)
        self._by_id[item.item_id] = self._by_hash[item_hash] = listing
        self._place(listing, render(item.item_id, item.shown))
        self._columns.put(slot, item.shown)
        if self.texts is not None:
            self.texts.put(item.item_id, item.shown)
        self.trending.show(item.item_id, item.shown.category)
        self._newest.put(item.item_id, float(item.shown.listed_ms or 0))

    def _check(self, item_id: str, vector: NDArray[np.float32]) -> None:
        if len(vector) != self._dimension:
            raise SpaceMismatch(
                f"item {item_id!r} has a vector of {len(vector)} dimensions; the index has {self._dimension}"
            )
        if not np.isfinite(vector @ vector):
            raise BadInput("bad_vector", f"item {item_id!r} has a vector that is not finite")

    def _slot_for(self, vector: NDArray[np.float32], known: CatalogueRow | None) -> int:
        """A slot with *vector*: the item's own if its vector did not change, else a new one."""
        if known is not None and known.slot != _NO_SLOT:
            if np.array_equal(self.index.vector(known.slot), vector):
                return known.slot
            self._vacate(known.slot)
        return self.index.insert(vector)

    def _vacate(self, slot: int) -> None:
        """Remove *slot* from searches and drop its JSON; its vector stays until the graph is rebuilt."""
        self.index.remove(slot)
        self._printed[slot] = b""

    def _place(self, listing: CatalogueRow, printed: bytes) -> None:
        slot = listing.slot
        if slot == len(self._printed):
            self._ids.append(listing.item_id)
            self._printed.append(printed)
        else:
            self._ids[slot], self._printed[slot] = listing.item_id, printed
        if slot >= len(self._hashes):
            self._hashes = np.concatenate((self._hashes, np.zeros_like(self._hashes)))
        self._hashes[slot] = listing.item_hash

    def _unlist(self, known: CatalogueRow | None) -> None:
        """Remove the fields of *known* from the filters' columns."""
        if known is None or known.slot == _NO_SLOT:
            return
        printed = self._printed[known.slot]
        attributes = {} if printed.endswith(NO_ATTRIBUTES) else attributes_of(printed)
        self._columns.clear(known.slot, attributes)

    def _hide(self, known: CatalogueRow | None) -> None:
        if known is None or known.slot == _NO_SLOT:
            return
        self._unlist(known)
        self._vacate(known.slot)
        if self.texts is not None:
            self.texts.drop(known.item_id)
        self.trending.hide(known.item_id)
        self._newest.drop(known.item_id)
        self._by_hash.pop(known.item_hash, None)


def _allowances(excluded: int) -> Iterator[int]:
    """How many excluded items each search allows for, one search after the other until one finds enough."""
    allowances = _ALLOWANCES if excluded <= _MANY else _ALLOWANCES[1:]
    yield from (allowed for allowed in allowances if allowed < excluded)
    yield excluded
