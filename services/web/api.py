"""The page's routes, their permissions, and its error page.

Requests from this machine (``NEARLINE_OPEN_TO``) need no key: the page uses the operator's key, and shows any user's
row to anyone who may open it. So requests from elsewhere need a key: ``read`` for the shop, ``events`` and ``read`` for
a click, which is answered with a row, ``admin`` for the events of a user and for the operator's page.
"""

from collections.abc import Iterable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from nearline.errors import BadInput, Unavailable
from nearline.guard import STATUS_RULES, RoutePermission
from nearline.keys import Permission
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
    routes = [*shop.routes(), *operator.routes(), Route("/static/{path:path}", assets.serve), *status]
    return WebSecurity(Starlette(routes=routes, exception_handlers=handlers), names)


def _problem_of(error: Exception) -> tuple[int, str]:
    if isinstance(error, BadInput):
        return (404 if error.reason == _NOT_FOUND else 422), str(error)
    if isinstance(error, HTTPException):
        return error.status_code, "There is no such page."
    return 503, f"A part of the system is down: {error}"
