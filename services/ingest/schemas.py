"""The bodies and answers in the OpenAPI document; nearline/events.py and items.py validate."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from nearline.events import EventType
from nearline.ids import MAX_ID_BYTES
from nearline.items import MAX_ATTRIBUTES, MAX_TEXT, MAX_TITLE
from nearline.profiles import MAX_ATTRIBUTES as MAX_OF_PROFILE
from nearline.signals import MAX_INTERESTS, MAX_LETTERS
from services.ingest.clicks import MAX_BATCH

_ID = f"1-{MAX_ID_BYTES} UTF-8 bytes without control characters"
_EVENT: JsonDict = {"event_id": "c-1", "user_id": "17850", "item_id": "22423", "type": "click"}
_ITEM: JsonDict = {"title": "RED RETRO LAMP", "category": "lighting", "price": 12.5}
_PROFILE: JsonDict = {"country": "GB", "interests": ["tea", "lamps"], "attributes": {"tier": "gold"}}
_REFUSED: JsonDict = {
    "status": "refused",
    "event_id": "c-2",
    "field": "itemid",
    "reason": "unknown_field",
    "problem": "unknown field 'itemid'; did you mean 'item_id'?",
}


class EventIn(BaseModel):
    """What a user did to an item."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EVENT})

    v: Literal[1] = Field(1, description="format version")
    event_id: str = Field(
        default_factory=str,
        description=f"{_ID}; generated if left out. With your own, an event can be sent again: equal id, same event",
    )
    user_id: str = Field(description=_ID)
    item_id: str = Field(description=_ID)
    type: EventType
    time_ms: int = Field(
        default_factory=int,
        description="when it happened, UTC milliseconds; default: now. Ahead of the log: its append time",
    )
    value: float = Field(1.0, description="a quantity or a rating; within ±1e12")
    context: dict[str, Any] = Field(
        default_factory=dict, description="any fields; the towers read country, device, referrer and interests"
    )
    produced_ms: int | None = Field(None, description="set here; a sent value is ignored")
    request_id: str | None = Field(None, description="the request_id of the answer that showed the item")
    traceparent: str | None = Field(None, description="W3C trace context")
    synthetic: bool = Field(False, description="a test's event: not used for trending and training")


class EventOfMerge(EventIn):
    """An event of a session that is merged into the user."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EVENT})

    event_id: str = Field(description=f"{_ID}; required: equal id, same event")
    user_id: str | None = Field(  # type: ignore[assignment]
        None, description="the user's or the session's id; may be left out"
    )


class MergeIn(BaseModel):
    """A session to merge: its id, its events, or both."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"session_id": "s-1", "events": [{**_EVENT, "user_id": "s-1"}]}},
    )

    session_id: str | None = Field(None, description=f"the id under which events were sent before login; {_ID}")
    events: list[EventOfMerge] | None = Field(
        None, max_length=MAX_BATCH, description="events of the session that were not sent before"
    )


class ProfileIn(BaseModel):
    """A shop's data about a user, apart from events."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _PROFILE})

    v: Literal[1] = Field(1, description="format version")
    country: str | None = Field(None, max_length=MAX_LETTERS)
    device: str | None = Field(None, max_length=MAX_LETTERS)
    referrer: str | None = Field(None, max_length=MAX_LETTERS)
    interests: list[str] | None = Field(None, max_length=MAX_INTERESTS, description="none may be blank")
    attributes: dict[str, float | str | bool] | None = Field(
        None, max_length=MAX_OF_PROFILE, description="stored and shown; not read by the towers"
    )


class ItemIn(BaseModel):
    """An item of the catalogue."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _ITEM})

    v: Literal[1] = Field(1, description="format version")
    title: str = Field(max_length=MAX_TITLE, description="not blank")
    description: str = Field("", max_length=MAX_TEXT)
    category: str = Field("", max_length=MAX_TITLE)
    locale: str = Field("", max_length=35)
    price: float | None = Field(None, ge=0, le=1e12)
    brand: str = Field("", max_length=MAX_TITLE)
    listed_ms: int | None = Field(None, description="when it was listed in the shop, UTC milliseconds")
    available: bool = Field(True, description="false removes it from all answers")
    attributes: dict[str, float | str | bool] = Field(default_factory=dict, max_length=MAX_ATTRIBUTES)


class ItemOfBatch(ItemIn):
    """An item of a batch, with its id."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"item_id": "lamp-1", **_ITEM}})

    item_id: str = Field(description=_ID)


class ItemPatch(BaseModel):
    """The fields to change; null removes one, and attributes are changed or removed one by one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"available": False, "price": 9.5}})

    v: Literal[1] = 1
    title: str = Field(default_factory=str, max_length=MAX_TITLE)
    description: str | None = Field(None, max_length=MAX_TEXT)
    category: str | None = Field(None, max_length=MAX_TITLE)
    locale: str | None = Field(None, max_length=35)
    price: float | None = Field(None, ge=0, le=1e12)
    brand: str | None = Field(None, max_length=MAX_TITLE)
    listed_ms: int | None = None
    available: bool | None = None
    attributes: dict[str, float | str | bool | None] | None = None


class EventAccepted(BaseModel):
    """The event is in the log."""

    status: Literal["accepted"]
    event_id: str
    warnings: list[str] = Field(
        default_factory=list, description="left out if empty; what is odd about it, as an item that is not listed"
    )


class EventRefused(BaseModel):
    """The event is invalid."""

    model_config = ConfigDict(json_schema_extra={"example": _REFUSED})

    status: Literal["refused"]
    event_id: str | None = Field(description="as sent; null without one")
    field: str = Field(description="the invalid field; empty for the whole event")
    reason: str = Field(description="a short code for counters")
    problem: str = Field(description="what came and what was expected")


class EventResults(BaseModel):
    """One result per event, in the order of sending."""

    accepted: int
    refused: int
    results: list[EventAccepted | EventRefused]


class ItemAccepted(BaseModel):
    """The item is in the log."""

    status: Literal["accepted"]
    item_id: str
    version: int


class ItemRefused(BaseModel):
    """The item is invalid."""

    status: Literal["refused"]
    item_id: str | None
    field: str
    reason: str
    problem: str


class ItemResults(BaseModel):
    """One result per item, in the order of sending."""

    accepted: int
    refused: int
    results: list[ItemAccepted | ItemRefused]


class ItemShown(BaseModel):
    """The item in the catalogue."""

    title: str
    description: str
    category: str
    locale: str
    price: float | None
    brand: str
    listed_ms: int | None
    available: bool
    attributes: dict[str, float | str | bool]


class ItemAnswer(BaseModel):
    """An item and its current version, which is also the answer's ETag."""

    item_id: str
    version: int = Field(description="larger after a later change (two within a millisecond may share it); below 2^53")
    item: ItemShown


class Deleted(BaseModel):
    """The item is deleted."""

    item_id: str
    version: int


class ProfileShown(BaseModel):
    """The user's profile; empty fields were not given."""

    country: str
    device: str
    referrer: str
    interests: list[str]
    attributes: dict[str, float | str | bool]


class ProfileAnswer(BaseModel):
    """A user's profile and its current version, which is also the answer's ETag."""

    user_id: str
    version: int = Field(description="larger after a later change (two within a millisecond may share it); below 2^53")
    profile: ProfileShown


class Erased(BaseModel):
    """The user's erasure is in the log."""

    user_id: str
    command_id: str


class EventRemoved(BaseModel):
    """The event's removal is in the log."""

    user_id: str
    event_id: str
    command_id: str


class MergeResults(BaseModel):
    """The results of a merge, one per event, in the order of sending."""

    user_id: str
    session_id: str | None = Field(description="the merged session, if one was named")
    command_id: str | None
    accepted: int = Field(description="events")
    refused: int
    results: list[EventAccepted | EventRefused]


class Problem(BaseModel):
    """One problem of a request."""

    field: str = Field(description="the invalid field; empty for the whole request")
    reason: str = Field(description="a short code for counters")
    problem: str = Field(description="what came and what was expected, or when to try again")


class Problems(BaseModel):
    """Why the request was refused."""

    detail: list[Problem]
