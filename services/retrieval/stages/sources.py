"""Where candidates come from, in order: personal, trending of categories, trending, newest.

Each source fills only what the one before it left open.
"""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from nearline.user_documents import Hashes, UserDocument
from services.retrieval.answer import Source, Step
from services.retrieval.filters import Filter
from services.retrieval.item_index import ItemIndex, Picked, Ranked
from services.retrieval.work import Work

# (places, spare) -> the best for the places, and up to *spare* more to choose from.
Fetch = Callable[[int, int], Awaitable[Picked]]


def sources(
    index: ItemIndex, work: Work, excluded: Hashes, wanted: Filter | None, taken: set[str]
) -> Iterator[tuple[Source, Fetch]]:
    """Each source, and how to fetch from it what is not *taken* by then; a later one costs nothing until it is due."""
    document = work.document
    if document is not None and document.vector is not None:
        yield Source.PERSONAL, partial(_nearest, index, document, excluded, wanted)
    for source, ranked in _top_ups(index, work):
        yield source, partial(_pick, index, ranked, taken, excluded, wanted)


async def _nearest(
    index: ItemIndex, document: UserDocument, excluded: Hashes, wanted: Filter | None, places: int, spare: int
) -> Picked:
    assert document.vector is not None
    return await index.nearest(document.vector, places, excluded, wanted, spare)


async def _pick(
    index: ItemIndex,
    ranked: Ranked,
    taken: set[str],
    excluded: Hashes,
    wanted: Filter | None,
    places: int,
    spare: int,
) -> Picked:
    return await index.pick(ranked, places + spare, taken, excluded, wanted)


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
