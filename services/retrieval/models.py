"""What answers and refusals look like: the models of the OpenAPI document, with examples that are valid."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from services.retrieval.answer import Reason, Seen, Source, Step
from services.retrieval.parameters import ALLOWED

_EXAMPLE_ITEM: JsonDict = {
    "item_id": "85123A",
    "title": "WHITE HANGING HEART T-LIGHT HOLDER",
    "category": "holder",
    "price": 2.95,
    "brand": "",
    "locale": "en",
    "listed_ms": 1732100000000,
    "attributes": {},
    "score": 0.8134,
    "source": "personal",
}
EXAMPLE: JsonDict = {
    "user_id": "u-17850",
    "space": 1,
    "vector_version": 1732100000123,
    "history_version": 1732100000123,
    "newest_event_id": "e-42",
    "as_of_ms": 1732100000000,
    "age_ms": 850,
    "index_generation": 3941,
    "seen": "known",
    "degraded": False,
    "reason": None,
    "steps": [],
    "rules": [],
    "took_ms": 0.21,
    "request_id": "5f2b7c0d9a1e4f60",
    "items": [_EXAMPLE_ITEM],
}
EXAMPLE_UNKNOWN: JsonDict = {
    **EXAMPLE,
    "user_id": "nobody-yet",
    **dict.fromkeys(("vector_version", "history_version", "newest_event_id", "as_of_ms", "age_ms")),
    "reason": "unknown_user",
    "items": [{**_EXAMPLE_ITEM, "score": 731.5, "source": "trending"}],
}
EXAMPLE_DEGRADED: JsonDict = {
    **EXAMPLE_UNKNOWN,
    "user_id": "u-17850",
    "degraded": True,
    "reason": "store_unavailable",
    "steps": ["store_unavailable"],
    "seen": "unknown",
}
_EXAMPLE_REFUSED: JsonDict = {
    "detail": [
        {
            "field": "filter",
            "came": "prize < 20",
            "problem": "unknown name 'prize'; names are category, locale, brand, price, listed_ms and "
            "attributes.<name>; did you mean price?, at character 0:\nprize < 20\n^",
            "position": 0,
        }
    ],
    "allowed": ALLOWED,
}


class RecommendedItem(BaseModel):
    """An item of an answer; with `fields`, only what was asked for."""

    item_id: str
    title: str | None = None
    category: str | None = None
    price: float | None = None
    brand: str | None = None
    locale: str | None = None
    listed_ms: int | None = None
    attributes: dict[str, float | str | bool] | None = None
    score: float | None = Field(
        None, description="comparable within one source: inner product, popularity, or listing time"
    )
    source: Source | None = None
    rules: list[str] | None = Field(None, description="the rules that moved this item; left out where there are none")
    propensity: float | None = Field(
        None, description="where new items are drawn: the chance with which this item came to its place, before pins"
    )


class Recommendations(BaseModel):
    """An answer, with which clicks it used and how old it is."""

    user_id: str
    space: int = Field(description="the embedding space of every vector in this answer")
    vector_version: int | None = Field(description="version of the user's vector; null if there is none")
    history_version: int | None = Field(description="version of the history that the vector used")
    newest_event_id: str | None = Field(description="the newest click that the vector used")
    as_of_ms: int | None = Field(description="when that click happened, UTC ms")
    age_ms: int | None = Field(description="how long ago that was when the answer was given")
    index_generation: int = Field(
        description="how many changes of items the answering process had taken in; its answers of one number chose "
        "from the same items"
    )
    seen: Seen = Field(
        description="how surely the answer knows what the user has seen: as stored now (known), as this process last "
        "read it (cached), or not at all (unknown)"
    )
    degraded: bool = Field(description="true when the answer went without something: when there are steps")
    reason: Reason | None = Field(description="why not every item is personal; null when every one is")
    steps: list[Step] = Field(description="what the answer went without, because a part was down or time was short")
    rules: list[str] = Field(description="ids of the rules that touched the answer")
    fresh: bool | None = Field(None, description="with `after`: whether that event was used; else left out")
    next_page: str | None = Field(
        None, description="with `page`: what to ask for next, within 30 minutes; null at the end; else left out"
    )
    took_ms: float
    request_id: str
    items: list[RecommendedItem]


class Problem(BaseModel):
    """One thing that was wrong with a request."""

    field: str
    came: str
    problem: str
    position: int | None = Field(None, description="the character of a filter, from 0, where that shows")


class Refused(BaseModel):
    """Why a request was refused, and what is allowed."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE_REFUSED})

    detail: list[Problem]
    allowed: dict[str, str]
