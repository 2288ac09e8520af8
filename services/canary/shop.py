"""The canary's calls: clicks with POST /events and reads with GET /recommend, as a web page does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import orjson

from nearline.errors import Unavailable

_K = 10
_JSON = {"Content-Type": "application/json"}


class HttpService(Protocol):
    """One of our services (nearline/adapters/api.py), as the canary needs it."""

    def call(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True)
class RecommendedRow:
    """A user's recommendations; *has_used* says whether they used the requested click."""

    items: list[str]
    has_used: bool


class CanaryShop:
    """Sends clicks and reads rows; *key* returns the headers with the key, called each time because keys change."""

    def __init__(self, ingest: HttpService, retrieval: HttpService, key: Callable[[], Mapping[str, str]]) -> None:
        self._ingest = ingest
        self._retrieval = retrieval
        self._key = key

    def click(self, user_id: str, item_id: str, event_id: str) -> None:
        """Send a synthetic click; ``Unavailable`` unless it is in the log."""
        event = {"event_id": event_id, "user_id": user_id, "item_id": item_id, "type": "click", "synthetic": True}
        status, body = self._ingest.call("POST", "/events", {**self._key(), **_JSON}, orjson.dumps(event))
        if status != 200:
            raise Unavailable(f"POST /events answered {status}: {body[:200]!r}")

    def look(self, user_id: str, after: str = "", wait_ms: int = 0) -> RecommendedRow:
        """The user's row, once it used the click *after* or *wait_ms* have passed; ``Unavailable`` without an answer.

        Seen items are included: otherwise a user that clicks for ever would get no items in the end.
        """
        named = f"&after={quote(after)}&wait_ms={wait_ms}" if after else ""
        path = f"/recommend/{quote(user_id, safe='')}?k={_K}&exclude_seen=none&fields=title{named}"
        status, body = self._retrieval.call("GET", path, self._key())
        if status != 200:
            raise Unavailable(f"GET /recommend answered {status}: {body[:200]!r}")
        answer = orjson.loads(body)
        return RecommendedRow([item["item_id"] for item in answer["items"]], answer.get("fresh") is True)
