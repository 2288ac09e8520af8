"""The HTTP interface: ``GET /recommend/{user_id}``, its models and examples, and the status routes.

Well-formed requests are answered before FastAPI's routing and validation, which would cost as much as the search; all
others go through them, so a refusal and the OpenAPI document come from one declaration. Both call one ``Recommender``.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict, JsonValue
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from nearline.errors import BadInput
from nearline.guard import STATUS_RULES, Rule, describe
from nearline.ids import check_id
from nearline.keys import Permission
from services.retrieval.answer import DEFAULT_K, MAX_K, ExcludeSeen, Reason, Source
from services.retrieval.filters import Filter, FilterError, parse
from services.retrieval.recommender import Recommender

# What a caller needs for each route; a test refuses a route without a line here.
RULES = (Rule("GET", "/recommend/{user_id:path}", Permission.READ), *STATUS_RULES)

_ALLOWED: dict[str, JsonValue] = {
    "user_id": "1-128 UTF-8 bytes without control characters",
    "k": f"an integer 1-{MAX_K}, {DEFAULT_K} by default",
    "exclude_seen": f"{', '.join(ExcludeSeen)}; {ExcludeSeen.ALL} by default",
    "filter": 'an expression such as category in ("mugs", "lamps") and price < 20 (docs/filters.md)',
}

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
_EXAMPLE: JsonDict = {
    "user_id": "u-17850",
    "space": 1,
    "vector_version": 1732100000123,
    "history_version": 1732100000123,
    "newest_event_id": "e-42",
    "as_of_ms": 1732100000000,
    "age_ms": 850,
    "degraded": False,
    "reason": None,
    "took_ms": 0.21,
    "request_id": "5f2b7c0d9a1e4f60",
    "items": [_EXAMPLE_ITEM],
}
_EXAMPLE_UNKNOWN: JsonDict = {
    **_EXAMPLE,
    "user_id": "nobody-yet",
    **dict.fromkeys(("vector_version", "history_version", "newest_event_id", "as_of_ms", "age_ms")),
    "reason": "unknown_user",
    "items": [{**_EXAMPLE_ITEM, "score": 731.5, "source": "trending"}],
}
_EXAMPLE_DEGRADED: JsonDict = {
    **_EXAMPLE_UNKNOWN,
    "user_id": "u-17850",
    "degraded": True,
    "reason": "store_unavailable",
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
    "allowed": _ALLOWED,
}
_FILTERS = ['category in ("holder", "mug") and price < 20', 'attributes.colour = "red" or brand is missing']


class RecommendedItem(BaseModel):
    """An item of an answer."""

    item_id: str
    title: str
    category: str
    price: float | None
    brand: str
    locale: str
    listed_ms: int | None
    attributes: dict[str, float | str | bool]
    score: float = Field(description="comparable within one source: inner product, popularity, or listing time")
    source: Source


class Recommendations(BaseModel):
    """An answer, with which clicks it used and how old it is."""

    user_id: str
    space: int = Field(description="the embedding space of every vector in this answer")
    vector_version: int | None = Field(description="version of the user's vector; null if there is none")
    history_version: int | None = Field(description="version of the history that the vector used")
    newest_event_id: str | None = Field(description="the newest click that the vector used")
    as_of_ms: int | None = Field(description="when that click happened, UTC ms")
    age_ms: int | None = Field(description="how long ago that was when the answer was given")
    degraded: bool = Field(description="true when a part was down and the answer is poorer for it")
    reason: Reason | None = Field(description="why not every item is personal; null when every one is")
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


class RecommendQuery(BaseModel):
    """What may follow the question mark."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(DEFAULT_K, ge=1, le=MAX_K, description="how many items")
    exclude_seen: ExcludeSeen = Field(
        ExcludeSeen.ALL, description="leave out items that the user has seen, only those bought, or none"
    )
    filter: str | None = Field(None, description=f"only items that pass: {_ALLOWED['filter']}", examples=_FILTERS)


def _user_id(value: str) -> str:
    try:
        return check_id("user_id", value)
    except BadInput as problem:
        raise ValueError(str(problem)) from None


UserId = Annotated[str, Path(description=_ALLOWED["user_id"], examples=["u-17850"]), AfterValidator(_user_id)]

_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"model": Recommendations}, 422: {"model": Refused}}
_EXAMPLES = {
    "personal": {"value": _EXAMPLE},
    "unknown user": {"value": _EXAMPLE_UNKNOWN},
    "store down": {"value": _EXAMPLE_DEGRADED},
}


def create_app(recommender: Recommender, status: Sequence[BaseRoute]) -> ASGIApp:
    """The application; *status* are the routes /healthz, /readyz and /metrics."""
    app = FastAPI(
        title="Nearline retrieval",
        version="1",
        description="Recommendations from what a user did a moment ago.",
        exception_handlers={RequestValidationError: _refuse, FilterError: _refuse_filter},
    )

    @app.get("/recommend/{user_id:path}", responses=_ANSWERS, summary="Items for a user")
    async def recommend(request: Request, user_id: UserId, query: Annotated[RecommendQuery, Query()]) -> Response:
        """At most *k* items, best first. Unknown users and outages get a fallback, named in *reason* and *source*."""
        request_id = _request_id(request.headers.get("x-request-id", "").encode())
        wanted = _wanted(request.query_params.getlist("filter"))
        body = await recommender.answer(user_id, query.k, query.exclude_seen, wanted, request_id)
        return Response(body, media_type="application/json")

    app.router.routes.extend(status)
    document = app.openapi()
    describe(document, RULES)
    document["paths"]["/recommend/{user_id}"]["get"]["responses"]["200"]["content"]["application/json"] |= {
        "examples": _EXAMPLES  # put in here because FastAPI leaves every null out of an example
    }
    return FastPath(app, recommender)


async def _refuse(_: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [
        {"field": str(problem["loc"][-1]), "came": f"{problem.get('input')!s:.80}", "problem": problem["msg"]}
        for problem in problems
    ]
    return JSONResponse({"detail": detail, "allowed": _ALLOWED}, 422)


async def _refuse_filter(_: Request, error: Exception) -> Response:
    assert isinstance(error, FilterError)
    problem = {
        "field": "filter",
        "came": f"{error.expression:.80}",
        "problem": str(error),
        "position": error.position,
    }
    return JSONResponse({"detail": [problem], "allowed": _ALLOWED}, 422)


def _wanted(expressions: Sequence[str]) -> Filter | None:
    """The filter that a request gives; ``FilterError`` if it is none, or if there are several."""
    if len(expressions) > 1:
        raise FilterError("filter is given more than once; join the expressions with and", expressions[1], 0)
    return parse(expressions[0]) if expressions else None


_Asked = tuple[int, ExcludeSeen, Filter | None]
_KEPT_BYTES = 256 * 1024  # of query strings; a parsed filter takes some twenty times its text


class FastPath:
    """Answers well-formed ``GET /recommend/…`` requests and passes everything else on."""

    def __init__(self, app: ASGIApp, recommender: Recommender) -> None:
        self._app = app
        self._recommender = recommender
        self._queries: dict[bytes, _Asked | None] = {}
        self._bytes = 0  # of what is kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith("/recommend/"):
            user_id = scope["path"][11:]
            query = self._query(scope["query_string"])
            if query is not None and _is_plain(user_id):
                request_id = _request_id(_header(scope, b"x-request-id"))
                with suppress(FilterError):
                    body = await self._recommender.answer(user_id, *query, request_id)
                    await _send_json(send, body)
                    return
        await self._app(scope, receive, send)

    def _query(self, raw: bytes) -> _Asked | None:
        """What *raw* asks for, or ``None`` if FastAPI shall say what is wrong with it."""
        try:
            return self._queries[raw]
        except KeyError:
            self._bytes += len(raw)
            if len(self._queries) >= 1_000 or self._bytes > _KEPT_BYTES:
                self._queries.clear()
                self._bytes = len(raw)
            parsed = self._queries[raw] = _parse(raw)
            return parsed


def _parse(raw: bytes) -> _Asked | None:
    pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
    given = dict(pairs)
    once = len(given) == len(pairs)
    k, exclude = given.pop("k", str(DEFAULT_K)), given.pop("exclude_seen", ExcludeSeen.ALL.value)
    expressions = [given.pop("filter")] if "filter" in given else []
    if given or not once or not (k.isascii() and k.isdigit() and len(k) < 5 and 1 <= int(k) <= MAX_K):
        return None
    if exclude not in list(ExcludeSeen):
        return None
    try:
        return int(k), ExcludeSeen(exclude), _wanted(expressions)
    except FilterError:
        return None


def _is_plain(user_id: str) -> bool:
    return 0 < len(user_id) <= 128 and user_id.isascii() and user_id.isprintable()


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def _request_id(given: bytes) -> str:
    """The caller's id if it is a short printable one, else a new one."""
    text = given.decode("latin-1")
    return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else secrets.token_hex(8)


async def _send_json(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
