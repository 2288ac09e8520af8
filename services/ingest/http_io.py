"""What all routes share: bodies in, statuses and refusals out, and how the document describes both."""

from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from nearline.errors import BadInput, Overloaded, Unavailable
from nearline.events import load_json
from nearline.reasons import reasons_of
from nearline.telemetry import counter
from services.ingest.bodies import Reservation
from services.ingest.schemas import Problems

RETRY_AFTER_S = "1"
# Of refusals with these reasons; every other is 422: the request is understood and can never be accepted as it is.
_STATUS = {"not_listed": 404, "no_profile": 404, "body_too_slow": 408, "other_version": 412, "body_too_large": 413}
# After the others the rest of a body is thrown away: a caller that is hung up on while it sends never sees the answer.
_HANG_UP = {408}

# What is wrong with a request as a whole, and with the one thing that it is about.
_UNPROCESSABLE = reasons_of("events", "ids", "items", "profiles", "user_commands", others=("too_deep", "wrong_count"))
_REFUSED = counter(
    "ingest_requests_refused_total",
    "Requests of which nothing was done",
    "status",
    "reason",
    known=[
        *((str(status), reason) for reason, status in _STATUS.items()),
        *(("422", reason) for reason in _UNPROCESSABLE),
        ("404", "no_such_route"),
        ("405", "no_such_route"),
        ("429", "overloaded"),
        ("503", "unavailable"),
    ],
)

ResponseDocs = dict[int | str, dict[str, Any]]


# --- requests --------------------------------------------------------------------------------------------------------


async def json_of(request: Request, place: Reservation) -> Any:
    """What the body says; whatever its content type is called, it is read as JSON."""
    announced = request.headers.get("content-length", "")
    raw = await place.read(request.receive, int(announced[:18]) if announced.isdecimal() else 0)
    if not raw:
        raise BadInput("empty", "the body is empty; expected JSON")
    return load_json(raw)


def one_or_more(body: Any, most: int) -> list[object]:
    """The objects of a body that is one object or an array of them."""
    if isinstance(body, dict):
        return [body]
    if not isinstance(body, list):
        raise BadInput("wrong_type", f"the body must be an object or an array of objects, came {type(body).__name__}")
    if not 1 <= len(body) <= most:
        raise BadInput("wrong_count", f"an array must hold 1-{most} objects, came {len(body):,}; send several requests")
    return body


def object_of(body: Any) -> dict[str, Any]:
    """*body*, which must be an object."""
    if not isinstance(body, dict):
        raise BadInput("not_an_object", f"the body must be a JSON object, came {type(body).__name__}")
    return body


def strict_id(request: Request, name: str, value: str) -> str:
    """The id of the path, unless its bytes are not UTF-8: a server decodes those to another id without a word."""
    if "\ufffd" in value:
        try:
            unquote_to_bytes(request.scope.get("raw_path") or b"").decode()
        except UnicodeDecodeError as broken:
            raise BadInput("bad_id", f"{name} is not UTF-8 in the address: {broken}", field=name) from None
    return value


# --- answers ---------------------------------------------------------------------------------------------------------


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> Response:
    """*body* as JSON."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def etag(version: int) -> dict[str, str]:
    """The header that tells a version, for ``If-Match``."""
    return {"etag": f'"{version}"'}


def batch_answer(results: list[dict[str, Any]], accepted: int) -> Response:
    """One result for each thing that was sent: 200 if all were accepted, 207 if some were, 422 if none was."""
    refused = len(results) - accepted
    status = 422 if not accepted else 207 if refused else 200
    return answer(status, {"accepted": accepted, "refused": refused, "results": results})


def problem_of(error: BadInput) -> dict[str, str]:
    """What the caller did wrong, as every refusal tells it."""
    return {"field": error.field, "reason": error.reason, "problem": str(error)}


async def refuse(_: Request, error: Exception) -> Response:
    """The answer to an error of ours: what the caller did wrong, or when to come again."""
    if isinstance(error, BadInput):
        return _refusal(_STATUS.get(error.reason, 422), problem_of(error))
    if isinstance(error, Overloaded):
        return _refusal(429, {"field": "", "reason": "overloaded", "problem": str(error)})
    if isinstance(error, Unavailable):
        return _refusal(503, {"field": "", "reason": "unavailable", "problem": str(error)})
    raise error


async def refuse_route(_: Request, error: Exception) -> Response:
    """The answer to what no route serves."""
    assert isinstance(error, HTTPException)
    refusal = _refusal(error.status_code, {"field": "", "reason": "no_such_route", "problem": str(error.detail)})
    refusal.headers.update(error.headers or {})
    return refusal


async def refuse_parameters(_: Request, error: Exception) -> Response:
    """The answer to a path, query or header that FastAPI does not take."""
    assert isinstance(error, RequestValidationError)
    return _refusal(
        422,
        *(
            {
                "field": str(one["loc"][-1]),
                "reason": "wrong_type",
                "problem": f"{one['msg']}, came {one.get('input')!s:.80}",
            }
            for one in error.errors()
        ),
    )


async def hung_up(_: Request, __: Exception) -> Response:
    """The end of a request whose caller left."""
    return Response(status_code=400)  # nobody is there to read it


def _refusal(status: int, *problems: dict[str, str]) -> Response:
    _REFUSED.labels(str(status), problems[0]["reason"]).inc()
    headers = {"retry-after": RETRY_AFTER_S} if status in (429, 503) else {}
    if status in _HANG_UP:
        headers["connection"] = "close"
    return answer(status, {"detail": problems}, headers)


# --- the OpenAPI document --------------------------------------------------------------------------------------------


def answers(models: dict[int, Any], *refusals: int) -> ResponseDocs:
    """The answers of a route; any may be shed (429) or find the log away (503)."""
    always = {429: "Too much is in flight: come again after Retry-After.", 503: "The log is away: come again."}
    return {
        **{status: {"model": Problems} for status in refusals},
        **{status: {"model": Problems, "description": words} for status, words in always.items()},
        **{status: {"model": model} for status, model in models.items()},
    }


def ref(model: type[BaseModel]) -> dict[str, Any]:
    """Where the document describes *model*."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def one_or_many(model: type[BaseModel], most: int) -> dict[str, Any]:
    """That a route wants one object like *model*, or an array of 1 to *most*."""
    many = {"type": "array", "items": ref(model), "minItems": 1, "maxItems": most}
    return json_body({"anyOf": [ref(model), many]})


def json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """That a route wants a body of *schema*, as its ``openapi_extra``."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
