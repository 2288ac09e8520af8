"""``GET /trending`` and ``GET /latest``: what is popular now, and what was listed last."""

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
    """Items of the categories that were asked for, or of all; the score is popularity, or when they were listed."""

    model_config = example(EXAMPLE_ITEMS, category=["holder"])

    category: list[str] = Field(description="as asked for; empty for all")


def add(app: FastAPI, items: ItemIndex) -> None:
    """Give *app* the routes."""

    @app.get(
        TRENDING,
        summary="What is popular now",
        responses={200: {"model": ListedItems}, 422: {"model": Refused}},
    )
    async def trending(request: Request, query: CategoryQuery) -> Response:
        """Items on show by popularity: events weighed by their type, each worth half as much a week later. An item
        without any event does not trend. On Milvus this is the most popular 5,000 of all categories.
        """
        clock = RequestClock(request)
        ranked = items.trending.top_of(query.category) if query.category else items.trending.top()
        found = await items.pick(ranked, query.k, (), NO_HASHES, wanted_in(request, items))
        return clock.answer({"category": query.category}, found)

    @app.get(
        LATEST,
        summary="What was listed last",
        responses={200: {"model": ListedItems}, 422: {"model": Refused}},
    )
    async def latest(request: Request, query: CategoryQuery) -> Response:
        """Items on show by listing time (`listed_ms`), newest first; those without one come last, with a score of 0.
        On Milvus this is the newest 500 of all categories.
        """
        clock = RequestClock(request)
        filter = in_categories(wanted_in(request, items), query.category)
        found = await items.pick(items.newest(), query.k, (), NO_HASHES, filter)
        return clock.answer({"category": query.category}, found)
