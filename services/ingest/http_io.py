"""What all routes share: reading bodies, statuses and errors, and their descriptions in the OpenAPI document."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from nearline.errors import BadInput, Overloaded, Unavailable
from nearline.events import MAX_REQUEST_DEPTH, load_json
from nearline.reasons import reasons_of
from nearline.telemetry import counter
from services.ingest.bodies import Reservation
from services.ingest.callers import LimitReached
from services.ingest.schemas import Problems

RETRY_AFTER_S = 1
# The statuses of these reasons; every other is 422: the request is understood but invalid.
_STATUS = {"not_listed": 404, "no_profile": 404, "body_too_slow": 408, "other_version": 412, "body_too_large": 413}
# After the others the rest of a body is read and discarded: a caller cut off while sending would not see the answer.
_HANG_UP = {408}

# Reasons about a request as a whole, and about its one object.
_UNPROCESSABLE = reasons_of("events", "ids", "items", "profiles", "user_commands", others=("wrong_count",))
_REFUSED = counter(
    "ingest_requests_refused_total",
    "Requests that were refused as a whole",
    "status",
    "reason",
    known=[
        *((str(status), reason) for reason, status in _STATUS.items()),
        *(("422", reason) for reason in _UNPROCESSABLE),
        ("404", "no_such_route"),
        ("405", "no_such_route"),
        ("429", "limit"),
        ("429", "overloaded"),
        ("503", "unavailable"),
    ],
)

ResponseDocs = dict[int | str, dict[str, Any]]


# --- requests --------------------------------------------------------------------------------------------------------


async def json_of(request: Request, place: Reservation) -> Any:
    """The body as JSON, whatever its content type."""
    announced = request.headers.get("content-length", "")
    raw = await place.read(request.receive, int(announced[:18]) if announced.isdecimal() else 0)
    if not raw:
        raise BadInput("empty", "the body is empty; expected JSON")
    return load_json(raw, MAX_REQUEST_DEPTH)


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
    """*body*; ``BadInput`` unless it is an object."""
    if not isinstance(body, dict):
        raise BadInput("not_an_object", f"the body must be a JSON object, came {type(body).__name__}")
    return body


def strict_id(request: Request, name: str, value: str) -> str:
    """The id in the path; ``BadInput`` if its bytes are not UTF-8, which the server silently decodes to another id."""
    if "\ufffd" in value:
        try:
            unquote_to_bytes(request.scope.get("raw_path") or b"").decode()
        except UnicodeDecodeError as broken:
            raise BadInput("bad_id", f"{name} is not UTF-8 in the address: {broken}", field=name) from None
    return value


# --- answers ---------------------------------------------------------------------------------------------------------


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> Response:
    """An answer with *body* as JSON."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def etag(version: int) -> dict[str, str]:
    """The ETag header of a version, for ``If-Match``."""
    return {"etag": f'"{version}"'}


def batch_answer(results: list[dict[str, Any]], accepted: int) -> Response:
    """One result per object sent: 200 if all were accepted, 207 if some were, 422 if none was."""
    refused = len(results) - accepted
    status = 422 if not accepted else 207 if refused else 200
    return answer(status, {"accepted": accepted, "refused": refused, "results": results})


def problem_of(error: BadInput) -> dict[str, str]:
    """The problem in the form of every error answer."""
    return {"field": error.field, "reason": error.reason, "problem": str(error)}


async def refuse(_: Request, error: Exception) -> Response:
    """The answer for an error of ours: the caller's mistake, or when to try again."""
    if isinstance(error, BadInput):
        return _refusal(_STATUS.get(error.reason, 422), problem_of(error))
    if isinstance(error, LimitReached):
        problem = {"field": "address", "reason": "limit", "problem": str(error)}
        return _refusal(429, problem, retry_after_s=math.ceil(error.wait_s))
    if isinstance(error, Overloaded):
        return _refusal(429, {"field": "", "reason": "overloaded", "problem": str(error)})
    if isinstance(error, Unavailable):
        return _refusal(503, {"field": "", "reason": "unavailable", "problem": str(error)})
    raise error


async def refuse_route(_: Request, error: Exception) -> Response:
    """The answer for an unknown route."""
    assert isinstance(error, HTTPException)
    refusal = _refusal(error.status_code, {"field": "", "reason": "no_such_route", "problem": str(error.detail)})
    refusal.headers.update(error.headers or {})
    return refusal


async def refuse_parameters(_: Request, error: Exception) -> Response:
    """The answer for a path, query or header that FastAPI refuses."""
    assert isinstance(error, RequestValidationError)
    return _refusal(422, *map(_parameter_problem, error.errors()))


def _parameter_problem(error: Mapping[str, Any]) -> dict[str, str]:
    field = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return {"field": field, "reason": "unknown_field", "problem": error["msg"]}
    return {"field": field, "reason": "wrong_type", "problem": f"{error['msg']}, came {error.get('input')!s:.80}"}


async def hung_up(_: Request, __: Exception) -> Response:
    """The end of a request whose caller disconnected."""
    return Response(status_code=400)  # no caller is left to read it


def _refusal(status: int, *problems: dict[str, str], retry_after_s: int = RETRY_AFTER_S) -> Response:
    _REFUSED.labels(str(status), problems[0]["reason"]).inc()
    headers = {"retry-after": str(retry_after_s)} if status in (429, 503) else {}
    if status in _HANG_UP:
        headers["connection"] = "close"
    return answer(status, {"detail": problems}, headers)


# --- the OpenAPI document --------------------------------------------------------------------------------------------


def answers(models: dict[int, Any], *refusals: int) -> ResponseDocs:
    """The answers of a route; every route may be shed (429) or find the log down (503)."""
    always = {429: "Too much is in flight: try again after Retry-After.", 503: "The log is away: come again."}
    return {
        **{status: {"model": Problems} for status in refusals},
        **{status: {"model": Problems, "description": words} for status, words in always.items()},
        **{status: {"model": model} for status, model in models.items()},
    }


def ref(model: type[BaseModel]) -> dict[str, Any]:
    """The reference to *model* in the document."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def one_or_many(model: type[BaseModel], most: int) -> dict[str, Any]:
    """The ``openapi_extra`` of a route whose body is one *model*, or an array of 1 to *most*."""
    many = {"type": "array", "items": ref(model), "minItems": 1, "maxItems": most}
    return json_body({"anyOf": [ref(model), many]})


def json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route whose body has *schema*."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
