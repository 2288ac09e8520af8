"""The shop as the canary's users meet it: they click by POST /events and look by GET /recommend, as a page does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import orjson

from nearline.errors import Unavailable

_K = 10
_JSON = {"Content-Type": "application/json"}


class HttpService(Protocol):
    """What is needed of one of our services (nearline/adapters/api.py)."""

    def call(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True)
class RecommendedRow:
    """What the shop shows a user; *has_used* says whether it used the click that was asked for."""

    items: list[str]
    has_used: bool


class CanaryShop:
    """Clicks and rows; *key* gives the headers that let a request in, and is asked each time: keys change."""

    def __init__(self, ingest: HttpService, retrieval: HttpService, key: Callable[[], Mapping[str, str]]) -> None:
        self._ingest = ingest
        self._retrieval = retrieval
        self._key = key

    def click(self, user_id: str, item_id: str, event_id: str) -> None:
        """Send a synthetic click; ``Unavailable`` unless the log has it."""
        event = {"event_id": event_id, "user_id": user_id, "item_id": item_id, "type": "click", "synthetic": True}
        status, body = self._ingest.call("POST", "/events", {**self._key(), **_JSON}, orjson.dumps(event))
        if status != 200:
            raise Unavailable(f"POST /events answered {status}: {body[:200]!r}")

    def look(self, user_id: str, after: str = "", wait_ms: int = 0) -> RecommendedRow:
        """The user's row, made with the click *after* or *wait_ms* later; ``Unavailable`` if there is none.

        Items that were seen come too, or a user who never stops clicking would be shown nothing in the end.
        """
        named = f"&after={quote(after)}&wait_ms={wait_ms}" if after else ""
        path = f"/recommend/{quote(user_id, safe='')}?k={_K}&exclude_seen=none&fields=title{named}"
        status, body = self._retrieval.call("GET", path, self._key())
        if status != 200:
            raise Unavailable(f"GET /recommend answered {status}: {body[:200]!r}")
        answer = orjson.loads(body)
        return RecommendedRow([item["item_id"] for item in answer["items"]], answer.get("fresh") is True)
