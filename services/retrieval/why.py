"""Explains why an item is in a user's answer or not: the effect of each event, and what excludes the item."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from nearline.hashing import hash64
from nearline.item_vectors import Vector
from nearline.sequences import UserSequence
from nearline.user_documents import NO_HASHES, Hashes, UserDocument
from services.retrieval.items.interface import Candidates, ItemIndex
from services.retrieval.items.popularity import ItemList
from services.retrieval.merchandising.effects import RuleSet, touches
from services.retrieval.pipeline.exclusions import seen_hashes
from services.retrieval.request import RecommendRequest

MOST_EVENTS = 63  # the newest ones: with the whole history they make one request to the user tower

EncodeSequence = Callable[[UserSequence], Awaitable[Vector | None]]


class AbsenceCause(StrEnum):
    """Why an item is not in an answer; if several causes apply, the first in this order."""

    UNKNOWN_ITEM = "unknown_item"  # this process has no record of it
    NOT_ON_SHOW = "not_on_show"  # it is known, and unavailable, deleted or without a vector
    BLOCKED = "blocked"
    SEEN = "seen"
    FILTERED = "filtered"
    BELOW = "below"  # other items are nearer, or more popular


@dataclass(frozen=True, slots=True)
class Absence:
    """Why an item is not in an answer: *rules* block it, or its score is *by* below that of the last item."""

    cause: AbsenceCause
    rules: tuple[str, ...] = ()
    last_score: float | None = None
    by: float | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """How much one event changed an item's score; ``None`` if without the event there is no vector."""

    event_id: str
    item_id: str
    type: str
    time_ms: int
    moved: float | None


def without_each(events: UserSequence) -> list[UserSequence]:
    """One history per newest event, each without that event, newest first; at most ``MOST_EVENTS``."""
    count = len(events.items)
    return [_without(events, at) for at in range(count - 1, max(-1, count - 1 - MOST_EVENTS), -1)]


def _without(events: UserSequence, at: int) -> UserSequence:
    columns = ("items", "times_ms", "types", "values", "event_ids", "contexts")
    kept = {name: column[:at] + column[at + 1 :] for name in columns if (column := getattr(events, name))}
    return replace(events, **kept)


async def movements(events: UserSequence, item: Vector, encode: EncodeSequence) -> list[Moved]:
    """The effect of each of the newest events on the score of *item*: the score with all events, less that without it.

    The largest effect comes first. The tower encodes one sequence per event, all in one request.
    """
    shorter = without_each(events)
    whole, *others = await asyncio.gather(encode(events), *map(encode, shorter))
    found = [_moved(events, -1 - nth, item, whole, other) for nth, other in enumerate(others)]
    return sorted(found, key=lambda each: -abs(each.moved or 0.0))


def _moved(events: UserSequence, at: int, item: Vector, whole: Vector | None, other: Vector | None) -> Moved:
    moved = None if whole is None or other is None else float(item @ whole - item @ other)
    return Moved(events.event_ids[at], events.items[at], events.types[at], events.times_ms[at], moved)


async def found_on_show(index: ItemIndex, item_id: str) -> Candidates:
    """The item as one candidate, or none if it is not available."""
    return await index.pick(ItemList([(item_id, 0.0)]), 1, (), NO_HASHES, None)


def absence(
    index: ItemIndex,
    item: Candidates,
    score: float | None,
    *,
    is_known: bool,
    request: RecommendRequest,
    rules: RuleSet,
    document: UserDocument | None,
    scores: Sequence[float],
) -> Absence:
    """Why *item* (one, or none if it is not available) is not in the answer to *request* with personal *scores*."""
    if not len(item):
        return Absence(AbsenceCause.NOT_ON_SHOW if is_known else AbsenceCause.UNKNOWN_ITEM)
    blocks = tuple(rule.rule_id for rule in rules.blocks if touches(rule, item, index.passing).any())
    if blocks:
        return Absence(AbsenceCause.BLOCKED, blocks)
    if _holds(seen_hashes(document, request.exclude_seen), item.item_ids[0]):
        return Absence(AbsenceCause.SEEN)
    if request.filter is not None and not index.passing(request.filter, item).any():
        return Absence(AbsenceCause.FILTERED)
    last = min(scores, default=None)
    return Absence(AbsenceCause.BELOW, (), last, None if last is None or score is None else last - score)


def _holds(hashes: Hashes, item_id: str) -> bool:
    return bool((hashes == np.uint64(hash64(item_id))).any())
