"""The shapes of what goes out and comes back, as type checkers see them; at run time they are plain dictionaries.

What a newer service adds is there too, though its name is not below. docs/api.md describes every field.
"""

from typing import Any, Literal, NotRequired, TypedDict

EventType = Literal["view", "click", "add_to_cart", "purchase", "like", "dislike", "skip"]
ExcludeSeen = Literal["all", "purchase", "none"]
Attribute = float | str | bool


class Event(TypedDict):
    """What a user did to an item; ``event()`` makes one. Equal ``event_id`` means the same event."""

    user_id: str
    item_id: str
    type: EventType
    event_id: NotRequired[str]
    time_ms: NotRequired[int]
    value: NotRequired[float]
    context: NotRequired[dict[str, Any]]
    request_id: NotRequired[str]
    traceparent: NotRequired[str]
    synthetic: NotRequired[bool]


class SessionEvent(TypedDict):
    """What a visitor without an id did to an item; a click of this moment, where type and time are left out."""

    item_id: str
    type: NotRequired[EventType]
    time_ms: NotRequired[int]
    event_id: NotRequired[str]
    value: NotRequired[float]
    context: NotRequired[dict[str, Any]]


class EventResult(TypedDict):
    """What became of one event of a batch; the last three only where it was refused."""

    status: Literal["accepted", "refused"]
    event_id: str | None
    field: NotRequired[str]
    reason: NotRequired[str]
    problem: NotRequired[str]


class EventResults(TypedDict):
    """One result for each event, in the order in which they were sent."""

    accepted: int
    refused: int
    results: list[EventResult]


class Item(TypedDict):
    """An item of the catalogue."""

    title: str
    description: NotRequired[str]
    category: NotRequired[str]
    locale: NotRequired[str]
    price: NotRequired[float | None]
    brand: NotRequired[str]
    listed_ms: NotRequired[int | None]
    available: NotRequired[bool]
    attributes: NotRequired[dict[str, Attribute]]


class ItemOfBatch(Item):
    """An item of a batch: its id is among its fields."""

    item_id: str


class ItemChange(TypedDict, total=False):
    """The fields of an item that change; ``None`` takes one away."""

    title: str
    description: str | None
    category: str | None
    locale: str | None
    price: float | None
    brand: str | None
    listed_ms: int | None
    available: bool | None
    attributes: dict[str, Attribute | None] | None


class ItemAnswer(TypedDict):
    """An item and the version that it is now."""

    item_id: str
    version: int
    item: Item


class Deleted(TypedDict):
    """The item is in no answer any more."""

    item_id: str
    version: int


class ItemResult(TypedDict):
    """What became of one item of a batch; the last three only where it was refused."""

    status: Literal["accepted", "refused"]
    item_id: str | None
    version: NotRequired[int]
    field: NotRequired[str]
    reason: NotRequired[str]
    problem: NotRequired[str]


class ItemResults(TypedDict):
    """One result for each item, in the order in which they were sent."""

    accepted: int
    refused: int
    results: list[ItemResult]


class Profile(TypedDict, total=False):
    """What a shop knows of a user beside events."""

    country: str
    device: str
    referrer: str
    interests: list[str]
    attributes: dict[str, Attribute]


class Recommended(TypedDict):
    """An item of an answer. With ``fields`` only those that were asked for are there, and ``item_id``."""

    item_id: str
    title: str
    category: str
    price: float | None
    brand: str
    locale: str
    listed_ms: int | None
    attributes: dict[str, Attribute]
    score: float
    source: str
    rules: NotRequired[list[str]]
    propensity: NotRequired[float]


class Recommendations(TypedDict):
    """An answer, with which events it used and how old it is."""

    user_id: str
    space: int
    vector_version: int | None
    history_version: int | None
    newest_event_id: str | None
    as_of_ms: int | None
    age_ms: int | None
    degraded: bool
    reason: str | None
    took_ms: float
    request_id: str
    items: list[Recommended]
    next_page: NotRequired[str | None]
    fresh: NotRequired[bool]
    seen: NotRequired[Literal["known", "cached", "unknown"]]
    degradations: NotRequired[list[str]]
    steps: NotRequired[list[str]]  # the same as degradations; goes with 1.0
    rules: NotRequired[list[str]]
    index_generation: NotRequired[int | None]


class Context(TypedDict, total=False):
    """Where the answer will be shown."""

    device: str
    country: str
    category: str


class RecommendOptions(TypedDict, total=False):
    """What an answer may be asked for; left out, the service's defaults hold."""

    k: int
    filter: str
    exclude: list[str]
    exclude_seen: ExcludeSeen
    diversity: float
    popularity_discount: float
    max_per_category: int
    fields: list[str]
    page: str
    context: Context
    scenario: str
    after: str
    wait_ms: int


class SessionContext(Context, total=False):
    """What a visitor without an id tells of itself, beside the above."""

    referrer: str
    interests: list[str]


class SessionOptions(TypedDict, total=False):
    """What an answer for a session may be asked for."""

    k: int
    filter: str
    exclude: list[str]
    exclude_seen: ExcludeSeen
    diversity: float
    popularity_discount: float
    max_per_category: int
    fields: list[str]
    context: SessionContext
    scenario: str


class ListOptions(TypedDict, total=False):
    """What a plain list of items may be asked for."""

    k: int
    filter: str
    category: list[str]
