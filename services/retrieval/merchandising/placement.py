"""The last two stages of an answer: exploration, then pins; their items pass the same hard exclusions as the rest."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, takewhile

import numpy as np
import orjson

from nearline.filters import Filter, narrowed
from nearline.rules import Rule
from nearline.user_documents import Hashes
from services.retrieval.items.interface import Candidates, ItemIndex, OrderedItems
from services.retrieval.items.popularity import ItemList
from services.retrieval.merchandising.effects import PinPosition, RuleSet, pin_positions, touches, with_pins
from services.retrieval.merchandising.exploration import POOL, explore, opened_places
from services.retrieval.request import RequestContext
from services.retrieval.result import Group, Source

_LOOKED_AT = 4 * POOL  # newest items from which the pool is filled, as some are excluded for this user


@dataclass(frozen=True, slots=True)
class ExplorationPolicy:
    """The *share* of an answer's places that goes to items listed at *since_ms* or later."""

    share: float = 0.0
    since_ms: int = 0


NO_EXPLORATION = ExplorationPolicy()


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """One item of an unfinished answer, with the *rules* that touched it and its *propensity* at its place."""

    item_id: str
    printed: bytes
    score: float
    source: Source
    rules: tuple[str, ...] = ()
    propensity: float | None = None

    @property
    def note(self) -> bytes:
        """Rules and propensity as JSON after a comma, or nothing."""
        rules = b',"rules":' + orjson.dumps(self.rules) if self.rules else b""
        return rules if self.propensity is None else rules + b',"propensity":' + orjson.dumps(self.propensity)


class Placement:
    """Puts the items of one answer in their places; *excluded* and *filter* are the answer's hard exclusions."""

    def __init__(self, index: ItemIndex, context: RequestContext, excluded: Hashes, filter: Filter | None) -> None:
        self._index = index
        self._context = context
        self._excluded = excluded
        self._wanted = filter

    async def place(
        self, groups: Sequence[Group], rules: RuleSet, exploration: ExplorationPolicy, request_id: str
    ) -> list[PlacedItem]:
        """The answer's items, in order: from *groups*, exploration and pins. Pins are only on the first page."""
        k = self._context.request.k
        entries = self._touched(_entries(groups), rules.weights)
        pins = rules.pins if not len(self._context.served) else ()
        pinned, found = await self._pinned(pins, {entry.item_id: entry for entry in entries}, k) if pins else ([], {})
        others = [entry for entry in entries if entry.item_id not in found][: k - len(pinned)]
        if exploration.share:
            others = await self._explored(others, exploration, request_id, found.keys())
        by_id = {entry.item_id: entry for entry in others} | found
        return [by_id[item_id] for item_id in with_pins([entry.item_id for entry in others], pinned, k)]

    def _touched(self, entries: list[PlacedItem], weights: Sequence[Rule]) -> list[PlacedItem]:
        """*entries* with the ids of the boosts and buries that apply to them."""
        items = Candidates([e.item_id for e in entries], [e.printed for e in entries], np.zeros(len(entries)))
        for rule in weights:
            about = touches(rule, items, self._index.passing)
            entries = [
                replace(entry, rules=(*entry.rules, rule.rule_id)) if mine else entry
                for entry, mine in zip(entries, about.tolist(), strict=True)
            ]
        return entries

    async def _pinned(
        self, pins: Sequence[Rule], entries: Mapping[str, PlacedItem], k: int
    ) -> tuple[list[PinPosition], dict[str, PlacedItem]]:
        """The places of *pins*, and the pinned items, from the answer's *entries* or from the index."""
        named = dict.fromkeys(item_id for pin in pins for item_id in pin.items)
        outside = ItemList((item_id, 0.0) for item_id in named if item_id not in entries)
        allowed = dict(entries) | await self._scored(await self._pick(outside, len(named), self._wanted), Source.PINNED)
        best_of: dict[str, list[str]] = {}
        for pin in pins:
            if pin.filter is not None:
                best = await self._best(narrowed(self._wanted, to=pin.filter), len(named) + len(pins))
                best_of[pin.rule_id] = list(best)
                allowed = best | allowed
        placed = pin_positions(pins, best_of, allowed, k)
        return placed, {place.item_id: _pinned_by(place, allowed[place.item_id]) for place in placed}

    async def _best(self, filter: Filter | None, most: int) -> dict[str, PlacedItem]:
        """The best *most* items that pass *filter*: nearest to the user; without a vector most popular, else newest."""
        document = self._context.document
        if document is not None and document.vector is not None:
            return _by_id(await self._index.nearest(document.vector, most, self._excluded, filter), Source.PERSONAL)
        popular = await self._pick(self._index.trending.top(), most, filter)
        newest = await self._pick(self._index.newest(), most, filter)
        return _by_id(newest, Source.NEWEST) if not len(popular) else _by_id(popular, Source.TRENDING)

    async def _explored(
        self, others: list[PlacedItem], exploration: ExplorationPolicy, request_id: str, pinned: Collection[str]
    ) -> list[PlacedItem]:
        """*others* with some places given to random new items, and the propensity of each."""
        taken = {entry.item_id for entry in others} | set(pinned)
        newest = _recent(self._index.newest(), exploration.since_ms)
        pool = await self._index.pick(newest, POOL, taken, self._excluded, self._wanted)
        opened = opened_places(request_id, len(others), exploration.share)
        ids = [entry.item_id for entry in others]
        found = explore(ids, opened, pool.item_ids, share=exploration.share, request_id=request_id)
        drawn = pool.take(np.array([at for at, each in enumerate(pool.item_ids) if each in found.drawn], np.int64))
        known = {entry.item_id: entry for entry in others} | await self._scored(drawn, Source.EXPLORATION)
        pairs = zip(found.item_ids, found.propensities, strict=True)
        return [replace(known[item_id], propensity=propensity) for item_id, propensity in pairs]

    async def _pick(self, ranked: OrderedItems, most: int, filter: Filter | None) -> Candidates:
        return await self._index.pick(ranked, most, (), self._excluded, filter)

    async def _scored(self, items: Candidates, source: Source) -> dict[str, PlacedItem]:
        """*items* as entries, each with its inner product with the user's vector; 0 if a vector is missing."""
        document = self._context.document
        if not len(items) or document is None or document.vector is None:
            return _by_id(replace(items, scores=np.zeros(len(items))), source)
        vectors = (await self._index.features(items, vectors=True)).vectors
        scores = np.zeros(len(items)) if vectors is None else vectors @ document.vector
        return _by_id(replace(items, scores=scores), source)


def groups_of(entries: Iterable[PlacedItem]) -> list[Group]:
    """*entries* grouped by consecutive source."""
    return [_group(source, list(members)) for source, members in groupby(entries, key=lambda entry: entry.source)]


def _group(source: Source, members: Sequence[PlacedItem]) -> Group:
    items = Candidates(
        [entry.item_id for entry in members],
        [entry.printed for entry in members],
        np.array([entry.score for entry in members]),
    )
    notes = [entry.note for entry in members]
    return Group(source, items, notes if any(notes) else ())


def _entries(groups: Iterable[Group]) -> list[PlacedItem]:
    return [entry for group in groups for entry in _by_id(group.items, group.source).values()]


def _by_id(items: Candidates, source: Source) -> dict[str, PlacedItem]:
    each = zip(items.item_ids, items.printed, items.scores.tolist(), strict=True)
    return {item_id: PlacedItem(item_id, printed, score, source) for item_id, printed, score in each}


def _pinned_by(place: PinPosition, entry: PlacedItem) -> PlacedItem:
    return replace(entry, source=Source.PINNED, rules=(*entry.rules, place.rule_id))


def _recent(newest: OrderedItems, since_ms: int) -> ItemList:
    """The newest items down to those listed at *since_ms*."""
    within = takewhile(lambda pair: pair[1] >= since_ms, newest)
    return ItemList(islice(within, _LOOKED_AT))
