"""An answer to "what for this user?": candidates, what the user has seen taken out, topped up until there are k.

Order of the sources: personal, trending of the user's categories, trending, newest. Each fills only what the one before
it left open, and every item says where it came from.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.user_documents import Hashes, UserDocument
from services.retrieval.catalogue import Catalogue

MAX_K = 500
DEFAULT_K = 20

Ranked = Iterable[tuple[str, float]]  # ids and scores, best first

_NOTHING: Hashes = np.empty(0, np.uint64)
_SPARE = 32  # seen items that one search allows for; a second search allows for all of them


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
    TOO_FEW_CANDIDATES = "too_few_candidates"

    @property
    def is_degraded(self) -> bool:
        """Whether something is broken; the other reasons are how things are."""
        return self in (Reason.STORE_UNAVAILABLE, Reason.BAD_DOCUMENT)


@dataclass(frozen=True, slots=True)
class Group:
    """Items of one source, best first, and their scores: inner product, popularity, or listing time."""

    source: Source
    slots: list[int]
    scores: NDArray[np.floating[Any]]


def choose(catalogue: Catalogue, document: UserDocument | None, k: int, exclude: ExcludeSeen) -> list[Group]:
    """At most *k* items that are on show and not excluded, no item twice, in the order of the sources."""
    excluded = _excluded(document, exclude)
    groups: list[Group] = []
    if document is not None and document.vector is not None:
        groups.append(_personal(catalogue, document.vector, k, excluded))
        if len(groups[0].slots) == k:
            return groups
    taken = {slot for group in groups for slot in group.slots}
    refused = set(excluded.tolist())
    for source, ranked in _top_ups(catalogue, document):
        group = _filled(catalogue, source, ranked, k - len(taken), taken, refused)
        taken.update(group.slots)
        groups.append(group)
        if len(taken) == k:
            break
    return [group for group in groups if group.slots]


def _excluded(document: UserDocument | None, exclude: ExcludeSeen) -> Hashes:
    if document is None or exclude is ExcludeSeen.NONE:
        return _NOTHING
    return document.purchased if exclude is ExcludeSeen.PURCHASE else document.seen


def _personal(catalogue: Catalogue, vector: NDArray[np.float32], k: int, excluded: Hashes) -> Group:
    """The k nearest items that are not excluded; fewer only if there are fewer."""
    group = _nearest(catalogue, vector, k, min(len(excluded), _SPARE), excluded)
    if len(group.slots) < k and len(excluded) > _SPARE:
        group = _nearest(catalogue, vector, k, len(excluded), excluded)
    return group


def _nearest(catalogue: Catalogue, vector: NDArray[np.float32], k: int, spare: int, excluded: Hashes) -> Group:
    slots, scores = catalogue.index.search(vector, k, spare)
    if len(excluded) and len(slots):
        hashes = catalogue.hashes(slots)
        kept = excluded.take(excluded.searchsorted(hashes), mode="clip") != hashes
        slots, scores = slots[kept], scores[kept]
    return Group(Source.PERSONAL, slots[:k].tolist(), scores[:k])


def _top_ups(catalogue: Catalogue, document: UserDocument | None) -> Iterator[tuple[Source, Ranked]]:
    if document is not None:
        categories = catalogue.favourite_categories(document.seen.tolist())
        yield Source.TRENDING_CATEGORY, catalogue.trending.top_of(categories)
    yield Source.TRENDING, catalogue.trending.top()
    yield Source.NEWEST, catalogue.newest()


def _filled(
    catalogue: Catalogue, source: Source, ranked: Ranked, open_places: int, taken: set[int], refused: set[int]
) -> Group:
    slots: list[int] = []
    scores: list[float] = []
    for item_id, score in ranked:
        if len(slots) == open_places:
            break
        listing = catalogue.get(item_id)
        if listing is not None and listing.slot not in taken and listing.item_hash not in refused:
            slots.append(listing.slot)
            scores.append(score)
    return Group(source, slots, np.array(scores))
