"""The candidate sources in their order: personal, trending in categories, trending, newest.

Each source fills only the places that the sources before it left open.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from nearline.filters import Filter, narrowed
from nearline.user_documents import NO_HASHES, Hashes, UserDocument
from services.retrieval.items.interface import Candidates, CandidateSource, ItemIndex, OrderedItems
from services.retrieval.items.popularity import ItemList
from services.retrieval.request import RequestContext
from services.retrieval.result import Degradation, Source


def candidate_sources(
    index: ItemIndex, context: RequestContext, excluded: Hashes, filter: Filter | None, taken: Collection[str]
) -> Iterator[tuple[Source, CandidateSource]]:
    """Each source in order; a source leaves out items that are in *taken* when it is fetched.

    A source costs nothing until the iterator reaches it.
    """
    document = context.document
    if document is not None and document.vector is not None:
        yield Source.PERSONAL, _Personal(index, document, excluded, filter)
    for source, ranked in _top_ups(index, context):
        yield source, _Ordered(index, ranked, taken, excluded, filter)


class _Personal:
    """The items near the user's vector."""

    def __init__(self, index: ItemIndex, document: UserDocument, excluded: Hashes, filter: Filter | None) -> None:
        assert document.vector is not None
        self._index = index
        self._vector = document.vector
        self._excluded = excluded
        self._wanted = filter

    async def fetch(self, places: int, oversample: int) -> Candidates:
        return await self._index.nearest(self._vector, places, self._excluded, self._wanted, oversample)

    async def best(
        self, places: int, to: Filter | None = None, without: Sequence[Filter] = (), left_out: Hashes = NO_HASHES
    ) -> Candidates:
        filter = narrowed(self._wanted, to=to, without=without)
        return await self._index.nearest(self._vector, places, _both(self._excluded, left_out), filter)

    async def of(self, item_ids: Sequence[str]) -> Candidates:
        """With their inner products; none if the index does not return vectors."""
        listed = ItemList((item_id, 0.0) for item_id in item_ids)
        items = await self._index.pick(listed, len(item_ids), (), self._excluded, self._wanted)
        vectors = (await self._index.features(items, vectors=True)).vectors
        if vectors is None:
            return items.take(np.empty(0, np.int64))
        return Candidates(items.item_ids, items.printed, vectors @ self._vector)


class _Ordered:
    """Items in an order that is the same for every user."""

    def __init__(
        self, index: ItemIndex, ranked: OrderedItems, taken: Collection[str], excluded: Hashes, filter: Filter | None
    ) -> None:
        self._index = index
        self._ranked = ranked
        self._taken = taken
        self._excluded = excluded
        self._wanted = filter

    async def fetch(self, places: int, oversample: int) -> Candidates:
        return await self.best(places + oversample)

    async def best(
        self, places: int, to: Filter | None = None, without: Sequence[Filter] = (), left_out: Hashes = NO_HASHES
    ) -> Candidates:
        filter = narrowed(self._wanted, to=to, without=without)
        return await self._index.pick(self._ranked, places, self._taken, _both(self._excluded, left_out), filter)

    async def of(self, item_ids: Sequence[str]) -> Candidates:
        listed = ItemList(self._ranked.among(item_ids))
        return await self._index.pick(listed, len(item_ids), self._taken, self._excluded, self._wanted)


def _both(one: Hashes, other: Hashes) -> Hashes:
    return one if not len(other) else np.union1d(one, other)


def _top_ups(index: ItemIndex, context: RequestContext) -> Iterator[tuple[Source, OrderedItems]]:
    """The popular lists; the category of the page that is shown comes first, because the user looks at it now."""
    page_category = context.request.context.category
    if page_category:
        context.trace.category_used = True
        yield Source.TRENDING_CATEGORY, index.trending.top_of([page_category])
    if context.document is not None:
        if context.is_late:
            context.trace.degrade(Degradation.CATEGORIES_SKIPPED)
        else:
            favourites = index.favourite_categories(context.document.seen.tolist())
            yield Source.TRENDING_CATEGORY, index.trending.top_of(favourites)
    yield Source.TRENDING, index.trending.top()
    yield Source.NEWEST, index.newest()
