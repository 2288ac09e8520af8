"""The parts of an answer: groups of items by their source, and the names of what went wrong or was left out."""

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
    EXPLORATION = "exploration"  # a new item that came by lot
    PINNED = "pinned"  # a rule put it there


TOP_UPS = frozenset({Source.TRENDING_CATEGORY, Source.TRENDING, Source.NEWEST})  # they fill what is left open


class Reason(StrEnum):
    """Why an answer is not wholly personal."""

    UNKNOWN_USER = "unknown_user"
    NO_VECTOR = "no_vector"
    STORE_UNAVAILABLE = "store_unavailable"
    BAD_DOCUMENT = "bad_document"
    INDEX_UNAVAILABLE = "index_unavailable"
    TOO_FEW_CANDIDATES = "too_few_candidates"
    TOWER_UNAVAILABLE = "tower_unavailable"  # of a session: it has no vector for that


class Degradation(StrEnum):
    """What an answer went without because a part was down or time was short."""

    STORE_UNAVAILABLE = "store_unavailable"
    BAD_DOCUMENT = "bad_document"
    INDEX_UNAVAILABLE = "index_unavailable"
    TOWER_UNAVAILABLE = "tower_unavailable"
    DIVERSITY_SKIPPED = "diversity_skipped"
    CATEGORIES_SKIPPED = "categories_skipped"
    WAIT_SKIPPED = "wait_skipped"
    RERANKER_SKIPPED = "reranker_skipped"


class Seen(StrEnum):
    """How surely an answer knows what the user has seen."""

    KNOWN = "known"  # as the store holds it now
    CACHED = "cached"  # as this process last read it: the store is down
    UNKNOWN = "unknown"  # the store is down and nothing is remembered


@dataclass(frozen=True, slots=True)
class Group:
    """Items of one source that follow one another; scores are inner products, popularity, or listing times.

    *notes*, if there are any, hold for each item what else is said of it: ``b',"rules":["r-1"]'`` or nothing.
    """

    source: Source
    items: Candidates
    notes: Sequence[bytes] = ()


@dataclass(slots=True)
class Trace:
    """What happened while one answer was made: what it went without, and the ids of the rules that touched it."""

    degradations: list[Degradation] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def degrade(self, degradation: Degradation) -> None:
        """Note that the answer goes without this; once, however often it is said."""
        if degradation not in self.degradations:
            self.degradations.append(degradation)
