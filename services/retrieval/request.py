"""A request for recommendations (parsed in parameters.py) and the state of its answer in the pipeline."""

import time
from dataclasses import dataclass, field
from enum import StrEnum

from nearline.filters import Filter
from nearline.user_documents import NO_HASHES, Hashes, UserDocument
from services.retrieval.result import Trace

MAX_K = 500
DEFAULT_K = 20
MAX_EXCLUDED = 500  # ids that a caller may exclude
LONGEST_WAIT_MS = 5_000
DEFAULT_WAIT_MS = 200


class ExcludeSeen(StrEnum):
    """Which seen items an answer leaves out."""

    ALL = "all"
    PURCHASE = "purchase"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PageContext:
    """The caller's context: the user's device and country, and the category of the page that is shown."""

    device: str = ""
    country: str = ""
    category: str = ""


_NO_CONTEXT = PageContext()


@dataclass(frozen=True, slots=True, eq=False)
class RecommendRequest:
    """The parameters of one request for recommendations; *given* names those that the caller set.

    *diversity* is 1 - lambda of MMR: 0 orders by score alone, 1 by dissimilarity alone.
    """

    k: int = DEFAULT_K
    exclude_seen: ExcludeSeen = ExcludeSeen.ALL
    filter: Filter | None = None
    exclude: Hashes = field(default_factory=lambda: NO_HASHES)  # of the caller's ids, sorted
    diversity: float = 0.0
    popularity_discount: float = 0.0
    max_per_category: int | None = None
    fields: frozenset[str] | None = None  # of an item, beside its id; None: all
    page: str | None = None  # the next_page of an earlier answer; pages.FIRST for the first page
    context: PageContext = _NO_CONTEXT
    scenario: str | None = None
    after: str | None = None  # an event that the answer should have used
    after_ms: int | None = None  # the time of that event
    wait_ms: int = DEFAULT_WAIT_MS
    holder: str | None = None  # whose share of the waiting requests it takes
    given: frozenset[str] = frozenset()

    @property
    def is_shaped(self) -> bool:
        """Whether the request has diversity, a popularity discount or a cap per category."""
        return bool(self.diversity or self.popularity_discount or self.max_per_category is not None)

    @property
    def is_of_one_user(self) -> bool:
        """Whether the parameters are specific to one user, so that caching them is useless."""
        return bool(len(self.exclude)) or self.page is not None or self.after is not None


class Budget:
    """The time that an answer may take: *limit_ms* from *started_ns* (``time.perf_counter_ns``)."""

    __slots__ = ("_end_ns",)

    def __init__(self, limit_ms: float, started_ns: int) -> None:
        self._end_ns = started_ns + int(limit_ms * 1e6)

    @property
    def is_spent(self) -> bool:
        """Whether no time is left."""
        return time.perf_counter_ns() >= self._end_ns

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 if none."""
        return max(0, self._end_ns - time.perf_counter_ns()) / 1e9


@dataclass(slots=True)
class RequestContext:
    """The state of one answer: the *request*, the user's *document*, and *served*, the hashes of earlier pages' items.

    The pipeline notes in *trace* which steps it skips once *budget* is spent; without a budget time is not limited.
    """

    request: RecommendRequest
    document: UserDocument | None = None
    served: Hashes = field(default_factory=lambda: NO_HASHES)
    trace: Trace = field(default_factory=Trace)
    budget: Budget | None = None

    @property
    def is_late(self) -> bool:
        """Whether the budget is spent."""
        return self.budget is not None and self.budget.is_spent
