"""The models of answers and refusals for the OpenAPI document, with valid examples."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.config import JsonDict

from services.retrieval.parameters import ALLOWED
from services.retrieval.provenance import model_fields
from services.retrieval.result import Source

_EXAMPLE_ITEM: JsonDict = {
    "item_id": "85123A",
    "title": "WHITE HANGING HEART T-LIGHT HOLDER",
    "category": "candles",
    "price": 2.95,
    "brand": "",
    "locale": "en",
    "listed_ms": 1732100000000,
    "attributes": {},
    "score": 0.8134,
    "source": "personal",
}
EXAMPLE: JsonDict = {
    "user_id": "17850",
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
    "degradations": [],
    "steps": [],
    "rules": [],
    "warnings": [],
    "took_ms": 0.21,
    "request_id": "5f2b7c0d9a1e4f60",
    "items": [_EXAMPLE_ITEM],
}
EXAMPLE_UNKNOWN: JsonDict = {
    **EXAMPLE,
    "user_id": "u-unknown",
    **dict.fromkeys(("vector_version", "history_version", "newest_event_id", "as_of_ms", "age_ms")),
    "reason": "unknown_user",
    "items": [{**_EXAMPLE_ITEM, "score": 731.5, "source": "trending"}],
}
EXAMPLE_DEGRADED: JsonDict = {
    **EXAMPLE_UNKNOWN,
    "user_id": "17850",
    "degraded": True,
    "reason": "store_unavailable",
    "degradations": ["store_unavailable"],
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
    """An item of an answer; with `fields`, only those."""

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
        None, description="with exploration: the probability of this item at its position, before pins"
    )


def answer_model(name: str, doc: str, example: JsonDict | None = None, **fields: Any) -> type[BaseModel]:
    """The model of an answer: its provenance and its items, where *fields* replace those of the same name."""
    known: dict[str, Any] = model_fields() | {"items": (list[RecommendedItem], ...)} | fields
    config = ConfigDict(json_schema_extra=None if example is None else {"example": example})
    return create_model(name, __doc__=doc, __config__=config, **known)


Recommendations = answer_model(
    "Recommendations", "An answer, the clicks that it used, and its age.", user_id=(str, ...)
)


class Problem(BaseModel):
    """One problem of a request."""

    field: str
    came: str
    problem: str
    position: int | None = Field(None, description="for a filter: the character, from 0, where the problem is")


class Refused(BaseModel):
    """Why a request was refused, and which values are allowed."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE_REFUSED})

    detail: list[Problem]
    allowed: dict[str, str]
