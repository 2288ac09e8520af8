"""What may follow the question mark of a request for recommendations: declared once, for the fast path and FastAPI."""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonValue

from nearline.errors import BadInput
from nearline.filters import FilterError, parse
from nearline.hashing import hash64_all
from nearline.ids import check_id
from nearline.user_documents import NO_HASHES
from services.retrieval.asked import (
    DEFAULT_K,
    DEFAULT_WAIT_MS,
    LONGEST_WAIT_MS,
    MAX_EXCLUDED,
    MAX_K,
    Asked,
    ExcludeSeen,
    PageContext,
)
from services.retrieval.pages import FIRST, LONGEST_TOKEN
from services.retrieval.rendering import SCORE, SOURCE

FIELDS = ("title", "category", "price", "brand", "locale", "listed_ms", "attributes", SCORE, SOURCE)
_FILTERS = ['category in ("holder", "mug") and price < 20', 'attributes.colour = "red" or brand is missing']
_ID = "1-128 UTF-8 bytes without control characters"

ALLOWED: dict[str, JsonValue] = {
    "user_id": _ID,
    "k": f"an integer 1-{MAX_K}, {DEFAULT_K} by default",
    "exclude_seen": f"{', '.join(ExcludeSeen)}; {ExcludeSeen.ALL} by default",
    "filter": 'an expression such as category in ("mugs", "lamps") and price < 20 (docs/filters.md)',
    "exclude": f"an item's id, up to {MAX_EXCLUDED} times",
    "diversity": "a number 0-1; 0, the default, orders by nearness alone, 1 by unlikeness alone",
    "popularity_discount": "a number 0-1; with 1 the most popular item is worth nothing; 0 by default",
    "max_per_category": f"an integer 1-{MAX_K}; no limit by default",
    "fields": f"some of {', '.join(FIELDS)}, between commas; all by default",
    "page": f"{FIRST}, or the next_page of an answer of the last 30 minutes",
    "scenario": "the name of a scenario",
    "after": "the id of an event that the answer should have used",
    "wait_ms": f"an integer 0-{LONGEST_WAIT_MS}, {DEFAULT_WAIT_MS} by default: how long to wait for that event",
    "context.device": "up to 64 characters",
    "context.country": "up to 64 characters",
    "context.category": "the category of the page that is shown, up to 1,000 characters",
}


def _id(value: str) -> str:
    try:
        return check_id("the id", value)
    except BadInput as problem:
        raise ValueError(str(problem)) from None


def _field_names(value: str) -> str:
    unknown = [name for name in value.split(",") if name not in (*FIELDS, "item_id")]
    if unknown:
        raise ValueError(f"unknown name {unknown[0]!r:.80}; names are {', '.join(FIELDS)}")
    return value


Id = Annotated[str, AfterValidator(_id)]


class RecommendQuery(BaseModel):
    """What may follow the question mark."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(DEFAULT_K, ge=1, le=MAX_K, description="how many items")
    exclude_seen: ExcludeSeen = Field(
        ExcludeSeen.ALL, description="leave out items that the user has seen, only those bought, or none"
    )
    filter: str | None = Field(None, description=f"only items that pass: {ALLOWED['filter']}", examples=_FILTERS)
    exclude: list[Id] = Field([], max_length=MAX_EXCLUDED, description="ids of items to leave out; may come repeatedly")
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much unlikeness to the items before counts against nearness (maximal marginal relevance); "
        "0: not at all, 1: alone",
    )
    popularity_discount: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much popularity takes off an item's worth; with 1 the most popular has none",
    )
    max_per_category: int | None = Field(None, ge=1, le=MAX_K, description="at most so many items of one category")
    fields: Annotated[str, AfterValidator(_field_names)] | None = Field(
        None,
        description=f"what to say of an item beside its id, between commas: {', '.join(FIELDS)}",
        examples=["title,price"],
    )
    page: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_TOKEN,
        description=f"`{FIRST}` begins a list that can be continued; then the `next_page` of the answer before. No "
        "item comes twice, new clicks only take items away",
        examples=[FIRST],
    )
    scenario: Id | None = Field(
        None, description="a named bundle of parameters and rules; what is given here goes first"
    )
    after: Id | None = Field(
        None, description="the id of an event: wait until the answer can use it, and say in `fresh` whether it does"
    )
    wait_ms: int = Field(
        DEFAULT_WAIT_MS, ge=0, le=LONGEST_WAIT_MS, description="with `after`: how long to wait at most"
    )
    device: str = Field(
        "", alias="context.device", max_length=64, description="what the user holds", examples=["phone"]
    )
    country: str = Field("", alias="context.country", max_length=64, description="where the user is", examples=["GB"])
    category: str = Field(
        "",
        alias="context.category",
        max_length=1_000,
        description="the category of the page that is shown: where not every item is personal, its own go first",
        examples=["mug"],
    )

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
            fields=None if self.fields is None else frozenset(self.fields.split(",")),
            page=self.page,
            context=PageContext(self.device, self.country, self.category),
            scenario=self.scenario,
            after=self.after,
            wait_ms=self.wait_ms,
            given=frozenset(self.model_fields_set),
        )


_SEVERAL = frozenset({"exclude"})


def asked_in(raw: bytes) -> Asked | None:
    """What a query string asks for; ``None`` if it is not well-formed, for FastAPI to say what is wrong with it."""
    given: dict[str, Any] = {}
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        if name in _SEVERAL:
            given.setdefault(name, []).append(value)
        elif name in given:
            return None
        else:
            given[name] = value
    try:
        return RecommendQuery.model_validate(given).asked()
    except (ValidationError, FilterError):
        return None


def check_filters(expressions: Sequence[str]) -> None:
    """``FilterError`` if a request gives several filters: all but one would be forgotten."""
    if len(expressions) > 1:
        raise FilterError("filter is given more than once; join the expressions with and", expressions[1], 0)
