"""``POST /recommend``: items for an anonymous session, whose events come with the request.

Well-formed requests are answered before FastAPI's routing and validation, like ``GET /recommend/{user_id}``
(fast_path.py); all others go through FastAPI, so that refusals and the OpenAPI document come from one declaration.
"""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from starlette.types import ASGIApp, Receive, Scope, Send

from nearline.errors import BadInput
from nearline.events import EVENT_TYPES
from nearline.request_ids import request_id_of
from nearline.sequences import UserSequence
from services.retrieval.fast_path import send_json
from services.retrieval.models import EXAMPLE, Refused, answer_model
from services.retrieval.parameters import FIELDS, Allowed, Id, SharedParameters, allowed_of
from services.retrieval.request import MAX_EXCLUDED, PageContext, RecommendRequest
from services.retrieval.routes.bodies import PARSED
from services.retrieval.routes.forms import ID, StrictModel
from services.retrieval.routes.refusals import not_here, refused
from services.retrieval.sessions import MAX_EVENTS, Sessions, session_of

PATH = "/recommend"
NOTHING_SAID = PageContext()
_EVENT: JsonDict = {"item_id": "85123A", "type": "view", "time_ms": 1732100000000}
_EXAMPLE: JsonDict = {
    "events": [_EVENT, {**_EVENT, "item_id": "22423", "type": "add_to_cart", "time_ms": 1732100060000}],
    "k": 3,
}


class SessionEvent(BaseModel):
    """An event as in `POST /events`, without a user."""

    model_config = ConfigDict(extra="allow")

    item_id: str = Field(description=ID)
    type: Literal["view", "click", "add_to_cart", "purchase", "like", "dislike", "skip"]
    time_ms: int = Field(description="when, UTC milliseconds")
    event_id: str | None = Field(None, description="optional; two events with the same id are one event")
    value: float = 1.0
    context: dict[str, Any] = Field({}, description="country, device, referrer, interests: the newest value counts")


class SessionContext(StrictModel):
    """The request's context; it overrides the context of the events."""

    country: str = Field(default="", max_length=64)
    device: str = Field(default="", max_length=64)
    referrer: str = Field(default="", max_length=64)
    interests: list[Annotated[str, Field(max_length=64)]] = Field(default=[], max_length=5)
    category: str = Field(default="", max_length=1_000, description="the category of the page that is shown")

    @property
    def told(self) -> dict[str, Any]:
        """The part that the model reads."""
        return self.model_dump(exclude={"category"}, exclude_defaults=True)

    @property
    def page(self) -> PageContext:
        """The part that selection reads."""
        return PageContext(category=self.category)


class SessionBody(SharedParameters):
    """A session's events, if any, and the parameters of the answer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EXAMPLE})

    # Validated by nearline/events.py, like all events; the schema is for the OpenAPI document.
    events: Annotated[
        list[dict[str, Any]],
        Field(max_length=MAX_EVENTS, json_schema_extra={"items": {"$ref": "#/components/schemas/SessionEvent"}}),
        Allowed(f"up to {MAX_EVENTS} objects with item_id, type ({', '.join(EVENT_TYPES)}) and time_ms (UTC ms)"),
    ] = Field(default_factory=list, description="in any order; the user tower encodes those whose items are known")
    context: Annotated[
        SessionContext | None,
        Allowed("an object: country, device, referrer, interests, and category of the page that is shown"),
    ] = None
    exclude: Annotated[list[Id], Allowed(f"a list of up to {MAX_EXCLUDED} ids of items")] = Field(
        default_factory=list, max_length=MAX_EXCLUDED, description="ids of items to leave out"
    )
    fields: Annotated[
        list[Literal[FIELDS]] | None,  # type: ignore[valid-type]
        Allowed(f"a list of some of {', '.join(FIELDS)}; all by default"),
    ] = Field(None, description="the fields of an item beside its id")

    def request(self) -> RecommendRequest:
        """The request; ``FilterError`` for an invalid filter."""
        return self.request_for(self.exclude, self.fields, NOTHING_SAID if self.context is None else self.context.page)

    def session(self, now_ms: int) -> UserSequence:
        """The session; ``BadInput`` that names the field of an invalid event."""
        return session_of(self.events, {} if self.context is None else self.context.told, now_ms=now_ms)


ALLOWED = allowed_of(SessionBody)

SessionRecommendations = answer_model(
    "SessionRecommendations",
    "An answer, and which of the events it used.",
    {**EXAMPLE, "user_id": None},
    user_id=(None, Field(description="always null")),
)


def add(app: FastAPI, sessions: Sessions | None) -> None:
    """Add the route to *app*, and the fast path for well-formed requests."""

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
        """At most *k* items, best first, for an anonymous user with these events. The user tower encodes them now;
        nothing is stored. `vector_version` is the time of the newest event. If the tower is down, the answer has
        popular items in the categories of the events' items, and *reason* and *degradations* say so.
        """
        if sessions is None:
            raise not_here(
                "an anonymous session",
                "it needs the items' history vectors, which this process keeps with NEARLINE_INDEX=hnsw://; send the "
                "events with an id of the session as user_id, then call GET /recommend/{user_id}",
            )
        try:
            session = body.session(sessions.now_ms())
        except BadInput as error:
            raise refused(error) from None
        answer = await sessions.answer(session, body.request(), request_id_of(request.headers.raw))
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
            answer = await self._sessions.answer(session, body.request(), request_id_of(scope["headers"]))
        except (ValidationError, BadInput):
            await self._app(scope, receive, send)  # FastAPI refuses it
        else:
            await send_json(send, answer)
