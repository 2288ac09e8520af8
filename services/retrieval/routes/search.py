"""``GET /search``: items by words in their title, category, brand and attributes."""

from collections.abc import Iterable, Iterator
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from nearline.errors import BadInput, Unavailable
from nearline.user_documents import NO_HASHES
from services.retrieval.items.interface import ItemIndex
from services.retrieval.items.text_index import MAX_FOUND, MAX_WORDS, Match, TextIndex
from services.retrieval.models import Refused
from services.retrieval.routes.forms import (
    ALLOWED_LIST,
    EXAMPLE_ITEMS,
    ItemsAnswer,
    ListQuery,
    RequestClock,
    example,
    in_categories,
    wanted_in,
)
from services.retrieval.routes.refusals import NotAnswered, not_here, refused

PATH = "/search"
MAX_TEXT = 500
ALLOWED = {"q": f"1-{MAX_WORDS} words, at most {MAX_TEXT} characters"} | ALLOWED_LIST


class SearchQuery(ListQuery):
    """The parameters of a text search."""

    q: str = Field(
        min_length=1,
        max_length=MAX_TEXT,
        description="words; case and accents do not matter, and the last may be a prefix",
        examples=["t-light hol"],
    )


class FoundItems(ItemsAnswer):
    """Items with all words first, then those with some; the score is BM25, in which words of the title count most."""

    model_config = example(EXAMPLE_ITEMS, q="t-light hol", with_all_words=1)

    q: str
    with_all_words: int = Field(description="how many of the items, from the first, have all words")


class Matches:
    """Text matches as ordered items."""

    def __init__(self, found: list[Match]) -> None:
        self._found = found

    def __iter__(self) -> Iterator[Match]:
        """``(id, score)``, best first."""
        return iter(self._found)

    def among(self, item_ids: Iterable[str]) -> Iterator[Match]:
        """``(id, score)`` of those of *item_ids* that match, best first."""
        sought = set(item_ids)
        return (match for match in self._found if match[0] in sought)


def add(app: FastAPI, items: ItemIndex, texts: TextIndex | None) -> None:
    """Add the route to *app*."""

    @app.get(
        PATH,
        summary="Items by words",
        responses={
            200: {"model": FoundItems},
            422: {"model": Refused},
            501: {"model": Refused, "description": "items are in an engine, or NEARLINE_SEARCH is off"},
        },
    )
    async def search(request: Request, query: Annotated[SearchQuery, Query()]) -> Response:
        """Available items whose title, category, brand or attributes have these words. Changes of items count at once.
        With a filter, the best 2,000 matches are filtered.
        """
        clock = RequestClock(request)
        if texts is None:
            raise not_here("text search", "it needs NEARLINE_INDEX=hnsw:// and NEARLINE_SEARCH=on")
        filter = in_categories(wanted_in(request, items), query.category)
        full, some = await _matches(texts, query.q, query.k if filter is None else MAX_FOUND)
        found = await items.pick(Matches(full + some), query.k, (), NO_HASHES, filter)
        with_all = {item_id for item_id, _ in full}
        about = {"q": query.q, "with_all_words": sum(item_id in with_all for item_id in found.item_ids)}
        return clock.answer(about, found)


async def _matches(texts: TextIndex, words: str, most: int) -> tuple[list[Match], list[Match]]:
    try:
        return await texts.search(words, most)
    except BadInput as error:
        raise refused(error, came=words) from None
    except Unavailable as error:
        raise NotAnswered(503, "q", words, str(error)) from None
