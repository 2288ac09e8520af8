"""What goes in and out, as the OpenAPI document shows it; nearline/events.py and items.py decide what is accepted."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from nearline.events import EventType
from nearline.ids import MAX_ID_BYTES
from nearline.items import MAX_ATTRIBUTES, MAX_TEXT, MAX_TITLE

_ID = f"1-{MAX_ID_BYTES} UTF-8 bytes without control characters"
_EVENT: JsonDict = {"event_id": "c-1", "user_id": "17850", "item_id": "22423", "type": "click"}
_ITEM: JsonDict = {"title": "RED RETRO LAMP", "category": "lighting", "price": 12.5}
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

    v: Literal[1] = Field(1, description="version of the format")
    event_id: str = Field(
        default_factory=str,
        description=f"{_ID}; one is made if it is left out. Bring your own to send again safely: equal id, same event",
    )
    user_id: str = Field(description=_ID)
    item_id: str = Field(description=_ID)
    type: EventType
    time_ms: int = Field(default_factory=int, description="when it happened, UTC milliseconds; now, if it is left out")
    value: float = Field(1.0, description="how much of it: a quantity, a rating; within ±1e12")
    context: dict[str, Any] = Field(
        default_factory=dict, description="free; country, device, referrer and interests are read by the towers"
    )
    produced_ms: int | None = Field(None, description="set here, whatever is sent")
    request_id: str | None = Field(None, description="the request_id of the answer that showed the item")
    traceparent: str | None = Field(None, description="W3C trace context")
    synthetic: bool = Field(False, description="a test's event: stays out of trending and training")


class ItemIn(BaseModel):
    """An item of the catalogue."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _ITEM})

    v: Literal[1] = Field(1, description="version of the format")
    title: str = Field(max_length=MAX_TITLE, description="not blank")
    description: str = Field("", max_length=MAX_TEXT)
    category: str = Field("", max_length=MAX_TITLE)
    locale: str = Field("", max_length=35)
    price: float | None = Field(None, ge=0, le=1e12)
    brand: str = Field("", max_length=MAX_TITLE)
    listed_ms: int | None = Field(None, description="when it came into the shop, UTC milliseconds")
    available: bool = Field(True, description="false hides it from every answer")
    attributes: dict[str, float | str | bool] = Field(default_factory=dict, max_length=MAX_ATTRIBUTES)


class ItemOfBatch(ItemIn):
    """An item of a batch: its id is among its fields."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"item_id": "lamp-1", **_ITEM}})

    item_id: str = Field(description=_ID)


class ItemPatch(BaseModel):
    """The fields that change; null takes one away, and in attributes single ones are changed or taken away."""

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


class EventRefused(BaseModel):
    """The event can never be accepted as it is."""

    model_config = ConfigDict(json_schema_extra={"example": _REFUSED})

    status: Literal["refused"]
    event_id: str | None = Field(description="as it came; null if it brought none")
    field: str = Field(description="what is wrong with; empty if it is the event as a whole")
    reason: str = Field(description="a short code, to count by")
    problem: str = Field(description="what came and what was expected")


class EventResults(BaseModel):
    """One result for each event, in the order in which they were sent."""

    accepted: int
    refused: int
    results: list[EventAccepted | EventRefused]


class ItemAccepted(BaseModel):
    """The item is in the log."""

    status: Literal["accepted"]
    item_id: str
    version: int


class ItemRefused(BaseModel):
    """The item can never be accepted as it is."""

    status: Literal["refused"]
    item_id: str | None
    field: str
    reason: str
    problem: str


class ItemResults(BaseModel):
    """One result for each item, in the order in which they were sent."""

    accepted: int
    refused: int
    results: list[ItemAccepted | ItemRefused]


class ItemShown(BaseModel):
    """The item as it is listed."""

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
    """An item and the version that it is now; the version is also the answer's ETag."""

    item_id: str
    version: int = Field(description="grows with every change of the item")
    item: ItemShown


class Deleted(BaseModel):
    """The item is in no answer any more."""

    item_id: str
    version: int


class Problem(BaseModel):
    """One thing that was wrong."""

    field: str = Field(description="what is wrong with; empty if it is the request as a whole")
    reason: str = Field(description="a short code, to count by")
    problem: str = Field(description="what came and what was expected, or when to come again")


class Problems(BaseModel):
    """Why nothing was done."""

    detail: list[Problem]
