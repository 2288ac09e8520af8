"""What the read routes share: parameters, models of items and answers, and their serialisation."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from nearline.errors import BadInput
from nearline.filters import AllOf, Filter, FilterError, Same, parse
from nearline.ids import MAX_ID_BYTES, check_id
from nearline.request_ids import request_id_of
from services.retrieval.items.interface import Candidates, ItemIndex
from services.retrieval.items.printed import print_items

MAX_K = 500
DEFAULT_K = 20
MAX_CATEGORIES = 50

ID = f"1-{MAX_ID_BYTES} UTF-8 bytes without control characters"
_FILTER = 'an expression such as category in ("tableware", "lighting") and price < 20 (docs/filters.md)'
ALLOWED_K = f"an integer 1-{MAX_K}, {DEFAULT_K} by default"
ALLOWED_FILTER: dict[str, str] = {"k": ALLOWED_K, "filter": _FILTER}
ALLOWED_LIST: dict[str, str] = ALLOWED_FILTER | {"category": f"the name of a category, up to {MAX_CATEGORIES} times"}

EXAMPLE_ITEM: JsonDict = {
    "item_id": "85123A",
    "title": "WHITE HANGING HEART T-LIGHT HOLDER",
    "category": "candles",
    "price": 2.95,
    "brand": "",
    "locale": "en",
    "listed_ms": 1732100000000,
    "attributes": {},
    "score": 0.8134,
}


def id_named(name: str) -> AfterValidator:
    """A validator that the parameter *name* is an id."""

    def checked(value: str) -> str:
        try:
            return check_id(name, value)
        except BadInput as problem:
            raise ValueError(str(problem)) from None

    return AfterValidator(checked)


ItemId = Annotated[str, Path(description=ID, examples=["85123A"]), id_named("item_id")]
UserId = Annotated[str, Path(description=ID, examples=["17850"]), id_named("user_id")]
K = Annotated[int, Field(ge=1, le=MAX_K, description="how many")]
FilterText = Annotated[
    str | None, Field(description=f"only items that pass: {_FILTER}", examples=['category = "candles" and price < 20'])
]


class StrictModel(BaseModel):
    """Parameters; an unknown one is refused, because it is probably misspelt."""

    model_config = ConfigDict(extra="forbid")


class FilterQuery(StrictModel):
    """The parameters ``k`` and ``filter``."""

    k: K = DEFAULT_K
    filter: FilterText = None


class ListQuery(FilterQuery):
    """The parameters ``k``, ``filter`` and ``category``."""

    category: list[str] = Field(
        [], max_length=MAX_CATEGORIES, description="only items of these categories; all by default"
    )


class ListedItem(BaseModel):
    """An available item."""

    item_id: str
    title: str
    category: str
    price: float | None
    brand: str
    locale: str
    listed_ms: int | None
    attributes: dict[str, float | str | bool]
    score: float = Field(description="comparable within one answer")


class RouteAnswer(BaseModel):
    """The fields of every answer."""

    took_ms: float
    request_id: str


class ItemsAnswer(RouteAnswer):
    """Available items, best first."""

    items: list[ListedItem]


def wanted_in(request: Request, items: ItemIndex) -> Filter | None:
    """The request's filter; ``FilterError`` if it is invalid or names an attribute that no item has."""
    expressions = request.query_params.getlist("filter")
    if len(expressions) > 1:
        raise FilterError("filter is given more than once; join the expressions with and", expressions[1], 0)
    return checked_filter(expressions[0] if expressions else None, items)


def checked_filter(expression: str | None, items: ItemIndex) -> Filter | None:
    """The filter of *expression*; ``FilterError`` if it is invalid or names an attribute that no item has."""
    if expression is None:
        return None
    wanted = parse(expression)
    items.check(wanted)
    return wanted


def in_categories(wanted: Filter | None, categories: list[str]) -> Filter | None:
    """*wanted*, restricted to items of *categories* unless these are empty."""
    if not categories:
        return wanted
    node: Any = Same("category", tuple(sorted(set(categories))))
    if wanted is not None:
        node = AllOf(tuple(sorted((node, wanted.node), key=repr)))
    return Filter("", node, repr(node), () if wanted is None else wanted.compared)


class RequestClock:
    """The id and start of a request, for its answer."""

    def __init__(self, request: Request) -> None:
        self._started_ns = time.perf_counter_ns()
        self.request_id = request_id_of(request.headers.raw)

    @property
    def took_ms(self) -> float:
        """Milliseconds since the request came."""
        return round((time.perf_counter_ns() - self._started_ns) / 1e6, 3)

    def answer(self, about: Mapping[str, object], items: Candidates | None = None) -> Response:
        """An answer of *about*, *items* and the fields of every answer."""
        body = orjson.dumps({**about, "took_ms": self.took_ms, "request_id": self.request_id})
        if items is not None:
            body = body[:-1] + b',"items":[' + print_items(items) + b"]}"
        return Response(body, media_type="application/json")


def example(of: Mapping[str, Any], **more: Any) -> ConfigDict:
    """A model's configuration with *of* and *more* as its example."""
    given: JsonDict = {**of, **more, "took_ms": 0.31, "request_id": "5f2b7c0d9a1e4f60"}
    return ConfigDict(json_schema_extra={"example": given})


CategoryQuery = Annotated[ListQuery, Query()]
EXAMPLE_ITEMS: JsonDict = {"items": [EXAMPLE_ITEM]}
