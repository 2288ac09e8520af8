"""``GET /similar/{item_id}``: the items nearest to an item, by their candidate vectors."""

from typing import Annotated

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from nearline.hashing import hash64
from services.retrieval.items.interface import ItemIndex
from services.retrieval.models import Refused
from services.retrieval.routes.forms import (
    ALLOWED_LIST,
    EXAMPLE_ITEMS,
    ID,
    ItemId,
    ItemsAnswer,
    ListQuery,
    RequestClock,
    example,
    in_categories,
    wanted_in,
)
from services.retrieval.routes.refusals import not_known

PATH = "/similar/{item_id:text}"
ALLOWED = {"item_id": ID} | ALLOWED_LIST


class SimilarItems(ItemsAnswer):
    """Items, nearest first; the score is the inner product of unit vectors, 1 at most."""

    model_config = example(EXAMPLE_ITEMS, item_id="22423")

    item_id: str = Field(description="the item of the request, which is not in the answer")


def add(app: FastAPI, items: ItemIndex) -> None:
    """Add the route to *app*."""

    @app.get(
        PATH,
        summary="Items similar to an item",
        responses={200: {"model": SimilarItems}, 404: {"model": Refused}, 422: {"model": Refused}},
    )
    async def similar(request: Request, item_id: ItemId, query: Annotated[ListQuery, Query()]) -> Response:
        """The *k* available items nearest to this one, which must be available too."""
        clock = RequestClock(request)
        filter = in_categories(wanted_in(request, items), query.category)
        vector = (await items.vectors([item_id])).get(item_id)
        if vector is None:
            raise not_known("item_id", item_id, "no item with this id is available; GET /search finds ids by words")
        found = await items.nearest(vector, query.k, np.array([hash64(item_id)], np.uint64), filter)
        return clock.answer({"item_id": item_id}, found)
