"""``POST /rank``: sorts the caller's items for a user or session."""

import time
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.item_vectors import Vector
from nearline.space import Space
from nearline.telemetry import get_logger
from nearline.user_documents import decode_user_document
from services.retrieval.items.interface import ItemIndex
from services.retrieval.models import Refused
from services.retrieval.parameters import Id
from services.retrieval.result import Reason
from services.retrieval.routes.forms import ID, RequestClock, RouteAnswer, StrictModel, example
from services.retrieval.routes.refusals import not_here, refused
from services.retrieval.routes.sessions import ALLOWED as ALLOWED_SESSION
from services.retrieval.routes.sessions import SessionContext
from services.retrieval.sessions import MAX_EVENTS, Sessions, session_of
from services.retrieval.users.store_guard import GuardedStore

PATH = "/rank"
MAX_ITEMS = 1_000
ALLOWED = {
    "item_ids": f"a list of 1-{MAX_ITEMS:,} ids of items",
    "user_id": f"{ID}; or else events",
    "events": ALLOWED_SESSION["events"],
    "context": ALLOWED_SESSION["context"],
}
_EXAMPLE: JsonDict = {"user_id": "17850", "item_ids": ["22423", "85123A", "no-such-item"]}
_PERSONAL, _TRENDING, _GIVEN, _UNKNOWN = "personal", "trending", "as_given", "unknown"


class RankBody(StrictModel):
    """The items to rank, and the user or session to rank them for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EXAMPLE})

    item_ids: list[Id] = Field(min_length=1, max_length=MAX_ITEMS, description="a repeated id is ranked once")
    user_id: Id | None = Field(None, description=ID)
    events: Annotated[
        list[dict[str, Any]],
        Field(max_length=MAX_EVENTS, json_schema_extra={"items": {"$ref": "#/components/schemas/SessionEvent"}}),
    ] = Field(default_factory=list, description="of an anonymous session, as in `POST /recommend`")
    context: SessionContext | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "RankBody":
        if (self.user_id is None) == (not self.events and self.context is None):
            raise ValueError("give user_id, or else the events or the context of a session")
        return self


class RankedItem(BaseModel):
    """An item of the ranking."""

    item_id: str
    score: float | None = Field(description="comparable within one source; null where there is none")
    source: str = Field(
        description="personal: by the user's vector; trending: by popularity, without a vector; as_given: available, "
        "without vector and popularity, in the given order; unknown: not available, so it comes last"
    )


class RankedItems(RouteAnswer):
    """All given items, each once, best first."""

    model_config = example(
        {
            "user_id": "17850",
            "vector_version": 1732100000123,
            "degraded": False,
            "reason": None,
            "unknown": 1,
            "items": [
                {"item_id": "85123A", "score": 0.8134, "source": "personal"},
                {"item_id": "22423", "score": 0.2201, "source": "personal"},
                {"item_id": "no-such-item", "score": None, "source": "unknown"},
            ],
        }
    )

    user_id: str | None
    vector_version: int | None = Field(description="version of the vector that was used; null if there is none")
    degraded: bool = Field(description="true if the order is worse because a part was down")
    reason: Reason | None = Field(description="why the order is not personal; null if it is")
    unknown: int = Field(description="how many of the items are not available")
    items: list[RankedItem]


class Ranker:
    """Sorts items by the user's vector, else by popularity."""

    def __init__(self, items: ItemIndex, store: GuardedStore, space: Space, sessions: Sessions | None) -> None:
        self._items = items
        self._store = store
        self._space = space
        self._sessions = sessions

    async def rank(self, body: RankBody) -> dict[str, object]:
        """The answer to *body*, even if store, index or tower are down."""
        vector, version, reason = await (self._of_user(body.user_id) if body.user_id else self._of_session(body))
        item_ids = list(dict.fromkeys(body.item_ids))
        try:
            known = await self._items.vectors(item_ids)
        except Unavailable:
            reason, ordered = Reason.INDEX_UNAVAILABLE, self._by_popularity(item_ids)
        else:
            available = [item_id for item_id in item_ids if item_id in known]
            ordered = self._by_popularity(available) if vector is None else _by_vector(known, available, vector)
            ordered += [(item_id, None, _UNKNOWN) for item_id in item_ids if item_id not in known]
        return {
            "user_id": body.user_id,
            "vector_version": version if reason is None else None,
            "degraded": reason in _DEGRADED,
            "reason": reason,
            "unknown": sum(source == _UNKNOWN for _, _, source in ordered),
            "items": [dict(zip(("item_id", "score", "source"), each, strict=True)) for each in ordered],
        }

    async def _of_user(self, user_id: str) -> tuple[Vector | None, int | None, Reason | None]:
        try:
            raw = await self._store.get(user_id)
            document = None if raw is None else decode_user_document(raw, self._space).at(int(time.time()))
        except Unavailable:
            return None, None, Reason.STORE_UNAVAILABLE
        except (BadInput, SpaceMismatch) as error:
            get_logger().error("a user document was refused", user_id=user_id, reason=str(error))
            return None, None, Reason.BAD_DOCUMENT
        if document is None:
            return None, None, Reason.UNKNOWN_USER
        return document.vector, document.vector_version, Reason.NO_VECTOR if document.vector is None else None

    async def _of_session(self, body: RankBody) -> tuple[Vector | None, int | None, Reason | None]:
        if self._sessions is None:
            raise not_here("ranking for a session", "it needs NEARLINE_INDEX=hnsw://; give the user_id of a known user")
        context = {} if body.context is None else body.context.told
        try:
            session = session_of(body.events, context, now_ms=self._sessions.now_ms())
        except BadInput as error:
            raise refused(error) from None
        document, reason = await self._sessions.document(session)
        if reason is None and document.vector is None:
            reason = Reason.NO_VECTOR
        return document.vector, document.vector_version, reason

    def _by_popularity(self, item_ids: list[str]) -> list[tuple[str, float | None, str]]:
        ranked = list(self._items.trending.top().among(item_ids))
        popular = {item_id for item_id, _ in ranked}
        rest = (item_id for item_id in item_ids if item_id not in popular)
        return [(item_id, score, _TRENDING) for item_id, score in ranked] + [(each, None, _GIVEN) for each in rest]


_DEGRADED = (Reason.STORE_UNAVAILABLE, Reason.BAD_DOCUMENT, Reason.INDEX_UNAVAILABLE, Reason.TOWER_UNAVAILABLE)


def _by_vector(vectors: dict[str, Vector], item_ids: list[str], vector: Vector) -> list[tuple[str, float | None, str]]:
    if not item_ids:
        return []
    scores = np.stack([vectors[item_id] for item_id in item_ids]) @ vector
    order = np.argsort(-scores, kind="stable")
    return [(item_ids[place], round(float(scores[place]), 6), _PERSONAL) for place in order.tolist()]


def add(app: FastAPI, items: ItemIndex, store: GuardedStore, space: Space, sessions: Sessions | None) -> None:
    """Add the route to *app*."""
    ranker = Ranker(items, store, space, sessions)

    @app.post(
        PATH,
        summary="Rank items",
        responses={
            200: {"model": RankedItems},
            408: {"model": Refused},
            413: {"model": Refused},
            422: {"model": Refused},
            501: {"model": Refused, "description": "events were given, and the items are in an engine"},
        },
    )
    async def rank(request: Request, body: RankBody) -> Response:
        """All given items, best first, including seen ones. Without a user vector they are sorted by popularity, and
        *reason* says why.
        """
        clock = RequestClock(request)
        return clock.answer(await ranker.rank(body))
