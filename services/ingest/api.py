"""The HTTP API: its routes, their permissions, and their OpenAPI document."""

import time
from collections.abc import Callable, Sequence
from functools import cache

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from nearline import api_page
from nearline.errors import NearlineError
from nearline.guard import STATUS_RULES, RoutePermission, describe
from nearline.keys import Permission
from nearline.strict_routes import StrictRoute
from nearline.tracing import ClickTraces
from services.ingest.appender import Appender
from services.ingest.bodies import Bounds, Room
from services.ingest.catalogue_editor import CatalogueEditor
from services.ingest.event_routes import add_events
from services.ingest.http_io import hung_up, refuse, refuse_parameters, refuse_route
from services.ingest.item_routes import add_items
from services.ingest.schemas import EventIn, EventOfMerge, ItemIn, ItemOfBatch, ItemPatch, MergeIn, ProfileIn
from services.ingest.user_editor import UserEditor
from services.ingest.user_routes import add_users

RULES = (
    RoutePermission("POST", "/events", Permission.EVENTS, own=True),
    RoutePermission("POST", "/items", Permission.ITEMS),
    *(
        RoutePermission(method, "/items/{item_id:text}", Permission.ITEMS)
        for method in ("GET", "PUT", "PATCH", "DELETE")
    ),
    RoutePermission("POST", "/users/{user_id:text}/merge", Permission.ADMIN),
    # Before the user's own route: an id may hold slashes.
    RoutePermission("DELETE", "/users/{user_id:text}/events/{event_id:text}", Permission.ADMIN),
    RoutePermission("GET", "/users/{user_id:text}", Permission.READ),
    *(RoutePermission(method, "/users/{user_id:text}", Permission.ADMIN) for method in ("PUT", "DELETE")),
    *STATUS_RULES,
)
_BODIES = (EventIn, EventOfMerge, ItemIn, ItemOfBatch, ItemPatch, MergeIn, ProfileIn)


def create_api(
    events: Appender,
    catalogue: CatalogueEditor,
    users: UserEditor,
    status: Sequence[BaseRoute],
    bounds: Bounds | None = None,
    *,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    traces: ClickTraces | None = None,
) -> FastAPI:
    """Build the application; *status* are /healthz, /readyz and /metrics, *traces* begins clicks' traces."""
    app = FastAPI(
        title="Nearline ingest",
        version="1",
        description="Accepts events, items and users: checks them and answers once they are in the log.",
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load their scripts from another host: nearline/api_page.py has ours
        redoc_url=None,
        exception_handlers={
            NearlineError: refuse,
            HTTPException: refuse_route,
            RequestValidationError: refuse_parameters,
            ClientDisconnect: hung_up,
        },
    )
    app.router.route_class = StrictRoute
    room = Room(bounds or Bounds())
    add_events(app, room, events, catalogue, now_ms, traces)
    add_items(app, room, catalogue)
    add_users(app, room, users, now_ms)
    page = cache(lambda: api_page.html_of(app.openapi()))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page(), headers=api_page.HEADERS)

    app.router.routes.extend(status)
    _describe_bodies(app)
    describe(app.openapi(), RULES)
    return app


def _describe_bodies(app: FastAPI) -> None:
    """Add the bodies' schemas to the document: FastAPI adds only those that it validates itself."""
    modes = [(model, "validation") for model in _BODIES]
    _, found = models_json_schema(modes, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    app.openapi()["components"]["schemas"] |= found["$defs"]
