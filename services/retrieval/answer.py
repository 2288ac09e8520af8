"""An answer to "what for this user?": candidates, what the user has seen taken out, topped up until there are k.

Order of the sources: personal, trending of the user's categories, trending, newest. Each fills only what the one before
it left open, and every item says where it came from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nearline.user_documents import Hashes, UserDocument
from services.retrieval.filters import Filter
from services.retrieval.item_index import ItemIndex, Picked, Ranked

MAX_K = 500
DEFAULT_K = 20

_NOTHING: Hashes = np.empty(0, np.uint64)


class ExcludeSeen(StrEnum):
    """Which known items an answer leaves out."""

    ALL = "all"
    PURCHASE = "purchase"
    NONE = "none"


class Source(StrEnum):
    """Where an item of an answer came from."""

    PERSONAL = "personal"
    TRENDING_CATEGORY = "trending_category"
    TRENDING = "trending"
    NEWEST = "newest"


class Reason(StrEnum):
    """Why an answer is not wholly personal."""

    UNKNOWN_USER = "unknown_user"
    NO_VECTOR = "no_vector"
    STORE_UNAVAILABLE = "store_unavailable"
    BAD_DOCUMENT = "bad_document"
    INDEX_UNAVAILABLE = "index_unavailable"
    TOO_FEW_CANDIDATES = "too_few_candidates"

    @property
    def is_degraded(self) -> bool:
        """Whether something is broken; the other reasons are how things are."""
        return self in (Reason.STORE_UNAVAILABLE, Reason.BAD_DOCUMENT, Reason.INDEX_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Group:
    """Items of one source; scores are inner products, popularity, or listing times."""

    source: Source
    items: Picked


async def choose(
    index: ItemIndex, document: UserDocument | None, k: int, exclude: ExcludeSeen, wanted: Filter | None = None
) -> list[Group]:
    """At most *k* items on show that pass *wanted* and are not excluded, none twice, in the order of the sources."""
    excluded = _excluded(document, exclude)
    groups: list[Group] = []
    if document is not None and document.vector is not None:
        nearest = await index.nearest(document.vector, k, excluded, wanted)
        groups.append(Group(Source.PERSONAL, nearest))
        if len(nearest) == k:
            return groups
    taken = {item_id for group in groups for item_id in group.items.item_ids}
    for source, ranked in _top_ups(index, document):
        picked = await index.pick(ranked, k - len(taken), taken, excluded, wanted)
        taken.update(picked.item_ids)
        groups.append(Group(source, picked))
        if len(taken) == k:
            break
    return [group for group in groups if len(group.items)]


def _excluded(document: UserDocument | None, exclude: ExcludeSeen) -> Hashes:
    if document is None or exclude is ExcludeSeen.NONE:
        return _NOTHING
    return document.purchased if exclude is ExcludeSeen.PURCHASE else document.seen


def _top_ups(index: ItemIndex, document: UserDocument | None) -> Iterator[tuple[Source, Ranked]]:
    if document is not None:
        categories = index.favourite_categories(document.seen.tolist())
        yield Source.TRENDING_CATEGORY, index.trending.top_of(categories)
    yield Source.TRENDING, index.trending.top()
    yield Source.NEWEST, index.newest()
