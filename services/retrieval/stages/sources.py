"""Where candidates come from, in order: personal, trending of categories, trending, newest.

Each source fills only what the one before it left open.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import numpy as np

from nearline.filters import Filter, narrowed
from nearline.user_documents import NO_HASHES, Hashes, UserDocument
from services.retrieval.answer import Source, Step
from services.retrieval.items.interface import CandidateSource, ItemIndex, Picked, Ranked
from services.retrieval.items.popularity import Listed
from services.retrieval.work import Work


class Candidates(CandidateSource, Protocol):
    """One source: what of it an answer may hold, best first."""

    async def fetch(self, places: int, spare: int) -> Picked:
        """The best for the *places*, and up to *spare* more to choose from."""


def sources(
    index: ItemIndex, work: Work, excluded: Hashes, wanted: Filter | None, taken: Collection[str]
) -> Iterator[tuple[Source, Candidates]]:
    """Each source, of which nothing is in *taken* when it is asked; a later one costs nothing until it is due."""
    document = work.document
    if document is not None and document.vector is not None:
        yield Source.PERSONAL, _Near(index, document, excluded, wanted)
    for source, ranked in _top_ups(index, work):
        yield source, _Ranked(index, ranked, taken, excluded, wanted)


class _Near:
    """The items near to the user's vector."""

    def __init__(self, index: ItemIndex, document: UserDocument, excluded: Hashes, wanted: Filter | None) -> None:
        assert document.vector is not None
        self._index = index
        self._vector = document.vector
        self._excluded = excluded
        self._wanted = wanted

    async def fetch(self, places: int, spare: int) -> Picked:
        return await self._index.nearest(self._vector, places, self._excluded, self._wanted, spare)

    async def best(
        self, places: int, to: Filter | None = None, without: Sequence[Filter] = (), left_out: Hashes = NO_HASHES
    ) -> Picked:
        wanted = narrowed(self._wanted, to=to, without=without)
        return await self._index.nearest(self._vector, places, _both(self._excluded, left_out), wanted)

    async def of(self, item_ids: Sequence[str]) -> Picked:
        """They come with their inner products; none if the index does not tell vectors."""
        listed = Listed((item_id, 0.0) for item_id in item_ids)
        items = await self._index.pick(listed, len(item_ids), (), self._excluded, self._wanted)
        vectors = (await self._index.traits(items, vectors=True)).vectors
        if vectors is None:
            return items.take(np.empty(0, np.int64))
        return Picked(items.item_ids, items.printed, vectors @ self._vector)


class _Ranked:
    """Items in an order that is the same for everybody."""

    def __init__(
        self, index: ItemIndex, ranked: Ranked, taken: Collection[str], excluded: Hashes, wanted: Filter | None
    ) -> None:
        self._index = index
        self._ranked = ranked
        self._taken = taken
        self._excluded = excluded
        self._wanted = wanted

    async def fetch(self, places: int, spare: int) -> Picked:
        return await self.best(places + spare)

    async def best(
        self, places: int, to: Filter | None = None, without: Sequence[Filter] = (), left_out: Hashes = NO_HASHES
    ) -> Picked:
        wanted = narrowed(self._wanted, to=to, without=without)
        return await self._index.pick(self._ranked, places, self._taken, _both(self._excluded, left_out), wanted)

    async def of(self, item_ids: Sequence[str]) -> Picked:
        listed = Listed(self._ranked.among(item_ids))
        return await self._index.pick(listed, len(item_ids), self._taken, self._excluded, self._wanted)


def _both(one: Hashes, other: Hashes) -> Hashes:
    return one if not len(other) else np.union1d(one, other)


def _top_ups(index: ItemIndex, work: Work) -> Iterator[tuple[Source, Ranked]]:
    """The category of the page that is shown goes first: it is what the user looks at now."""
    page_category = work.asked.context.category
    if page_category:
        yield Source.TRENDING_CATEGORY, index.trending.top_of([page_category])
    if work.document is not None:
        if work.is_late:
            work.course.without(Step.CATEGORIES_SKIPPED)
        else:
            favourites = index.favourite_categories(work.document.seen.tolist())
            yield Source.TRENDING_CATEGORY, index.trending.top_of(favourites)
    yield Source.TRENDING, index.trending.top()
    yield Source.NEWEST, index.newest()
