"""``POST /recommend``: items for an anonymous session, whose events come with the request.

Well-formed requests are answered before FastAPI's routing and validation, as those of ``GET /recommend/{user_id}`` are
(fast_path.py); all others go through it, so that a refusal and the OpenAPI document come from one declaration.
"""

from copy import copy
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from starlette.types import ASGIApp, Receive, Scope, Send

from nearline.errors import BadInput
from nearline.events import EVENT_TYPES
from nearline.filters import parse
from nearline.hashing import hash64_all
from nearline.sequences import Sequence
from nearline.user_documents import NO_HASHES
from services.retrieval.asked import MAX_EXCLUDED, Asked, ExcludeSeen, PageContext
from services.retrieval.fast_path import request_id_of, send_json
from services.retrieval.models import EXAMPLE, Recommendations, Refused
from services.retrieval.parameters import ALLOWED as ALLOWED_OF_A_USER
from services.retrieval.parameters import FIELDS, Id, RecommendQuery
from services.retrieval.routes.bodies import PARSED
from services.retrieval.routes.forms import ID, Strict
from services.retrieval.routes.refusals import not_here, refused
from services.retrieval.sessions import MAX_EVENTS, Sessions, session_of

PATH = "/recommend"
NOTHING_SAID = PageContext()
_SHARED = ("k", "exclude_seen", "filter", "diversity", "popularity_discount", "max_per_category", "scenario")
ALLOWED = {
    "events": f"up to {MAX_EVENTS} objects with item_id, type ({', '.join(EVENT_TYPES)}) and time_ms (UTC ms)",
    "context": "an object: country, device, referrer, interests, and category of the page that is shown",
    "exclude": f"a list of up to {MAX_EXCLUDED} ids of items",
    "fields": f"a list of some of {', '.join(FIELDS)}; all by default",
    **{name: str(ALLOWED_OF_A_USER[name]) for name in _SHARED},
}
_EVENT: JsonDict = {"item_id": "85123A", "type": "view", "time_ms": 1732100000000}
_EXAMPLE: JsonDict = {
    "events": [_EVENT, {**_EVENT, "item_id": "22423", "type": "add_to_cart", "time_ms": 1732100060000}],
    "k": 3,
}


class SessionEvent(BaseModel):
    """What somebody did to an item: as in `POST /events`, without a user."""

    model_config = ConfigDict(extra="allow")

    item_id: str = Field(description=ID)
    type: Literal["view", "click", "add_to_cart", "purchase", "like", "dislike", "skip"]
    time_ms: int = Field(description="when, UTC milliseconds")
    event_id: str | None = Field(None, description="not needed; two of one id are one event")
    value: float = 1.0
    context: dict[str, Any] = Field({}, description="country, device, referrer, interests: the newest of each counts")


class SessionContext(Strict):
    """What the caller says of the moment; it goes before what the events say."""

    country: str = Field(default="", max_length=64)
    device: str = Field(default="", max_length=64)
    referrer: str = Field(default="", max_length=64)
    interests: list[Annotated[str, Field(max_length=64)]] = Field(default=[], max_length=5)
    category: str = Field(default="", max_length=1_000, description="the category of the page that is shown")

    @property
    def told(self) -> dict[str, Any]:
        """What of it the model may know."""
        return self.model_dump(exclude={"category"}, exclude_defaults=True)

    @property
    def page(self) -> PageContext:
        """What of it is about the page."""
        return PageContext(self.device, self.country, self.category)


def _as_in_get(name: str) -> Any:
    """The declaration of a parameter that means what it means for a known user."""
    return copy(RecommendQuery.model_fields[name])


class SessionBody(Strict):
    """The events that are known of a session, if any, and what is asked for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EXAMPLE})

    # Judged by nearline/events.py, as all events are; the schema is for the document.
    events: Annotated[
        list[dict[str, Any]],
        Field(max_length=MAX_EVENTS, json_schema_extra={"items": {"$ref": "#/components/schemas/SessionEvent"}}),
    ] = Field(
        default_factory=list, description="in any order; the user tower makes a vector of those whose items are known"
    )
    context: SessionContext | None = None
    k: int = _as_in_get("k")
    exclude_seen: ExcludeSeen = _as_in_get("exclude_seen")
    filter: str | None = _as_in_get("filter")
    exclude: list[Id] = Field(default_factory=list, max_length=MAX_EXCLUDED, description="ids of items to leave out")
    diversity: float = _as_in_get("diversity")
    popularity_discount: float = _as_in_get("popularity_discount")
    max_per_category: int | None = _as_in_get("max_per_category")
    fields: list[Literal[FIELDS]] | None = Field(None, description="what to say of an item beside its id")  # type: ignore[valid-type]
    scenario: Id | None = _as_in_get("scenario")

    def asked(self) -> Asked:
        """The request; ``FilterError`` if its filter is none."""
        return Asked(
            k=self.k,
            exclude_seen=self.exclude_seen,
            filter=None if self.filter is None else parse(self.filter),
            exclude=np.unique(hash64_all(self.exclude)) if self.exclude else NO_HASHES,
            diversity=self.diversity,
            popularity_discount=self.popularity_discount,
            max_per_category=self.max_per_category,
            fields=None if self.fields is None else frozenset(self.fields),
            context=NOTHING_SAID if self.context is None else self.context.page,
            scenario=self.scenario,
            given=frozenset(self.model_fields_set),
        )

    def session(self, now_ms: int) -> Sequence:
        """The session; ``BadInput`` naming the field of an event that is none."""
        return session_of(self.events, {} if self.context is None else self.context.told, now_ms=now_ms)


class SessionRecommendations(Recommendations):
    """An answer, with which of the events it used."""

    model_config = ConfigDict(json_schema_extra={"example": {**EXAMPLE, "user_id": None}})

    user_id: None = Field(description="null: nobody is known")  # type: ignore[assignment]


def add(app: FastAPI, sessions: Sessions | None) -> None:
    """Give *app* the route, and the way past FastAPI for what is well-formed."""

    @app.post(
        PATH,
        summary="Items for a session",
        responses={
            200: {"model": SessionRecommendations},
            408: {"model": Refused},
            413: {"model": Refused},
            422: {"model": Refused},
            501: {"model": Refused, "description": "the items are in an engine"},
        },
    )
    async def recommend(request: Request, body: SessionBody) -> Response:
        """At most *k* items, best first, for somebody of whom these events are all that is known. The user tower reads
        them now; nothing is stored. `vector_version` is the time of the newest event. If the tower is away the answer
        is what trends in the categories of the events' items, and says so in *reason* and *steps*.
        """
        if sessions is None:
            raise not_here(
                "a session's vector",
                "it needs the items' history vectors, which this process keeps with NEARLINE_INDEX=hnsw://; send the "
                "events with an id of the session as user_id, and ask GET /recommend/{user_id}",
            )
        try:
            session = body.session(sessions.now_ms())
        except BadInput as error:
            raise refused(error) from None
        answer = await sessions.answer(session, body.asked(), request_id_of(request.headers.raw))
        return Response(answer, media_type="application/json")

    if sessions is not None:
        app.add_middleware(SessionPath, sessions=sessions)


class SessionPath:
    """Answers well-formed ``POST /recommend`` requests and passes everything else on; behind ``BoundedBodies``."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        try:
            body = SessionBody.model_validate(scope[PARSED])
            session = body.session(self._sessions.now_ms())
            answer = await self._sessions.answer(session, body.asked(), request_id_of(scope["headers"]))
        except (ValidationError, BadInput):
            await self._app(scope, receive, send)  # FastAPI says what is wrong with it
        else:
            await send_json(send, answer)
