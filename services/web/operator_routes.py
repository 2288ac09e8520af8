"""The operator's pages: live figures, users with their history beside their answer, items, dead letters, rules."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from nearline.errors import NearlineError
from nearline.ids import check_id
from nearline.log import Record
from services.web.clicks import Clicks
from services.web.histories import now_ms
from services.web.letters import RuleList, about, by_reason, deed, letters_in, moment
from services.web.live_metrics import LiveMetrics
from services.web.shop import AnswerJson, Did, Shop
from services.web.templating import PageTemplates
from services.web.watching import Watchers

_ANSWERED = 20
_HISTORY = 50
_CLICKS = 12


@dataclass(frozen=True, slots=True)
class OperatorRoutes:
    """What the routes need; *letters* reads the newest records of the dead-letter topics."""

    shop: Shop
    pages: PageTemplates
    watchers: Watchers
    clicks: Clicks
    live: LiveMetrics
    rules: RuleList
    letters: Callable[[], Awaitable[list[Record]]]
    users: tuple[str, ...]

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/operator", self.overview),
            Route("/operator/stream", self.stream),
            Route("/operator/users", self.all_users),
            Route("/operator/users/{of_user:path}", self.one_user),
            Route("/operator/items", self.all_items),
            Route("/operator/items/{item_id:path}", self.one_item),
            Route("/operator/letters", self.dead_letters),
            Route("/operator/rules", self.all_rules),
        ]

    async def overview(self, request: Request) -> Response:
        """Charts of the last ten minutes, and the page's own clicks."""
        clicks = self.clicks.newest[:_CLICKS]
        items = await self.shop.items(click.item_id for click in clicks)
        rows = [(click, items[click.item_id]) for click in clicks]
        return self.pages.page("operator/overview.html", {"here": "overview", "clicks": rows})

    async def stream(self, request: Request) -> Response:
        """Server-sent events: ``history`` once, then a ``point`` for each reading."""
        return EventSourceResponse(self._points(), ping=15)

    async def _points(self) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(orjson.dumps(list(self.live.points)).decode(), event="history")
        while True:
            yield ServerSentEvent(orjson.dumps(await self.live.next()).decode(), event="point")

    async def all_users(self, request: Request) -> Response:
        """The most recently active users, and a form for any other."""
        if wanted := request.query_params.get("id", "").strip():
            return RedirectResponse(f"/operator/users/{quote(check_id('id', wanted), safe='')}", 303)
        shoppers = await self.shop.shoppers(self.users)
        values = {"here": "users", "recent": self.watchers.recent, "shoppers": shoppers}
        return self.pages.page("operator/users.html", values)

    async def one_user(self, request: Request) -> Response:
        """A user's history beside the user's answer."""
        user_id = check_id("user", request.path_params["of_user"])
        answer, known, profile, near = await asyncio.gather(
            self.shop.row(user_id, _ANSWERED),
            self.shop.known(user_id),
            self.shop.profile(user_id),
            self.shop.people(f"/users/{quote(user_id, safe='')}/similar"),
        )
        history = await self.shop.used(user_id, answer["newest_event_id"], _HISTORY)
        values = {"here": "users", "user": user_id, "answer": answer, "known": known, "profile": profile}
        shares = taste(history), taste_of_answer(answer)
        return self.pages.page("operator/user.html", values | {"near": near, "history": history, "shares": shares})

    async def all_items(self, request: Request) -> Response:
        """Items by words; without words, the most popular."""
        words = request.query_params.get("q", "")[:200]
        items = await (self.shop.search(words) if words.strip() else self.shop.trending(50))
        return self.pages.page("operator/items.html", {"here": "items", "items": items, "words": words})

    async def one_item(self, request: Request) -> Response:
        """An item, similar items, and the nearest users."""
        item_id = check_id("item", request.path_params["item_id"])
        item, similar, audience = await asyncio.gather(
            self.shop.item(item_id),
            self.shop.similar(item_id),
            self.shop.people(f"/items/{quote(item_id, safe='')}/audience"),
        )
        values = {"here": "items", "item": item, "similar": similar, "audience": audience}
        return self.pages.page("operator/item.html", values)

    async def dead_letters(self, request: Request) -> Response:
        """The newest refused records, with their reasons."""
        try:
            letters = letters_in(await self.letters())
            problem = ""
        except NearlineError as error:
            letters, problem = [], str(error)
        values = {"here": "letters", "letters": letters[:100], "counts": by_reason(letters), "problem": problem}
        return self.pages.page("operator/letters.html", values)

    async def all_rules(self, request: Request) -> Response:
        """All rules and scenarios."""
        rules = [
            (rule, deed(rule), about(rule), moment(rule.from_ms), moment(rule.until_ms), rule.holds_at(now_ms()))
            for rule in self.rules.rules
        ]
        return self.pages.page(
            "operator/rules.html", {"here": "rules", "rules": rules, "scenarios": self.rules.scenarios}
        )


def taste(history: list[Did]) -> list[tuple[str, int]]:
    """The number of events per category, highest first."""
    return _counted([did.category for did in history])


def taste_of_answer(answer: AnswerJson) -> list[tuple[str, int]]:
    """The number of the answer's items per category, highest first."""
    return _counted([item["category"] for item in answer["items"]])


def _counted(categories: list[str]) -> list[tuple[str, int]]:
    counts = {category or "none": categories.count(category) for category in dict.fromkeys(categories)}
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:6]
