"""The types of requests and answers, for type checkers; at run time they are plain dictionaries.

An answer of a newer service may have further fields. docs/api.md describes every field.
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
    """What a visitor without an id did to an item; the defaults are type ``click`` and the current time."""

    item_id: str
    type: NotRequired[EventType]
    time_ms: NotRequired[int]
    event_id: NotRequired[str]
    value: NotRequired[float]
    context: NotRequired[dict[str, Any]]


class EventResult(TypedDict):
    """The result of one event of a batch; *warnings* only if there are any, the last three only if it was refused."""

    status: Literal["accepted", "refused"]
    event_id: str | None
    warnings: NotRequired[list[str]]
    field: NotRequired[str]
    reason: NotRequired[str]
    problem: NotRequired[str]


class EventResults(TypedDict):
    """One result per event, in the order of sending."""

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
    """An item of a batch, with its id."""

    item_id: str


class ItemChange(TypedDict, total=False):
    """The fields of an item that change; ``None`` removes one."""

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
    """An item and its current version."""

    item_id: str
    version: int
    item: Item


class Deleted(TypedDict):
    """The item is deleted and in no answer."""

    item_id: str
    version: int


class ItemResult(TypedDict):
    """The result of one item of a batch; the last three fields only if it was refused."""

    status: Literal["accepted", "refused"]
    item_id: str | None
    version: NotRequired[int]
    field: NotRequired[str]
    reason: NotRequired[str]
    problem: NotRequired[str]


class ItemResults(TypedDict):
    """One result per item, in the order of sending."""

    accepted: int
    refused: int
    results: list[ItemResult]


class Profile(TypedDict, total=False):
    """A shop's data about a user, apart from events."""

    country: str
    device: str
    referrer: str
    interests: list[str]
    attributes: dict[str, Attribute]


class Recommended(TypedDict):
    """An item of an answer. With ``fields`` it has only those fields and ``item_id``."""

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


class AnswerWarning(TypedDict):
    """A parameter of the request that the answer did not use, and why."""

    parameter: str
    reason: str


class Recommendations(TypedDict):
    """An answer, with the events that it used and its age."""

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
    after_event: NotRequired[Literal["used", "passed", "refused", "unknown"]]
    seen: NotRequired[Literal["known", "cached", "unknown"]]
    degradations: NotRequired[list[str]]
    steps: NotRequired[list[str]]  # the same as degradations; removed in 1.0
    rules: NotRequired[list[str]]
    warnings: NotRequired[list[AnswerWarning]]
    index_generation: NotRequired[int | None]


class Context(TypedDict, total=False):
    """The context in which the answer will be shown."""

    device: str
    country: str
    category: str


class RecommendOptions(TypedDict, total=False):
    """The options of an answer; the service has defaults for all."""

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
    after_ms: int
    wait_ms: int


class SessionContext(Context, total=False):
    """The context of a visitor without an id."""

    referrer: str
    interests: list[str]


class SessionOptions(TypedDict, total=False):
    """The options of an answer for a session."""

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
    """The options of a plain list of items."""

    k: int
    filter: str
    category: list[str]
