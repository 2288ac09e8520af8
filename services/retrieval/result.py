"""The parts of an answer: groups of items by source, reasons, and degradations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from services.retrieval.items.interface import Candidates


class Source(StrEnum):
    """Where an item of an answer came from."""

    PERSONAL = "personal"
    TRENDING_CATEGORY = "trending_category"
    TRENDING = "trending"
    NEWEST = "newest"
    EXPLORATION = "exploration"  # a new item, drawn at random
    PINNED = "pinned"  # placed by a rule


TOP_UPS = frozenset({Source.TRENDING_CATEGORY, Source.TRENDING, Source.NEWEST})  # they fill the remaining places


class Reason(StrEnum):
    """Why not all items of an answer are personal."""

    UNKNOWN_USER = "unknown_user"
    NO_VECTOR = "no_vector"
    STORE_UNAVAILABLE = "store_unavailable"
    BAD_DOCUMENT = "bad_document"
    INDEX_UNAVAILABLE = "index_unavailable"
    TOO_FEW_CANDIDATES = "too_few_candidates"
    TOWER_UNAVAILABLE = "tower_unavailable"  # only of a session


class Degradation(StrEnum):
    """What an answer lacks because a part was down or time was short."""

    STORE_UNAVAILABLE = "store_unavailable"
    BAD_DOCUMENT = "bad_document"
    INDEX_UNAVAILABLE = "index_unavailable"
    TOWER_UNAVAILABLE = "tower_unavailable"
    DIVERSITY_SKIPPED = "diversity_skipped"
    CATEGORIES_SKIPPED = "categories_skipped"
    WAIT_SKIPPED = "wait_skipped"
    RERANKER_SKIPPED = "reranker_skipped"


class Seen(StrEnum):
    """Whether the user's seen items are known."""

    KNOWN = "known"  # as the store holds it now
    CACHED = "cached"  # as this process last read it: the store is down
    UNKNOWN = "unknown"  # the store is down and this process has no usable copy


class EventOutcome(StrEnum):
    """What became of the event that a request named in ``after``."""

    USED = "used"  # it is among the events that the answer used
    PASSED = "passed"  # it is older than all of them, and they are as many as are kept
    REFUSED = "refused"  # it is from before its user's erasure, or before 1980
    UNKNOWN = "unknown"  # not read yet, removed, refused for another reason, never sent, or without its time


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive items of one source; scores are inner products, popularity, or listing times.

    *notes*, if not empty, have further JSON for each item: ``b',"rules":["r-1"]'`` or nothing.
    """

    source: Source
    items: Candidates
    notes: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class UnusedParameter:
    """A parameter of the request that the answer did not use, and why."""

    parameter: str
    reason: str


@dataclass(slots=True)
class Trace:
    """What happened while one answer was made: its degradations, and the ids of the rules that touched it.

    *category_used* says whether the popular items of the page's category were among the candidates.
    """

    degradations: list[Degradation] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    category_used: bool = False

    def degrade(self, degradation: Degradation) -> None:
        """Add *degradation*, unless it is there already."""
        if degradation not in self.degradations:
            self.degradations.append(degradation)
