"""The answers of routes to requests that they refuse: the field, its value, the problem, and the allowed values."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from nearline.errors import BadInput, Overloaded, Unavailable
from nearline.query_names import help_for, meant_by
from nearline.telemetry import get_logger

_RETRY = {"retry-after": "1"}
_COMES_AGAIN = (429, 503)
_IN_PATHS = ("user_id", "of_user", "item_id")


class NotAnswered(Exception):
    """The request is refused; *field* is the parameter at fault, *came* its value."""

    def __init__(self, status: int, field: str, came: object, problem: str) -> None:
        super().__init__(problem)
        self.status = status
        self.field = field
        self.came = f"{came!s:.80}"


def not_known(field: str, came: str, problem: str) -> NotAnswered:
    """A 404: the path names something that does not exist."""
    return NotAnswered(404, field, came, problem)


def not_here(what: str, instead: str) -> NotAnswered:
    """A 501: this process is configured without *what*; *instead* says what to do."""
    return NotAnswered(501, "", "", f"{what} is not served here: {instead}")


def refuse_with(app: FastAPI, allowed: Mapping[str, Mapping[str, str]]) -> None:
    """Add handlers to *app* for the routes in *allowed*, which has the allowed values by path and parameter."""
    others: Any = app.exception_handlers.get(RequestValidationError)

    def allowed_for(request: Request) -> Mapping[str, str] | None:
        return allowed.get(getattr(request.scope.get("route"), "path", ""))

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        known = allowed_for(request)
        if known is None:
            answer: Response = await others(request, error)
            return answer
        detail = [problem_of(one, known) for one in error.errors()]
        return JSONResponse({"detail": detail, "allowed": dict(known)}, 422)

    async def not_answered(request: Request, error: Exception) -> Response:
        assert isinstance(error, NotAnswered)
        return answer_of(error, allowed_for(request) or {})

    async def overloaded(_: Request, error: Exception) -> Response:
        return answer_of(NotAnswered(429, "", "", str(error)), {})

    async def unavailable(_: Request, error: Exception) -> Response:
        get_logger().warning("a request needed a part that is down", reason=str(error))  # may name hosts and folders
        return answer_of(NotAnswered(503, "", "", "a part that this answer needs does not answer; try again"), {})

    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(NotAnswered, not_answered)
    app.add_exception_handler(Overloaded, overloaded)
    app.add_exception_handler(Unavailable, unavailable)


def answer_of(error: NotAnswered, allowed: Mapping[str, object]) -> Response:
    """The response for a refused request."""
    detail = [{"field": error.field, "came": error.came, "problem": str(error)}]
    headers = _RETRY if error.status in _COMES_AGAIN else None
    return JSONResponse({"detail": detail, "allowed": dict(allowed)}, error.status, headers)


def problem_of(error: Mapping[str, Any], known: Iterable[str]) -> dict[str, str]:
    """One error of pydantic in our format; an unknown name with the most similar of the *known* ones."""
    where = [str(part) for part in error["loc"]]
    field = ".".join(where[1:]) or where[0]
    came = "" if error["type"] == "missing" else f"{error.get('input')!s:.80}"
    return {"field": field[:80], "came": came, "problem": words_of(error, known)}


def words_of(error: Mapping[str, Any], known: Iterable[str]) -> str:
    """The problem in one error of pydantic; of an unknown name or value the most similar one that there is."""
    if error["type"] == "extra_forbidden":
        is_parameter = error["loc"][0] == "query"
        names = error.get("ctx", {}).get("names", [one for one in known if not (is_parameter and one in _IN_PATHS)])
        return f"unknown name; {help_for(str(error['loc'][-1]), names)}"
    if error["type"] == "enum":
        near = meant_by(str(error.get("input")), re.findall("'([^']+)'", error["ctx"]["expected"]))
        return f"{error['msg']}; did you mean {near!r}?" if near else str(error["msg"])
    return str(error["msg"])


def refused(error: BadInput, field: str = "", came: object = "") -> NotAnswered:
    """A 422: the request is invalid."""
    return NotAnswered(422, ".".join(filter(None, (field, error.field))), came, str(error))
