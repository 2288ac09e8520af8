"""What is said when a route gives no answer: always the field, what came, what was expected, and what is allowed."""

import difflib
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from nearline.errors import BadInput, Overloaded, Unavailable
from nearline.telemetry import get_logger

_RETRY = {"retry-after": "1"}
_COMES_AGAIN = (429, 503)


class NotAnswered(Exception):
    """A request that gets no answer; *field* is what it was about, *came* what stood there."""

    def __init__(self, status: int, field: str, came: object, problem: str) -> None:
        super().__init__(problem)
        self.status = status
        self.field = field
        self.came = f"{came!s:.80}"


def not_known(field: str, came: str, problem: str) -> NotAnswered:
    """What a path names is not there."""
    return NotAnswered(404, field, came, problem)


def not_here(what: str, instead: str) -> NotAnswered:
    """This process was put together without what it takes; *instead* says what to do."""
    return NotAnswered(501, "", "", f"{what} is not served here: {instead}")


def refuse_with(app: FastAPI, allowed: Mapping[str, Mapping[str, str]]) -> None:
    """Have *app* answer for the routes that *allowed* knows, by path; *allowed* says what each parameter may be."""
    others: Any = app.exception_handlers.get(RequestValidationError)

    def said_of(request: Request) -> Mapping[str, str] | None:
        return allowed.get(getattr(request.scope.get("route"), "path", ""))

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        known = said_of(request)
        if known is None:
            answer: Response = await others(request, error)
            return answer
        detail = [problem_of(one, known) for one in error.errors()]
        return JSONResponse({"detail": detail, "allowed": dict(known)}, 422)

    async def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, NotAnswered)
        return answer_of(error, said_of(request) or {})

    async def overloaded(_: Request, error: Exception) -> Response:
        return answer_of(NotAnswered(429, "", "", str(error)), {})

    async def unavailable(_: Request, error: Exception) -> Response:
        get_logger().warning("a request found a part away", reason=str(error))  # which may name hosts and folders
        return answer_of(NotAnswered(503, "", "", "a part that this answer needs does not answer; come again"), {})

    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(NotAnswered, told)
    app.add_exception_handler(Overloaded, overloaded)
    app.add_exception_handler(Unavailable, unavailable)


def answer_of(error: NotAnswered, allowed: Mapping[str, object]) -> Response:
    """The answer that says why there is none."""
    detail = [{"field": error.field, "came": error.came, "problem": str(error)}]
    headers = _RETRY if error.status in _COMES_AGAIN else None
    return JSONResponse({"detail": detail, "allowed": dict(allowed)}, error.status, headers)


def problem_of(error: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """One thing that pydantic found, in our words; an unknown name with the nearest of the *known* ones."""
    where = [str(part) for part in error["loc"]]
    field = ".".join(where[1:]) or where[0]
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], list(known), n=1)
        guess = f"did you mean {near[0]!r}?" if near else f"names are {', '.join(known)}"
        return {"field": field[:80], "came": f"{error.get('input')!s:.80}", "problem": f"unknown name; {guess}"}
    came = "" if error["type"] == "missing" else f"{error.get('input')!s:.80}"
    return {"field": field[:80], "came": came, "problem": str(error["msg"])}


def refused(error: BadInput, field: str = "", came: object = "") -> NotAnswered:
    """A request that can never be answered as it is."""
    return NotAnswered(422, ".".join(filter(None, (field, error.field))), came, str(error))
