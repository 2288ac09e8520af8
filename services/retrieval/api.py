"""The HTTP interface: ``GET /recommend/{user_id}``, its refusals, and the status routes.

Well-formed requests take the fast path (fast_path.py); all others go through FastAPI, so a refusal and the OpenAPI
document come from one declaration. Both call one ``Recommender``.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from nearline import api_page
from nearline.errors import BadInput
from nearline.filters import FilterError
from nearline.guard import STATUS_RULES, RoutePermission, describe, holder_of
from nearline.keys import Permission
from nearline.request_ids import request_id_of
from nearline.strict_routes import StrictRoute
from services.retrieval.fast_path import FastPath
from services.retrieval.merchandising.active_rules import RuleResolver
from services.retrieval.merchandising.rule_table import RuleTable
from services.retrieval.models import EXAMPLE, EXAMPLE_DEGRADED, EXAMPLE_UNKNOWN, Recommendations, Refused
from services.retrieval.pages import PageError
from services.retrieval.parameters import ALLOWED, RecommendQuery, check_filters
from services.retrieval.recommender import Recommender
from services.retrieval.routes.forms import UserId
from services.retrieval.routes.operator import OPERATOR_ALLOWED, OPERATOR_RULES, add_operator_routes
from services.retrieval.routes.reads import READ_RULES, Reads, add_reads, describe_reads
from services.retrieval.routes.refusals import NotAnswered, answer_of, words_of
from services.retrieval.spaces import Answering

# The permission that each route needs; a test refuses a route without a line here.
RULES = (
    RoutePermission("GET", "/recommend/{user_id:text}", Permission.READ),
    *READ_RULES,
    *OPERATOR_RULES,
    *STATUS_RULES,
)


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Recommendations},
    410: {"model": Refused, "description": "the page is older than 30 minutes, or its user or space is gone"},
    422: {"model": Refused},
    503: {
        "model": Refused,
        "description": "more requests than the process can answer, or its keys are not read yet; Retry-After says when "
        "to try again",
    },
}
_EXAMPLES = {
    "personal": {"value": EXAMPLE},
    "unknown user": {"value": EXAMPLE_UNKNOWN},
    "store down": {"value": EXAMPLE_DEGRADED},
}


def create_app(
    recommender: Recommender,
    status: Sequence[BaseRoute],
    reads: Reads,
    *,
    rules: RuleResolver | None = None,
    answers: Answering | None = None,
) -> ASGIApp:
    """The application; *status* are the routes /healthz, /readyz and /metrics, *reads* the parts behind routes/.

    *rules* are those of *recommender*; ``POST /rules/try`` compares them with others. *answers* replaces *recommender*
    for known users where several spaces are served.
    """
    answers = answers or recommender
    app = FastAPI(
        title="Nearline retrieval",
        version="1",
        description="Recommendations that use what a user did a moment ago.",
        docs_url=None,  # FastAPI's pages load their scripts from another host: nearline/api_page.py has ours
        redoc_url=None,
        exception_handlers={RequestValidationError: refuse, BadInput: refuse_what_is_not, HTTPException: refuse_route},
    )

    app.router.route_class = StrictRoute

    @app.get("/recommend/{user_id:text}", responses=_ANSWERS, summary="Items for a user")
    async def recommend(request: Request, user_id: UserId, query: Annotated[RecommendQuery, Query()]) -> Response:
        """At most *k* items, best first. Unknown users and outages get a fallback, named in *reason* and *source*."""
        check_filters(request.query_params.getlist("filter"))
        wanted = replace(query.request(), holder=holder_of(request.scope))
        body = await answers.answer(user_id, wanted, request_id_of(request.headers.raw))
        return Response(body, media_type="application/json")

    add_reads(app, reads, OPERATOR_ALLOWED)
    add_operator_routes(app, recommender, reads, rules or RuleResolver(RuleTable()))
    page = cache(lambda: api_page.html_of(app.openapi()))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page(), headers=api_page.HEADERS)

    app.router.routes.extend(status)
    document = app.openapi()
    describe_reads(document)
    describe(document, RULES)
    document["paths"]["/recommend/{user_id}"]["get"]["responses"]["200"]["content"]["application/json"] |= {
        "examples": _EXAMPLES  # put in here because FastAPI leaves every null out of an example
    }
    return FastPath(app, answers, refuse_what_is_not)


async def refuse(_: Request, error: Exception) -> Response:
    """The 422 for a malformed request."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [
        {"field": _field(problem), "came": _came(problem), "problem": words_of(problem, ALLOWED)}
        for problem in problems
    ]
    return JSONResponse({"detail": detail, "allowed": ALLOWED}, 422)


async def refuse_route(_: Request, error: Exception) -> Response:
    """The answer for an unknown route, and for a body that FastAPI could not read."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        return answer_of(NotAnswered(422, "body", "(not repeated here)", "expected JSON in UTF-8"), ALLOWED)
    refusal = answer_of(NotAnswered(error.status_code, "", "", str(error.detail)), {})
    refusal.headers.update(error.headers or {})
    return refusal


async def refuse_what_is_not(_: Request, error: Exception) -> Response:
    """The answer to a well-formed request that names something that does not exist, or no longer does."""
    assert isinstance(error, BadInput)
    problem: dict[str, str | int] = {"field": error.field, "came": "", "problem": str(error)}
    if isinstance(error, FilterError):
        problem |= {"field": "filter", "came": f"{error.expression:.80}", "position": error.position}
    elif isinstance(error, PageError):
        problem |= {"came": "(not repeated here)"}
    is_gone = isinstance(error, PageError) and error.is_gone
    return JSONResponse({"detail": [problem], "allowed": ALLOWED}, 410 if is_gone else 422)


def _field(problem: dict[str, Any]) -> str:
    """The parameter's name, without the position in the list if it is repeated."""
    return str(next(part for part in reversed(problem["loc"]) if isinstance(part, str)))


def _came(problem: dict[str, Any]) -> str:
    return f"{problem.get('input')!s:.80}"
