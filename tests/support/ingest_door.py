"""The ingest service over a log in memory, and a client that needs no network."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import httpx

from nearline.adapters.http import status_routes
from nearline.items import decode_item
from nearline.profiles import decode_profile
from nearline.topics import CLICKS, ITEMS, USERS
from nearline.tracing import ClickTraces
from services.ingest.api import create_api
from services.ingest.appender import Appender
from services.ingest.bodies import Bounds
from services.ingest.catalogue_editor import CatalogueEditor
from services.ingest.request_log import RequestLog
from services.ingest.table_view import TableView
from services.ingest.user_editor import UserEditor
from tests.support.fakes import Outbox

NOW_MS = 1_800_000_000_000
CLICK = {"user_id": "u", "item_id": "i", "type": "click"}
LAMP = {"title": "RED RETRO LAMP", "price": 12.5, "attributes": {"colour": "red", "watts": 40}}


class Door:
    """A whole ingest service but for Kafka and the socket; ``is_read`` says whether its tables were read."""

    def __init__(
        self,
        bounds: Bounds | None = None,
        *,
        now_ms: Callable[[], int] = lambda: NOW_MS,
        traces: ClickTraces | None = None,
    ) -> None:
        self.outbox = Outbox()
        self.is_read = True
        self.listing = TableView(ITEMS, decode_item)
        self.profiles = TableView(USERS, decode_profile)
        items, profiles, events = (Appender(topic, self.outbox) for topic in (ITEMS, USERS, CLICKS))
        catalogue = CatalogueEditor(self.listing, items, is_read=lambda: self.is_read, turn_s=0.2)
        users = UserEditor(self.profiles, profiles, events, is_read=lambda: self.is_read)
        status = status_routes(lambda: {"items": self.is_read})
        self.api = create_api(events, catalogue, users, status, bounds, now_ms=now_ms, traces=traces)
        self.app = RequestLog(self.api)

    async def ask(self, method: str, target: str, json: Any = None, **more: Any) -> httpx.Response:
        """One request and its answer."""
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            return await client.request(method, target, json=json, **more)

    async def send(self, events: Any, **more: Any) -> httpx.Response:
        """``POST /events``."""
        return await self.ask("POST", "/events", events, **more)

    async def item(self, method: str, item_id: str, json: Any = None, **more: Any) -> httpx.Response:
        """A request to an item's route, its id escaped whole."""
        return await self.ask(method, f"/items/{quote(item_id, safe='')}", json, **more)

    async def user(self, method: str, user_id: str, json: Any = None, more: str = "", **others: Any) -> httpx.Response:
        """A request to a user's route, its id escaped whole; *more* comes after it as it is."""
        return await self.ask(method, f"/users/{quote(user_id, safe='')}{more}", json, **others)

    @property
    def clicks(self) -> list[tuple[bytes, bytes | None]]:
        """What is in the log's topic of events."""
        return self.outbox.sent.get(CLICKS, [])

    @property
    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """What is in the log's topic of items."""
        return self.outbox.sent.get(ITEMS, [])

    @property
    def told(self) -> list[tuple[bytes, bytes | None]]:
        """What is in the log's topic of profiles."""
        return self.outbox.sent.get(USERS, [])

    def come_back(self, start: int = 0) -> None:
        """Let the catalogue's follower read what the log holds from *start* on."""
        self.listing.apply(self.outbox.records(ITEMS)[start:])


async def in_pieces(*pieces: bytes, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    """A body that arrives in pieces, with a pause before each but the first."""
    for number, piece in enumerate(pieces):
        if number and pause_s:
            await asyncio.sleep(pause_s)
        yield piece
