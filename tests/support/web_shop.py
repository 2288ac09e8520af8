"""The page over a shop in memory: retrieval and ingest as one object that remembers what it was asked."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import httpx

from nearline.adapters.http import status_routes
from nearline.errors import BadInput, Unavailable
from nearline.live import MetricsPages
from nearline.log import Record
from nearline.sequences import UserSequence, encode_sequence
from services.web.api import create_app
from services.web.assets import Assets
from services.web.clicks import Clicks
from services.web.histories import SequenceCache
from services.web.letters import RuleList
from services.web.live_metrics import LiveMetrics
from services.web.operator_routes import OperatorRoutes
from services.web.shop import Shop
from services.web.shop_routes import ShopRoutes
from services.web.templating import PageTemplates
from services.web.watching import Watchers

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
ADDRESS = "http://127.0.0.1:8090"
USER = "17850"


def item(item_id: str, title: str, category: str, price: float | None = 2.5) -> dict[str, Any]:
    """An item as retrieval shows it."""
    return {"item_id": item_id, "title": title, "category": category, "price": price, "brand": "", "locale": "en",
            "listed_ms": NOW_MS, "attributes": {}, "score": 0.5}  # fmt: skip


ITEMS = [
    item("1", "RED SPOTTY MUG", "tableware"),
    item("2", "BLUE LAMP", "lighting"),
    item("3", "PINK HEART BUNTING", "decorations"),
    item("4", '<b>bold</b> & "quoted"', "stationery"),
    item("a/b c", "JAR WITH AN ODD ID", "storage", None),
]


class MemoryShop:
    """Retrieval and ingest: an event is used by the next answer, unless *is_slow*; *is_away* answers nothing,
    and *is_store_away* nothing about a user."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Mapping[str, Any], Any]] = []
        self.events: list[dict[str, Any]] = []
        self.is_away = False
        self.is_store_away = False
        self.is_slow = False
        self.users = {USER: {"user_id": USER, "has_vector": True, "vector_version": 7, "history_version": 7,
                             "newest_event_id": "e-1", "as_of_ms": NOW_MS, "stored_ms": NOW_MS, "events": 3, "seen": 2,
                             "purchased": 1, "categories": ["lighting", "storage"]}}  # fmt: skip

    async def ask(
        self, service: Any, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        self.asked.append((method, path, dict(params or {}), body))
        if self.is_away:
            raise Unavailable(f"{service} gave no answer")
        head, _, rest = path.removeprefix("/").partition("/")
        if (method, path) == ("POST", "/events"):
            return self._take(body)
        if (method, path) == ("POST", "/recommend"):
            seen = {event["item_id"] for event in body["events"]}
            return self._answer(seen, None, len(body["events"]))
        if (method, path) == ("POST", "/why"):
            return self._why(body)
        if head == "recommend":
            return self._recommend(unquote(rest), dict(params or {}))
        if head == "items" and service == "ingest":
            found = next((each for each in ITEMS if each["item_id"] == unquote(rest)), None)
            if found is None:
                raise BadInput("not_found", f"there is no item {unquote(rest)!r}")
            return {"item_id": found["item_id"], "version": 1, "item": {**found, "description": "well made"}}
        if head == "users" and self.is_store_away:
            raise Unavailable(f"{service} answered 503: the store is away")
        if head == "users":
            return self._user(service, unquote(rest))
        if path.endswith("/audience"):
            return {"users": [{"user_id": USER, "score": 0.9, "vector_version": 7, "as_of_ms": NOW_MS}]}
        category = (params or {}).get("category")
        return {"items": [each for each in ITEMS if category in (None, each["category"])]}

    def _take(self, event: dict[str, Any]) -> Any:
        if event["item_id"] == "refused":
            problem = {"status": "refused", "event_id": None, "field": "item_id", "reason": "bad", "problem": "no such"}
            return {"accepted": 0, "refused": 1, "results": [problem]}
        self.events.append(event)
        return {"accepted": 1, "refused": 0, "results": [{"status": "accepted", "event_id": event["event_id"]}]}

    def _recommend(self, user_id: str, params: dict[str, Any]) -> Any:
        mine = [event for event in self.events if event["user_id"] == user_id and not self.is_slow]
        answer = self._answer({event["item_id"] for event in mine}, mine[-1]["event_id"] if mine else None, len(mine))
        if "after" in params:
            answer["fresh"] = any(event["event_id"] == params["after"] for event in mine)
        return {**answer, "user_id": user_id}

    def _answer(self, seen: set[str], newest: str | None, version: int) -> dict[str, Any]:
        source, reason = ("personal", None) if seen else ("trending", "unknown_user")
        items = [each | {"source": source} for each in ITEMS if each["item_id"] not in seen]
        return {"user_id": None, "space": 1, "vector_version": version or None, "history_version": version or None,
                "newest_event_id": newest, "as_of_ms": NOW_MS, "age_ms": 41 if newest else None, "seen": "known",
                "degraded": False, "reason": reason, "degradations": [], "steps": [], "rules": [], "took_ms": 0.62,
                "request_id": f"r-{version}", "items": items}  # fmt: skip

    def _why(self, body: dict[str, Any]) -> Any:
        moved = [{"event_id": "e-1", "item_id": "2", "type": "click", "time_ms": NOW_MS, "moved": 0.0123}]
        told = moved if body.get("sequence") else None
        return {"user_id": body["user_id"], "item_id": body["item_id"], "place": 2, "source": "personal", "rules": [],
                "score": 0.71, "absent": None, "events": told, "untold": None if told else "no events were given",
                "is_current": True}  # fmt: skip

    def _user(self, service: str, rest: str) -> Any:
        if rest.endswith("/similar"):
            return {"users": []}
        if service == "ingest" or rest not in self.users:
            raise BadInput("not_found", "nothing is known of that user")
        return self.users[rest]


def history(*events: tuple[str, str, int], user_id: str = USER) -> UserSequence:
    """A sequence of (event id, item id, hours ago), oldest first."""
    return UserSequence(
        user_id,
        7,
        [item_id for _, item_id, _ in events],
        [NOW_MS - ago * HOUR_MS for _, _, ago in events],
        ["click" for _ in events],
        [1.0 for _ in events],
        [event_id for event_id, _, _ in events],
    )


class Page:
    """The whole page but for Kafka and the socket."""

    def __init__(self, **sequences: UserSequence) -> None:
        self.api = MemoryShop()
        self.looked_for: list[str] = []
        self.letters: list[Record] = []
        self.letters_of = self._letters
        self.rules = RuleList()
        self.watchers = Watchers()
        self.clicks = Clicks()
        self.metrics: MetricsPages = {}
        self._sequences = {name.removeprefix("u"): encode_sequence(value) for name, value in sequences.items()}
        self.histories = SequenceCache(self._find)
        self.shop = Shop(self.api, self.histories, wall_ms=lambda: NOW_MS)
        self.live = LiveMetrics(self._read, wall_ms=lambda: NOW_MS)
        assets = Assets()
        pages = PageTemplates(assets, currency="£", wall_ms=lambda: NOW_MS)
        users = (USER, "nobody")
        self.shop_routes = ShopRoutes(self.shop, pages, self.watchers, self.clicks, self.live, users)
        self.operator_routes = OperatorRoutes(
            self.shop, pages, self.watchers, self.clicks, self.live, self.rules, lambda: self.letters_of(), users
        )
        status = status_routes(lambda: {"all": True})
        self.app = create_app(self.shop_routes, self.operator_routes, pages, assets, status, names=("shop.example",))

    async def _find(self, user_id: str) -> bytes | None:
        self.looked_for.append(user_id)
        return self._sequences.get(user_id)

    async def _letters(self) -> list[Record]:
        return self.letters

    async def _read(self) -> MetricsPages:
        return self.metrics

    def ask(self, method: str, target: str, **given: Any) -> httpx.Response:
        """One request and its answer."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as client:
                return await client.request(method, target, **given)

        return asyncio.run(asked())

    def get(self, target: str, **given: Any) -> httpx.Response:
        """One GET."""
        return self.ask("GET", target, **given)

    def click(self, item_id: str = "2", event_id: str = "web-1", user: str = USER, **more: str) -> httpx.Response:
        """One click."""
        return self.ask("POST", "/click", data={"user": user, "item": item_id, "event": event_id, **more})
