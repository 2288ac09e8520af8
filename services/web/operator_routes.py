"""The operator's pages."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.web.shop import Shop
from services.web.showing import Pages


@dataclass(frozen=True, slots=True)
class OperatorRoutes:
    """What the routes need."""

    shop: Shop
    pages: Pages

    def routes(self) -> list[Route]:
        """All of them."""
        return []
