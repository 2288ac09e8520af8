"""Renders the templates, with filters for times, prices and reasons."""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from services.web.assets import Assets
from services.web.histories import now_ms
from services.web.pictures import picture

TEMPLATES = Path(__file__).parent / "templates"
VISITOR = "visitor-"
_STEPS = ((60_000, 1_000, "s"), (3_600_000, 60_000, "min"), (172_800_000, 3_600_000, "h"))
_DAY_MS = 86_400_000
_SOURCES = {
    "personal": "for you",
    "trending": "popular",
    "trending_category": "popular in your categories",
    "newest": "new",
    "exploration": "something new",
    "pinned": "pinned",
}
_TYPES = {
    "view": "viewed",
    "click": "clicked",
    "add_to_cart": "put in the basket",
    "purchase": "bought",
    "like": "liked",
    "dislike": "disliked",
    "skip": "skipped",
}
_REASONS = {
    "unknown_user": "nothing is known about this visitor yet: these items are popular now",
    "no_vector": "this visitor has no vector yet: these items are popular now",
    "store_unavailable": "the user store is down: these items are popular now",
    "bad_document": "this user's document cannot be read: these items are popular now",
    "index_unavailable": "the index is down: these items are popular now",
    "too_few_candidates": "there are not enough items that fit: popular ones fill the row",
    "tower_unavailable": "the user tower is down: these items are popular in the categories of these events",
}
_CAUSES = {
    "unknown_item": "retrieval does not know this item",
    "not_on_show": "the item is not available",
    "blocked": "a rule blocks it",
    "seen": "this user has seen it",
    "filtered": "it does not pass the filter",
    "below": "other items are nearer",
}


class PageTemplates:
    """Renders the templates; *currency* stands before prices."""

    def __init__(self, assets: Assets, *, currency: str = "", wall_ms: Callable[[], int] = now_ms) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {
            "asset": assets.url,
            "picture": self._picture,
            "product_url": lambda item_id, user: _url("/product/", item_id, user=user),
            "category_url": lambda category, user: _url("/category/", category, user=user),
            "user_url": lambda user_id: f"/operator/users/{quote(user_id, safe='')}",
            "query": lambda **params: urlencode(params),
        }
        self._environment.filters |= {
            "name": name_of,
            "price": lambda price: "" if price is None else f"{currency}{price:,.2f}",
            "ago": lambda ms: ago(wall_ms() - ms),
            "duration": ago,
            "ms": milliseconds,
            "source": lambda source: _SOURCES.get(source, source),
            "did": lambda kind: _TYPES.get(kind, kind),
            "reason": lambda reason: _REASONS.get(reason, reason),
            "cause": lambda cause: _CAUSES.get(cause, cause),
            "shopper": shopper_name,
            "digest": lambda text: f"{text:.14}…" if len(text) > 16 else text,
        }

    def _picture(self, item: Any) -> Markup:
        """The picture of an item or an event's item; our own SVG, so it needs no escaping."""
        item_id, category, title = (self._environment.getattr(item, name) for name in ("item_id", "category", "title"))
        return Markup(picture(item_id, category, title))

    def text(self, template: str, **values: Any) -> str:
        """The template with *values*, as text."""
        return self._environment.get_template(template).render(**values)

    def page(
        self, template: str, values: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> HTMLResponse:
        """The template with *values* as a response; not cached, because it is for one user at one time."""
        kept = {"Cache-Control": "no-store", "Vary": "HX-Request", **(headers or {})}
        return HTMLResponse(self.text(template, **values), status, headers=kept)


def new_visitor() -> str:
    """A random id for a new visitor."""
    return VISITOR + uuid.uuid4().hex[:10]


def shopper_name(user_id: str) -> str:
    """The name of a user on the page."""
    return "New visitor" if user_id.startswith(VISITOR) else f"Shopper {user_id}"


def name_of(title: str) -> str:
    """A title for display: one in capitals is put in lower case."""
    return title.capitalize() if title.isupper() else title


def ago(ms: float) -> str:
    """A duration in one unit: 3 s, 12 min, 5 h, 40 days."""
    for below, unit, name in _STEPS:
        if ms < below:
            return f"{max(0, ms) // unit:.0f} {name}"
    days = int(ms // _DAY_MS)
    return f"{days:,} days"


def milliseconds(seconds: float | None) -> str:
    """A duration as text: 0.62 ms, 18 ms, 1.2 s; a dash if it is unknown."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    ms = seconds * 1000
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2g} ms"


def _url(path: str, id_: str, *, user: str) -> str:
    return f"{path}{quote(id_, safe='')}?{urlencode({'user': user})}"
