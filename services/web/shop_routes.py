"""The shop's routes: pages, the fragments that a click changes, and the event stream of other changes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs, urlencode

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from nearline.errors import BadInput, NearlineError, Unavailable
from nearline.ids import check_id
from services.web.clicks import Click, Clicks
from services.web.histories import now_ms
from services.web.shop import AnswerJson, Clicked, Shop
from services.web.templating import PageTemplates, new_visitor
from services.web.watching import Watchers

MOST_BODY = 4_096
_REST_S = 0.05  # between two rows sent to one page: more would not be noticed
_PULSE_S = 2.0
_KINDS = ("view", "click", "add_to_cart", "purchase", "like", "dislike", "skip")


class SpokenFigures(Protocol):
    """The system's live figures (live_metrics.py)."""

    def words(self) -> Mapping[str, str]:
        """The figures on the shop's page, as text by name."""


@dataclass(frozen=True, slots=True)
class ShopRoutes:
    """What the routes need; *users* are those whose view the page offers."""

    shop: Shop
    pages: PageTemplates
    watchers: Watchers
    clicks: Clicks
    live: SpokenFigures
    users: tuple[str, ...]

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/", self.home),
            Route("/product/{item_id:path}", self.product),
            Route("/category/{category:path}", self.category),
            Route("/search", self.search),
            Route("/row", self.row),
            Route("/used", self.used),
            Route("/why", self.why),
            Route("/stream", self.stream),
            Route("/click", self.click, methods=["POST"]),
            Route("/measured", self.measured, methods=["POST"]),
        ]

    # --- pages

    async def home(self, request: Request) -> Response:
        """The shop; a request without a user is redirected to a new visitor."""
        if not request.query_params.get("user"):
            return RedirectResponse(f"/?{urlencode({'user': new_visitor()})}", 303)
        trending, latest = await asyncio.gather(self.shop.trending(), self.shop.latest(12))
        return await self._stage(request, "stage_home.html", trending=trending, latest=latest, title="")

    async def product(self, request: Request) -> Response:
        """One product and similar ones."""
        item_id = request.path_params["item_id"]
        item, similar = await asyncio.gather(self.shop.item(item_id), self.shop.similar(item_id))
        return await self._stage(request, "stage_product.html", item=item, similar=similar, title=item["title"])

    async def category(self, request: Request) -> Response:
        """The items of a category."""
        category = request.path_params["category"]
        items = await self.shop.shelf(category)
        return await self._stage(
            request, "stage_list.html", items=items, heading=category, empty="Nothing here yet.", title=category
        )

    async def search(self, request: Request) -> Response:
        """Items by words."""
        words = request.query_params.get("q", "")[:200]
        items = await self.shop.search(words)
        heading = f"“{words.strip()}”" if words.strip() else "Search"
        empty = f"Nothing has the words {heading}." if words.strip() else "Type what you are looking for."
        return await self._stage(request, "stage_list.html", items=items, heading=heading, empty=empty, title=words)

    # --- fragments

    async def row(self, request: Request) -> Response:
        """The row now, or (``as_of=yesterday``) without the events of the last day."""
        user_id = user_of(request)
        as_of = request.query_params.get("as_of", "now")
        if as_of not in ("now", "yesterday"):
            raise BadInput("bad_as_of", f"as_of must be now or yesterday, came {as_of!r:.40}", field="as_of")
        if as_of == "yesterday":
            before = await self.shop.before(user_id)
            values = {"user": user_id, "answer": before.answer, "before": before}
        else:
            values = {"user": user_id, "answer": await self.shop.row(user_id), "before": None}
        return self.pages.page("row.html", values)

    async def used(self, request: Request) -> Response:
        """The events that the newest answer used."""
        user_id = user_of(request)
        events = await self.shop.used(user_id, request.query_params.get("newest") or None)
        return self.pages.page("used.html", {"user": user_id, "events": events})

    async def why(self, request: Request) -> Response:
        """Why an item is in the row."""
        user_id, item_id = user_of(request), check_id("item", request.query_params.get("item"))
        found, item = await asyncio.gather(self.shop.why(user_id, item_id), self.shop.item(item_id))
        return self.pages.page("why.html", {"user": user_id, "found": found, "item": item})

    async def click(self, request: Request) -> Response:
        """Send the event; the answer is the row that used it, with the delays in ``Server-Timing``."""
        fields = await form(request)
        user_id, item_id = check_id("user", fields.get("user")), check_id("item", fields.get("item"))
        event_id, kind = check_id("event", fields.get("event")), fields.get("type", "click")
        if kind not in _KINDS:
            raise BadInput("unknown_type", f"type must be one of {', '.join(_KINDS)}, came {kind!r:.40}", field="type")
        clicked = await self.shop.click(user_id, item_id, event_id, kind=kind, request_id=fields.get("request", ""))
        used_ms = clicked.used_ms if clicked.is_used else None
        self.clicks.note(Click(event_id, user_id, item_id, now_ms(), clicked.logged_ms, used_ms))
        row = {"user": user_id, "answer": clicked.answer, "before": None}
        return self.pages.page("row.html", row, headers=timing(clicked))

    async def measured(self, request: Request) -> Response:
        """Record the delay of a click by the browser's clock."""
        try:
            measured = orjson.loads(await body(request))
            self.clicks.shown(str(measured["event"]), float(measured["ms"]))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise BadInput("bad_measurement", "expected an event and its milliseconds") from None
        return Response(status_code=204)

    async def stream(self, request: Request) -> Response:
        """Server-sent events: ``row`` when the user's row changed, ``pulse`` with the system's live figures."""
        return EventSourceResponse(self._changes(user_of(request)), ping=15)

    async def _changes(self, user_id: str) -> AsyncIterator[ServerSentEvent]:
        with self.watchers.on(user_id) as changed:
            while True:
                yield ServerSentEvent(self.pages.text("pulse.html", figures=self.live.words()), event="pulse")
                if await heard(changed, _PULSE_S):
                    changed.clear()
                    row = await self._row_text(user_id)
                    if row is not None:
                        yield ServerSentEvent(row, event="row")
                    await asyncio.sleep(_REST_S)

    async def _row_text(self, user_id: str) -> str | None:
        try:
            answer = await self.shop.row(user_id)
        except NearlineError:
            return None  # the next change sends a row again
        return self.pages.text("row.html", user=user_id, answer=answer, before=None)

    async def _stage(self, request: Request, template: str, **values: Any) -> Response:
        """Only the stage for an htmx request, else the whole page."""
        user_id = user_of(request)
        values |= {"user": user_id}
        if request.headers.get("hx-request") and not request.headers.get("hx-history-restore-request"):
            return self.pages.page(template, values)
        row, categories, shoppers = await asyncio.gather(
            or_none(self.shop.row(user_id)), self.shop.categories(), self.shop.shoppers(self.users)
        )
        whole = {"stage": template, "answer": row, "before": None, "categories": categories, "shoppers": shoppers}
        return self.pages.page("shop.html", values | whole | {"figures": self.live.words()})


async def heard(changed: asyncio.Event, timeout_s: float) -> bool:
    """Whether *changed* was set within *timeout_s*."""
    try:
        await asyncio.wait_for(changed.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


async def or_none(asked: Awaitable[AnswerJson]) -> AnswerJson | None:
    """The result of *asked*; ``None`` if it is unavailable."""
    try:
        return await asked
    except Unavailable:
        return None


def user_of(request: Request) -> str:
    """The user of the page; ``BadInput`` if the id is invalid."""
    if "user" not in request.query_params:
        raise BadInput("missing_field", "the address names no user; add ?user= and the user's id", field="user")
    return check_id("user", request.query_params["user"])


async def body(request: Request) -> bytes:
    """The request's body; ``BadInput`` if it is longer than ``MOST_BODY``."""
    whole = b""
    async for part in request.stream():
        whole += part
        if len(whole) > MOST_BODY:
            raise BadInput("too_long", f"expected at most {MOST_BODY} bytes")
    return whole


async def form(request: Request) -> dict[str, str]:
    """The fields of a form; of a repeated field the last value."""
    fields = parse_qs((await body(request)).decode(errors="replace"), max_num_fields=20)
    return {name: values[-1] for name, values in fields.items()}


def timing(clicked: Clicked) -> dict[str, str]:
    """The click's delays as a ``Server-Timing`` header: until it was in the log, and until an answer had used it."""
    used = f', used;dur={clicked.used_ms:.1f};desc="until an answer used it"' if clicked.is_used else ""
    return {"Server-Timing": f'log;dur={clicked.logged_ms:.1f};desc="until the log had it"{used}'}
