"""The parts of an answer: groups of items by where they came from, and the words for what went otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from services.retrieval.items.interface import Picked


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


class Step(StrEnum):
    """What an answer went without; it is poorer for each, and says so."""

    STORE_UNAVAILABLE = "store_unavailable"
    BAD_DOCUMENT = "bad_document"
    INDEX_UNAVAILABLE = "index_unavailable"
    TOWER_UNAVAILABLE = "tower_unavailable"
    DIVERSITY_SKIPPED = "diversity_skipped"
    CATEGORIES_SKIPPED = "categories_skipped"
    WAIT_SKIPPED = "wait_skipped"


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
    items: Picked
    notes: Sequence[bytes] = ()


@dataclass(slots=True)
class Course:
    """What happened on the way to one answer: the steps that it went without, and the rules that touched it."""

    steps: list[Step] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def without(self, step: Step) -> None:
        """The answer goes without *step*; said once."""
        if step not in self.steps:
            self.steps.append(step)
