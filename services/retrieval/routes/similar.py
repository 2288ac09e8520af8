"""``GET /similar/{item_id}``: the items nearest to an item, by their candidate vectors.

An item that is sold out has no candidate vector; the user tower's vector of it, which is kept, takes its place.
"""

from typing import Annotated

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from nearline.hashing import hash64
from nearline.item_vectors import Vector
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
from services.retrieval.users.session_vectors import KnownItems

PATH = "/similar/{item_id:text}"
ALLOWED = {"item_id": ID} | ALLOWED_LIST


class SimilarItems(ItemsAnswer):
    """Items, nearest first; the score is the inner product of unit vectors, 1 at most."""

    model_config = example(EXAMPLE_ITEMS, item_id="22423")

    item_id: str = Field(description="the item of the request, which is not in the answer")


def add(app: FastAPI, items: ItemIndex, known: KnownItems | None) -> None:
    """Add the route to *app*; *known* is ``None`` if items are in an engine."""

    @app.get(
        PATH,
        summary="Items similar to an item",
        responses={200: {"model": SimilarItems}, 404: {"model": Refused}, 422: {"model": Refused}},
    )
    async def similar(request: Request, item_id: ItemId, query: Annotated[ListQuery, Query()]) -> Response:
        """The *k* available items nearest to this one. It may be sold out or deleted, for as long as its vector is kept
        for users' histories; with items in an engine it must be available.
        """
        clock = RequestClock(request)
        filter = in_categories(wanted_in(request, items), query.category)
        vector = (await items.vectors([item_id])).get(item_id)
        if vector is None:
            vector = _history_vector(item_id, known)
        if vector is None:
            raise not_known("item_id", item_id, _MISSING if known is not None else _UNAVAILABLE)
        found = await items.nearest(vector, query.k, np.array([hash64(item_id)], np.uint64), filter)
        return clock.answer({"item_id": item_id}, found)


_FIND = "GET /search finds ids by words"
_MISSING = f"no item with this id is known, not even a sold-out one; {_FIND}"
_UNAVAILABLE = f"no item with this id is available; {_FIND}"


def _history_vector(item_id: str, known: KnownItems | None) -> Vector | None:
    """The item's history vector, if this process has it."""
    row = None if known is None else known.history_rows([item_id]).get(item_id)
    return None if known is None or row is None else known.histories.matrix[row].astype(np.float32)
