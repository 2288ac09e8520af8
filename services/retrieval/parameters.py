"""The query parameters of ``GET /recommend``, declared once for the fast path and FastAPI."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import parse_qsl

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonValue

from nearline.errors import BadInput
from nearline.filters import Filter, FilterError, parse
from nearline.hashing import hash64_all
from nearline.ids import check_id
from nearline.user_documents import NO_HASHES
from services.retrieval.pages import FIRST, LONGEST_TOKEN
from services.retrieval.rendering import SCORE, SOURCE
from services.retrieval.request import (
    DEFAULT_K,
    DEFAULT_WAIT_MS,
    LONGEST_WAIT_MS,
    MAX_EXCLUDED,
    MAX_K,
    ExcludeSeen,
    PageContext,
    RecommendRequest,
)

FIELDS = ("title", "category", "price", "brand", "locale", "listed_ms", "attributes", SCORE, SOURCE)
_FILTERS = ['category in ("candles", "tableware") and price < 20', 'attributes.colour = "red" or brand is missing']
_FILTER = 'an expression such as category in ("tableware", "lighting") and price < 20 (docs/filters.md)'
_ID = "1-128 UTF-8 bytes without control characters"


@dataclass(frozen=True, slots=True)
class Allowed:
    """An annotation of a parameter: how a refusal describes its allowed values."""

    text: str


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


@lru_cache(maxsize=64)  # at most 5 MB: a parsed filter takes about twenty times its text
def _parsed(expression: str) -> Filter | FilterError:
    try:
        return parse(expression)
    except FilterError as error:
        return error.with_traceback(None)


def filter_of(expression: str) -> Filter:
    """The filter in *expression*, parsed once, valid or not: an invalid one is read by FastAPI too; ``FilterError``."""
    parsed = _parsed(expression)
    if isinstance(parsed, FilterError):
        raise FilterError(parsed.problem, parsed.expression, parsed.position)
    return parsed


class SharedParameters(BaseModel):
    """The parameters of every answer, for a known user or a session; each is declared only here."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[int, Allowed(f"an integer 1-{MAX_K}, {DEFAULT_K} by default")] = Field(
        DEFAULT_K, ge=1, le=MAX_K, description="how many items"
    )
    exclude_seen: Annotated[ExcludeSeen, Allowed(f"{', '.join(ExcludeSeen)}; {ExcludeSeen.ALL} by default")] = Field(
        ExcludeSeen.ALL, description="leave out items that the user has seen, only those bought, or none"
    )
    filter: Annotated[str | None, Allowed(_FILTER)] = Field(
        None, description=f"only items that pass: {_FILTER}", examples=_FILTERS
    )
    diversity: Annotated[
        float, Allowed("a number 0-1; 0, the default, orders by score alone, 1 by dissimilarity alone")
    ] = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="the weight of dissimilarity to the items before, against the score (maximal marginal relevance); "
        "0: score alone, 1: dissimilarity alone",
    )
    popularity_discount: Annotated[
        float, Allowed("a number 0-1; with 1 the most popular item scores 0; 0 by default")
    ] = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much popularity lowers an item's score; with 1 the most popular item scores 0",
    )
    max_per_category: Annotated[int | None, Allowed(f"an integer 1-{MAX_K}; no limit by default")] = Field(
        None, ge=1, le=MAX_K, description="the most items of one category"
    )
    scenario: Annotated[Id | None, Allowed("the name of a scenario")] = Field(
        None, description="a named set of parameters and rules; the request's own parameters override it"
    )

    def request_for(
        self, exclude: Sequence[str], fields: Iterable[str] | None, context: PageContext, **more: Any
    ) -> RecommendRequest:
        """The request, with the parameters that differ by route as arguments; ``FilterError`` for an invalid filter."""
        return RecommendRequest(
            k=self.k,
            exclude_seen=self.exclude_seen,
            filter=None if self.filter is None else filter_of(self.filter),
            exclude=np.unique(hash64_all(exclude)) if exclude else NO_HASHES,
            diversity=self.diversity,
            popularity_discount=self.popularity_discount,
            max_per_category=self.max_per_category,
            fields=None if fields is None else frozenset(fields),
            context=context,
            scenario=self.scenario,
            given=frozenset(self.model_fields_set),
            **more,
        )


class RecommendQuery(SharedParameters):
    """The query parameters of ``GET /recommend``."""

    exclude: Annotated[list[Id], Allowed(f"an item's id, up to {MAX_EXCLUDED} times")] = Field(
        [], max_length=MAX_EXCLUDED, description="ids of items to leave out; may be repeated"
    )
    fields: Annotated[
        str | None,
        AfterValidator(_field_names),
        Allowed(f"some of {', '.join(FIELDS)}, separated by commas; all by default"),
    ] = Field(
        None,
        description=f"the fields of an item beside its id, separated by commas: {', '.join(FIELDS)}",
        examples=["title,price"],
    )
    page: Annotated[str | None, Allowed(f"{FIRST}, or the next_page of an answer of the last 30 minutes")] = Field(
        None,
        min_length=1,
        max_length=LONGEST_TOKEN,
        description=f"`{FIRST}` begins a list with pages; then the `next_page` of the answer before. No item is "
        "repeated; new clicks only remove items",
        examples=[FIRST],
    )
    after: Annotated[Id | None, Allowed("the id of an event that the answer should have used")] = Field(
        None,
        description="the id of an event: wait until the answer can use it, and say in `fresh` and `after_event` "
        "whether it does",
    )
    after_ms: Annotated[int | None, Allowed("the time_ms of that event, UTC milliseconds")] = Field(
        None,
        ge=0,
        lt=2**53,
        description="with `after`: the event's `time_ms`. With it an answer knows an event that will not be used (any "
        "more), says so in `after_event`, and does not wait for it",
        examples=[1732100000000],
    )
    wait_ms: Annotated[
        int,
        Allowed(f"an integer 0-{LONGEST_WAIT_MS}, {DEFAULT_WAIT_MS} by default: how long to wait for that event"),
    ] = Field(DEFAULT_WAIT_MS, ge=0, le=LONGEST_WAIT_MS, description="with `after`: how long to wait at most")
    device: Annotated[str, Allowed("up to 64 characters")] = Field(
        "",
        alias="context.device",
        max_length=64,
        description="the user's device; not used yet, see `warnings`",
        examples=["phone"],
    )
    country: Annotated[str, Allowed("up to 64 characters")] = Field(
        "",
        alias="context.country",
        max_length=64,
        description="the user's country; not used yet, see `warnings`",
        examples=["GB"],
    )
    category: Annotated[str, Allowed("the category of the page that is shown, up to 1,000 characters")] = Field(
        "",
        alias="context.category",
        max_length=1_000,
        description="the category of the page that is shown: its popular items are the first to fill places that are "
        "not personal; not used where all are, see `warnings`",
        examples=["tableware"],
    )

    def request(self) -> RecommendRequest:
        """The request; ``FilterError`` for an invalid filter."""
        return self.request_for(
            self.exclude,
            None if self.fields is None else self.fields.split(","),
            PageContext(self.device, self.country, self.category),
            page=self.page,
            after=self.after,
            after_ms=self.after_ms,
            wait_ms=self.wait_ms,
        )


def allowed_of(model: type[BaseModel]) -> dict[str, str]:
    """The allowed values of each parameter of *model* with an ``Allowed``, by the name that callers use."""
    texts = {}
    for name, field in model.model_fields.items():
        for annotation in field.metadata:
            if isinstance(annotation, Allowed):
                texts[field.alias or name] = annotation.text
    return texts


ALLOWED: dict[str, JsonValue] = {"user_id": _ID, **allowed_of(RecommendQuery)}
_SEVERAL = frozenset({"exclude"})


def request_in(raw: bytes) -> RecommendRequest | None:
    """The request in a query string; ``None`` if it is malformed, so that FastAPI can refuse it with the problem."""
    given: dict[str, Any] = {}
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        if name in _SEVERAL:
            given.setdefault(name, []).append(value)
        elif name in given:
            return None
        else:
            given[name] = value
    try:
        return RecommendQuery.model_validate(given).request()
    except (ValidationError, FilterError):
        return None


def check_filters(expressions: Sequence[str]) -> None:
    """Raise ``FilterError`` if a request has several filters: all but one would be ignored."""
    if len(expressions) > 1:
        raise FilterError("filter is given more than once; join the expressions with and", expressions[1], 0)
