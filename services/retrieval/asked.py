"""What a request asks for: read once (parameters.py) and handed whole to every stage of an answer."""

from dataclasses import dataclass, field
from enum import StrEnum

from nearline.filters import Filter
from nearline.user_documents import NO_HASHES, Hashes

MAX_K = 500
DEFAULT_K = 20
MAX_EXCLUDED = 500  # ids that a caller may exclude
LONGEST_WAIT_MS = 5_000
DEFAULT_WAIT_MS = 200


class ExcludeSeen(StrEnum):
    """Which known items an answer leaves out."""

    ALL = "all"
    PURCHASE = "purchase"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PageContext:
    """What the caller says of the moment: the user's device and country, and the category of the page that is shown."""

    device: str = ""
    country: str = ""
    category: str = ""


_NO_CONTEXT = PageContext()


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One request for recommendations, whoever it is about; *given* names the parameters that the caller gave.

    *diversity* is MMR's lambda, seen from its other end: 0 orders by nearness alone, 1 by unlikeness alone.
    """

    k: int = DEFAULT_K
    exclude_seen: ExcludeSeen = ExcludeSeen.ALL
    filter: Filter | None = None
    exclude: Hashes = field(default_factory=lambda: NO_HASHES)  # of the caller's ids, sorted
    diversity: float = 0.0
    popularity_discount: float = 0.0
    max_per_category: int | None = None
    fields: frozenset[str] | None = None  # of an item, beside its id; None: all
    page: str | None = None  # a token that an answer before gave; pages.FIRST asks for one
    context: PageContext = _NO_CONTEXT
    scenario: str | None = None
    after: str | None = None  # an event that the answer should have used
    wait_ms: int = DEFAULT_WAIT_MS
    given: frozenset[str] = frozenset()

    @property
    def is_shaped(self) -> bool:
        """Whether the caller wants another choice than the nearest items."""
        return bool(self.diversity or self.popularity_discount or self.max_per_category is not None)

    @property
    def is_of_one_user(self) -> bool:
        """Whether it says what is hardly ever asked for again."""
        return bool(len(self.exclude)) or self.page is not None or self.after is not None
