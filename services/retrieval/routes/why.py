"""``POST /why``: why an item is in a user's answer, or not."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from nearline.errors import BadAnswer, BadInput, Overloaded, Unavailable
from nearline.filters import parse
from nearline.item_vectors import Vector
from nearline.sequences import UserSequence, decode_sequence
from nearline.space import Space
from nearline.user_documents import UserDocument, decode_stored_user
from services.retrieval.items.interface import Candidates, ItemIndex
from services.retrieval.merchandising.active_rules import RuleResolver
from services.retrieval.models import Refused
from services.retrieval.parameters import Id
from services.retrieval.recommender import Recommender
from services.retrieval.request import DEFAULT_K, MAX_K, RecommendRequest
from services.retrieval.result import Source
from services.retrieval.routes.forms import ALLOWED_FILTER, ALLOWED_K, ID
from services.retrieval.routes.refusals import refused
from services.retrieval.users.session_vectors import KnownItems, SessionVectors
from services.retrieval.users.store_guard import GuardedStore
from services.retrieval.why import AbsenceCause, absence, found_on_show, movements

PATH = "/why"
_REQUEST = "why"
_EXAMPLE: JsonDict = {"user_id": "17850", "item_id": "85123A"}
_FIELDS = frozenset({"score", "source"})


ALLOWED = {
    "user_id": ID,
    "item_id": ID,
    "k": ALLOWED_K,
    "filter": ALLOWED_FILTER["filter"],
    "scenario": "the name of a scenario",
    "sequence": "the user's record of the topic user-sequences",
}


class WhyBody(BaseModel):
    """The item, the user, and the parameters of the answer; *sequence* is the user's record in ``user-sequences``."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"user_id": "17850", "item_id": "85123A"}})

    user_id: Id
    item_id: Id
    k: Annotated[int, Field(ge=1, le=MAX_K)] = DEFAULT_K
    filter: str | None = None
    scenario: Id | None = None
    sequence: dict[str, Any] | None = Field(None, description="the user's events, to compute the effect of each")


class _Columns(BaseModel):
    """The columns of a sequence, one value for each event."""

    items: list[str] = []
    times_ms: list[Annotated[int, Field(ge=0, lt=2**53)]] = []
    types: list[str] = []
    values: list[float | None] = []
    event_ids: list[str] = []


class MovedModel(BaseModel):
    """The effect of one event on the item's score."""

    event_id: str
    item_id: str
    type: str
    time_ms: int
    moved: float | None = Field(description="the score with this event less that without it; null without a vector")


class AbsenceModel(BaseModel):
    """Why the item is not in the answer."""

    cause: AbsenceCause
    rules: list[str] = Field([], description="ids of the rules that block it")
    last_score: float | None = Field(None, description="the score of the last personal item of the answer")
    by: float | None = Field(None, description="how far the item's score is below that")


class Why(BaseModel):
    """Why the item is in the answer, or not."""

    user_id: str
    item_id: str
    place: int | None = Field(description="position in the answer, from 1; null if it is not there")
    source: str | None
    rules: list[str] = Field(description="the rules that moved it")
    score: float | None = Field(description="inner product of the vectors of user and item; null without one of them")
    absent: AbsenceModel | None = Field(description="why it is not in the answer; null if it is")
    events: list[MovedModel] | None = Field(description="the effect of each event, largest first; null if unknown")
    untold: str | None = Field(description="why `events` is null")
    is_current: bool | None = Field(description="whether the stored vector was computed from the given events")


class Explainer:
    """Explains items of answers; *vectors* and *known* are ``None`` if items are in an engine."""

    def __init__(
        self,
        index: ItemIndex,
        store: GuardedStore,
        space: Space,
        recommender: Recommender,
        rules: RuleResolver,
        vectors: SessionVectors | None = None,
        known: KnownItems | None = None,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._index = index
        self._store = store
        self._space = space
        self._recommender = recommender
        self._rules = rules
        self._vectors = vectors
        self._known = known
        self._now_ms = now_ms

    async def why(self, body: WhyBody) -> Why:
        """The answer to *body*; ``BadInput`` if its filter, scenario or sequence is invalid."""
        events = None if body.sequence is None else _history(body.sequence)
        given = frozenset({"k"} | ({"filter"} if body.filter is not None else set()))
        wanted = None if body.filter is None else parse(body.filter)
        request = RecommendRequest(body.k, filter=wanted, fields=_FIELDS, scenario=body.scenario, given=given)
        answer = orjson.loads(await self._recommender.trying(self._rules).answer(body.user_id, request, _REQUEST))
        document = await self._document(body.user_id)
        item = await found_on_show(self._index, body.item_id)
        vectors = (await self._index.features(item, vectors=True)).vectors if len(item) else None
        vector = None if vectors is None else vectors[0]
        score = (
            None if vector is None or document is None or document.vector is None else float(vector @ document.vector)
        )
        places = {each["item_id"]: at for at, each in enumerate(answer["items"], start=1)}
        place = places.get(body.item_id)
        there: Mapping[str, Any] = {} if place is None else answer["items"][place - 1]
        moved, untold = await self._moved(events, vector)
        return Why(
            user_id=body.user_id,
            item_id=body.item_id,
            place=place,
            source=there.get("source"),
            rules=there.get("rules", []),
            score=score,
            absent=None if place is not None else self._absent(body.item_id, item, score, request, document, answer),
            events=moved,
            untold=untold,
            is_current=None if events is None or document is None else events.version == document.vector_version,
        )

    async def _document(self, user_id: str) -> UserDocument | None:
        document = decode_stored_user(await self._store.get_with_seen(user_id), self._space)
        return None if document is None else document.at(self._now_ms() // 1000)

    def _absent(
        self,
        item_id: str,
        item: Candidates,
        score: float | None,
        request: RecommendRequest,
        document: UserDocument | None,
        answer: Mapping[str, Any],
    ) -> AbsenceModel:
        meant = self._rules.expand(request)
        found = absence(
            self._index,
            item,
            score,
            is_known=self._known is not None and item_id in self._known.history_rows([item_id]),
            request=meant,
            rules=self._rules.rule_set(meant),
            document=document,
            scores=[each["score"] for each in answer["items"] if each["source"] == Source.PERSONAL],
        )
        return AbsenceModel(cause=found.cause, rules=list(found.rules), last_score=found.last_score, by=found.by)

    async def _moved(
        self, events: UserSequence | None, item: Vector | None
    ) -> tuple[list[MovedModel] | None, str | None]:
        """The effect of each event, or why it is unknown."""
        if events is None:
            return None, "no events were given"
        if item is None:
            return None, "the item is not available here, or its vector is in an engine"
        if self._vectors is None:
            return None, "this process does not use the user tower, because items are in an engine"
        try:
            moved = await movements(events, item, self._vectors.vector)
        except (Unavailable, Overloaded, BadAnswer) as error:
            return None, f"the user tower returned no vectors: {error}"
        return [MovedModel(**asdict(each)) for each in moved], None


def _history(record: Mapping[str, Any]) -> UserSequence:
    """The sequence in *record*; its columns are validated too, because a caller may send what the job never writes."""
    try:
        _Columns.model_validate(record, strict=True)
        return decode_sequence(orjson.dumps(record))
    except (ValidationError, TypeError) as error:
        raise BadInput("bad_sequence", f"not a record of user-sequences: {error!s:.200}", field="sequence") from None


def add(app: FastAPI, explainer: Explainer) -> None:
    """Add the route to *app*."""

    @app.post(PATH, summary="Why an item is in an answer, or not", responses={422: {"model": Refused}})
    async def why(body: WhyBody) -> Why:
        """The item's position in the user's answer now, or why it is not there, and the effect of each given event on
        its score: the tower encodes the history once without each event.
        """
        try:
            return await explainer.why(body)
        except BadInput as error:
            raise refused(error) from None
