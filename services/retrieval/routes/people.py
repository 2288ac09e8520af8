"""``GET /users/{user}/similar`` and ``GET /items/{item_id}/audience``: users near a user, users near an item.

The search covers the most recently active users, whose vectors are in memory; it does not scan the store.
"""

from typing import Annotated

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import BaseModel, Field

from nearline.space import Space
from services.retrieval.items.interface import ItemIndex
from services.retrieval.models import Refused
from services.retrieval.routes.documents import document_of
from services.retrieval.routes.forms import (
    ALLOWED_K,
    ID,
    ItemId,
    K,
    RequestClock,
    RouteAnswer,
    StrictModel,
    example,
    id_named,
)
from services.retrieval.routes.refusals import NotAnswered, not_here, not_known
from services.retrieval.users.active_users import ActiveUsers, NearUsers
from services.retrieval.users.store_guard import GuardedStore

SIMILAR, AUDIENCE = "/users/{of_user:text}/similar", "/items/{item_id:text}/audience"
ALLOWED = {"of_user": ID, "item_id": ID, "k": ALLOWED_K}
_NEARBY = {"user_id": "12583", "score": 0.71, "vector_version": 1732100000123, "as_of_ms": 1732100000000}
_AMONG = {"among": 4312, "most": 50_000, "users": [_NEARBY]}

OfUser = Annotated[str, Path(description=ID, examples=["17850"]), id_named("user_id")]


class CountQuery(StrictModel):
    """How many users."""

    k: K = 20


class NearUser(BaseModel):
    """A user, with the versions of the current document."""

    user_id: str
    score: float = Field(description="inner product of unit vectors, 1 at most")
    vector_version: int
    as_of_ms: int = Field(description="when the newest event that the vector used happened, UTC ms")


class UsersAnswer(RouteAnswer):
    """Users, nearest first."""

    among: int = Field(description="how many users were compared: the most recently active since this process started")
    most: int = Field(description="how many users this process remembers at most")
    users: list[NearUser]


class SimilarUsers(UsersAnswer):
    """The users nearest to a user."""

    model_config = example(_AMONG, user_id="17850")

    user_id: str


class Audience(UsersAnswer):
    """The users nearest to an item, whether or not they saw it."""

    model_config = example(_AMONG, item_id="85123A")

    item_id: str


def add(app: FastAPI, items: ItemIndex, users: ActiveUsers | None, store: GuardedStore, space: Space) -> None:
    """Add the routes to *app*."""

    @app.get(SIMILAR, summary="Users similar to a user", responses=_answers(SimilarUsers))
    async def similar(request: Request, of_user: OfUser, query: Annotated[CountQuery, Query()]) -> Response:
        """The *k* users nearest to this one, of those whose documents changed last. A user's own token does not give
        access, because the answer is about other users.
        """
        clock, known = RequestClock(request), _known(users)
        document = await document_of(of_user, store, space)
        if document.vector is None:
            raise NotAnswered(409, "user_id", of_user, "this user has no vector yet: no event could be encoded")
        return _answer(clock, {"user_id": of_user}, known, await known.nearest(document.vector, query.k, but=of_user))

    @app.get(AUDIENCE, summary="Users for an item", responses=_answers(Audience))
    async def audience(request: Request, item_id: ItemId, query: Annotated[CountQuery, Query()]) -> Response:
        """The *k* users nearest to this item, which must be available, of those whose documents changed last."""
        clock, known = RequestClock(request), _known(users)
        vector = (await items.vectors([item_id])).get(item_id)
        if vector is None:
            raise not_known("item_id", item_id, "no item with this id is available; GET /search finds ids by words")
        return _answer(clock, {"item_id": item_id}, known, await known.nearest(vector, query.k))


def _known(users: ActiveUsers | None) -> ActiveUsers:
    if users is None:
        raise not_here("the search for users", "set NEARLINE_ACTIVE_USERS to how many users to remember")
    return users


def _answer(clock: RequestClock, about: dict[str, object], known: ActiveUsers, found: NearUsers) -> Response:
    users = [
        {
            "user_id": user_id,
            "score": round(score, 6),
            "vector_version": document.vector_version,
            "as_of_ms": document.as_of_ms,
        }
        for user_id, score, document in found
    ]
    return clock.answer({**about, "among": len(known), "most": known.most, "users": users})


def _answers(model: type[UsersAnswer]) -> dict[int | str, dict[str, object]]:
    return {
        200: {"model": model},
        404: {"model": Refused},
        409: {"model": Refused, "description": "there is no vector to compare with"},
        422: {"model": Refused},
        501: {"model": Refused, "description": "NEARLINE_ACTIVE_USERS is 0"},
    }
