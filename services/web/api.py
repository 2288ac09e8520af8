"""The page's routes, their permissions, and its error page.

Requests from this machine (``NEARLINE_OPEN_TO``) need no key: the page uses the operator's key, and shows any user's
row to anyone who may open it. So requests from elsewhere need a key: ``read`` for the shop, ``events`` and ``read`` for
a click, which is answered with a row, ``admin`` for the events of a user and for the operator's page.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from nearline.errors import BadInput, Unavailable
from nearline.guard import STATUS_RULES, RoutePermission
from nearline.keys import Permission
from nearline.query_names import meant_by
from services.web.assets import Assets
from services.web.operator_routes import OperatorRoutes
from services.web.shop_routes import ShopRoutes
from services.web.templating import PageTemplates
from services.web.web_security import WebSecurity

_READ = (
    "/", "/product/{item_id:path}", "/category/{category:path}", "/search", "/row", "/stream", "/static/{path:path}",
)  # fmt: skip
_OPERATOR = (
    "/used", "/why", "/operator", "/operator/stream", "/operator/users", "/operator/users/{of_user:path}",
    "/operator/items", "/operator/items/{item_id:path}", "/operator/letters", "/operator/rules",
)  # fmt: skip


def _get(path: str, scope: Permission) -> RoutePermission:
    return RoutePermission("GET", path, scope, is_stream=path.endswith("/stream"), near=True)


RULES = (
    *(_get(path, Permission.READ) for path in _READ),
    RoutePermission("POST", "/click", Permission.EVENTS, also=Permission.READ, near=True),
    RoutePermission("POST", "/measured", Permission.EVENTS, near=True),
    *(_get(path, Permission.ADMIN) for path in _OPERATOR),
    *(rule for rule in STATUS_RULES if rule.template in ("/healthz", "/readyz", "/metrics")),
)
_NOT_FOUND = "not_found"
# The parameters of pages that have any.
_PARAMETERS = {
    "/": ("user",),
    "/product/{item_id:path}": ("user",),
    "/category/{category:path}": ("user",),
    "/search": ("user", "q"),
    "/row": ("user", "as_of"),
    "/used": ("user", "newest"),
    "/why": ("user", "item"),
    "/stream": ("user",),
    "/operator/users": ("id",),
    "/operator/items": ("q",),
}


def create_app(
    shop: ShopRoutes,
    operator: OperatorRoutes,
    pages: PageTemplates,
    assets: Assets,
    status: Sequence[BaseRoute],
    *,
    names: Iterable[str] = (),
) -> WebSecurity:
    """The application; *status* are /healthz, /readyz and /metrics, *names* further host names of the page."""

    async def problem(request: Request, error: Exception) -> Response:
        status, words = _problem_of(error)
        if request.headers.get("hx-request") or request.method == "POST":
            return Response(words, status, media_type="text/plain")
        return pages.page("problem.html", {"words": words, "title": "Not here"}, status=status)

    handlers = dict.fromkeys((BadInput, Unavailable, HTTPException), problem)
    pages_of_ours = [_checked(route) for route in (*shop.routes(), *operator.routes())]
    routes = [*pages_of_ours, Route("/static/{path:path}", assets.serve), *status]
    return WebSecurity(Starlette(routes=routes, exception_handlers=handlers), names)


def _checked(route: Route) -> Route:
    """*route*, which refuses a misspelt parameter instead of answering without it."""
    names = _PARAMETERS.get(route.path)
    if names is None:
        return route
    serve: Callable[[Request], Awaitable[Response]] = route.endpoint

    async def endpoint(request: Request) -> Response:
        _refuse_misspelt(request.query_params, names)
        return await serve(request)

    return Route(route.path, endpoint, methods=route.methods, name=route.name)


def _refuse_misspelt(given: Mapping[str, str], names: Sequence[str]) -> None:
    """``BadInput`` for a name near one of *names* that is not given; others pass: links carry those of other tools."""
    missing = [name for name in names if name not in given]
    for name in given:
        near = None if name in names else meant_by(name, missing)
        if near is not None:
            raise BadInput("unknown_field", f"unknown parameter {name!r:.40}; did you mean {near!r}?", field=name[:40])


def _problem_of(error: Exception) -> tuple[int, str]:
    if isinstance(error, BadInput):
        return (404 if error.reason == _NOT_FOUND else 422), str(error)
    if isinstance(error, HTTPException):
        return error.status_code, "There is no such page."
    return 503, f"A part of the system is down: {error}"
