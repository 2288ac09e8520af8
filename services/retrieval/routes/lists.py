"""``GET /trending`` and ``GET /latest``: the most popular and the newest items."""

from fastapi import FastAPI, Request, Response
from pydantic import Field

from nearline.user_documents import NO_HASHES
from services.retrieval.items.interface import ItemIndex
from services.retrieval.models import Refused
from services.retrieval.routes.forms import (
    ALLOWED_LIST,
    EXAMPLE_ITEMS,
    CategoryQuery,
    ItemsAnswer,
    RequestClock,
    example,
    in_categories,
    wanted_in,
)

TRENDING, LATEST = "/trending", "/latest"
ALLOWED = ALLOWED_LIST


class ListedItems(ItemsAnswer):
    """Items of the requested categories, or of all; the score is the popularity or the listing time."""

    model_config = example(EXAMPLE_ITEMS, category=["candles"])

    category: list[str] = Field(description="the requested categories; empty for all")


def add(app: FastAPI, items: ItemIndex) -> None:
    """Add the routes to *app*."""

    @app.get(
        TRENDING,
        summary="Popular items",
        responses={200: {"model": ListedItems}, 422: {"model": Refused}},
    )
    async def trending(request: Request, query: CategoryQuery) -> Response:
        """Available items by popularity: the sum of their events, weighted by type, with a half-life of one week; a
        user's events of an item count once a day, as the strongest of them. An item without events is not
        listed. On Milvus these are the 5,000 most popular items of all categories.
        """
        clock = RequestClock(request)
        ranked = items.trending.top_of(query.category) if query.category else items.trending.top()
        found = await items.pick(ranked, query.k, (), NO_HASHES, wanted_in(request, items))
        return clock.answer({"category": query.category}, found)

    @app.get(
        LATEST,
        summary="Newest items",
        responses={200: {"model": ListedItems}, 422: {"model": Refused}},
    )
    async def latest(request: Request, query: CategoryQuery) -> Response:
        """Available items by listing time (`listed_ms`), newest first; those without one come last, with a score of 0.
        On Milvus these are the newest 500 items of all categories.
        """
        clock = RequestClock(request)
        filter = in_categories(wanted_in(request, items), query.category)
        found = await items.pick(items.newest(), query.k, (), NO_HASHES, filter)
        return clock.answer({"category": query.category}, found)
