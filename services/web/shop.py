"""The shop's data, from retrieval and ingest: rows, lists, products, clicks and the answers that used them."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from nearline.errors import BadInput, NearlineError, Unavailable
from nearline.sequences import UserSequence
from services.web.histories import SequenceCache, now_ms, session_events, until

OTHER = "other"  # the catalogue's category for all other items, listed last
DAY_MS = 24 * 3600 * 1000
ROW_SIZE = 12
LIST_SIZE = 24
_MAX_WAIT_MS = 2_000  # for the answer to a click; a later answer reaches the page by its event stream
_MOST_ITEMS = 20_000  # whose fields are cached
_CATEGORIES_S = 60.0
_FROM_EACH_LIST = 500

AnswerJson = dict[str, Any]
ItemJson = Mapping[str, Any]


class ShopApi(Protocol):
    """Retrieval and ingest (nearline/adapters/services.py)."""

    async def ask(
        self, service: Any, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        """The answer; ``BadInput`` if the request is refused, ``Unavailable`` if the service is down."""


@dataclass(frozen=True, slots=True)
class Clicked:
    """The outcome of a click: *answer* is the first that used it; *is_used* is false if that took too long."""

    event_id: str
    answer: AnswerJson
    is_used: bool
    logged_ms: float  # until the log had it
    used_ms: float  # until the answer was there


@dataclass(frozen=True, slots=True)
class Did:
    """An event of a user's history with its item; *is_used* says whether the answer used it."""

    event_id: str
    item_id: str
    title: str
    category: str
    type: str
    time_ms: int
    is_used: bool


@dataclass(frozen=True, slots=True)
class Before:
    """The row without the newest events, which are *left_out*."""

    answer: AnswerJson
    left_out: list[Did]
    used: int


@dataclass(frozen=True, slots=True)
class Shopper:
    """A user whose view the page offers, with favourite categories."""

    user_id: str
    likes: tuple[str, ...]
    events: int


class Shop:
    """The shop of one catalogue; *clock* measures delays in seconds."""

    def __init__(
        self,
        api: ShopApi,
        histories: SequenceCache,
        *,
        wall_ms: Callable[[], int] = now_ms,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._api = api
        self._histories = histories
        self._wall_ms = wall_ms
        self._clock = clock
        self._items: OrderedDict[str, ItemJson] = OrderedDict()
        self._categories: tuple[float, list[str]] = (-_CATEGORIES_S, [])

    # --- the row

    async def row(self, user_id: str, k: int = ROW_SIZE, **params: Any) -> AnswerJson:
        """The user's recommendations now."""
        answer: AnswerJson = await self._get(f"/recommend/{_id(user_id)}", k=k, **params)
        self._remember(answer["items"])
        return answer

    async def click(
        self, user_id: str, item_id: str, event_id: str, *, kind: str = "click", request_id: str = ""
    ) -> Clicked:
        """Send the event, and wait for the answer that used it."""
        event = {"event_id": event_id, "user_id": user_id, "item_id": item_id, "type": kind}
        if request_id:
            event["request_id"] = request_id
        started = self._clock()
        results = await self._api.ask("ingest", "POST", "/events", body=event)
        _refuse_refused(results["results"][0])
        logged_ms = (self._clock() - started) * 1000
        answer = await self.row(user_id, after=event_id, wait_ms=_MAX_WAIT_MS)
        used_ms = (self._clock() - started) * 1000
        return Clicked(event_id, answer, bool(answer.get("fresh")), logged_ms, used_ms)

    async def before(self, user_id: str, ms: int = DAY_MS) -> Before:
        """The row without the user's events of the last *ms*: the older events, sent as an anonymous session."""
        sequence = await self._histories.of(user_id)
        end_ms = self._wall_ms() - ms
        older = None if sequence is None else until(sequence, end_ms)
        events = [] if older is None else session_events(older)
        answer = await self._api.ask("retrieval", "POST", "/recommend", body={"events": events, "k": ROW_SIZE})
        self._remember(answer["items"])
        newer = [] if sequence is None else await self._events(sequence, len(events), set())
        return Before(answer, newer[::-1], len(events))

    async def used(self, user_id: str, newest_event_id: str | None, most: int = 12) -> list[Did]:
        """The user's newest events, newest first, and which of them an answer with *newest_event_id* used."""
        sequence = await self._histories.of(user_id)
        if sequence is None:
            return []
        ids = sequence.event_ids
        used = set(ids[: ids.index(newest_event_id) + 1]) if newest_event_id in ids else set()
        return (await self._events(sequence, max(0, len(ids) - most), used))[::-1]

    async def why(self, user_id: str, item_id: str, k: int = ROW_SIZE) -> dict[str, Any]:
        """Why the item is in the row, with the effect of each event on its score, largest first, and its item."""
        sequence = await self._histories.of(user_id)
        body: dict[str, Any] = {"user_id": user_id, "item_id": item_id, "k": k}
        if sequence is not None:
            body["sequence"] = _record(sequence)
        found: dict[str, Any] = await self._api.ask("retrieval", "POST", "/why", body=body)
        moved = (found["events"] or [])[:5]
        about = await self.items(each["item_id"] for each in moved)
        return found | {"moved": [each | {"item": about[each["item_id"]]} for each in moved]}

    # --- the shelves

    async def trending(self, k: int = LIST_SIZE, category: str | None = None) -> list[ItemJson]:
        """The most popular items, of all or one category."""
        return await self._list("/trending", k=k, **({} if category is None else {"category": category}))

    async def latest(self, k: int = LIST_SIZE, category: str | None = None) -> list[ItemJson]:
        """The newest items, of all or one category."""
        return await self._list("/latest", k=k, **({} if category is None else {"category": category}))

    async def shelf(self, category: str, k: int = 2 * LIST_SIZE) -> list[ItemJson]:
        """A category's items: the most popular, then the newest of the others."""
        popular, new = await asyncio.gather(self.trending(k, category), self.latest(k, category))
        known = {item["item_id"] for item in popular}
        return [*popular, *(item for item in new if item["item_id"] not in known)][:k]

    async def similar(self, item_id: str, k: int = ROW_SIZE) -> list[ItemJson]:
        """Items similar to an item, which may be sold out; none if it is unknown."""
        try:
            return await self._list(f"/similar/{_id(item_id)}", k=k)
        except BadInput:
            return []

    async def search(self, words: str, k: int = 2 * LIST_SIZE) -> list[ItemJson]:
        """Items with these words."""
        return await self._list("/search", q=words, k=k) if words.strip() else []

    async def categories(self) -> list[str]:
        """The catalogue's categories, those with most popular and new items first; refreshed once a minute."""
        looked_at, known = self._categories
        if self._clock() - looked_at > _CATEGORIES_S or not known:
            popular, new = await asyncio.gather(self.trending(_FROM_EACH_LIST), self.latest(_FROM_EACH_LIST))
            counts = Counter(item["category"] for item in (*popular, *new) if item["category"])
            known = sorted((name for name in counts if name != OTHER), key=lambda name: (-counts[name], name))
            known += [OTHER] if OTHER in counts else []
            self._categories = self._clock(), known
        return known

    # --- items and users

    async def item(self, item_id: str) -> ItemJson:
        """The item; ``BadInput`` (not_found) if it does not exist."""
        return (await self.items([item_id], must_be_there=True))[item_id]

    async def items(self, item_ids: Iterable[str], *, must_be_there: bool = False) -> dict[str, ItemJson]:
        """Items by id; an item that is no longer listed has its id as the title."""
        wanted = list(dict.fromkeys(item_ids))
        missing = [item_id for item_id in wanted if item_id not in self._items]
        self._remember(await asyncio.gather(*(self._look_up(item_id, must_be_there) for item_id in missing)))
        return {item_id: self._items[item_id] for item_id in wanted}

    async def shoppers(self, user_ids: Iterable[str]) -> list[Shopper]:
        """Those of *user_ids* who have a document; none while the store is away."""
        found = await asyncio.gather(*map(self._shopper, user_ids))
        return [shopper for shopper in found if shopper is not None]

    async def known(self, user_id: str) -> dict[str, Any] | None:
        """What is stored about the user; ``None`` for an unknown user."""
        try:
            return dict(await self._get(f"/users/{_id(user_id)}"))
        except BadInput:
            return None

    async def profile(self, user_id: str) -> dict[str, Any] | None:
        """The user's declared profile, if any."""
        try:
            return dict(await self._api.ask("ingest", "GET", f"/users/{_id(user_id)}"))
        except BadInput:
            return None

    async def people(self, path: str, k: int = 8) -> list[dict[str, Any]]:
        """The users of the answer at *path*; none if it is refused or unavailable."""
        try:
            return list((await self._get(path, k=k))["users"])
        except NearlineError:
            return []

    async def _shopper(self, user_id: str) -> Shopper | None:
        try:
            known = await self.known(user_id)
        except Unavailable:
            return None
        return None if known is None else Shopper(user_id, tuple(known["categories"][:2]), known["events"])

    async def _look_up(self, item_id: str, must_be_there: bool) -> ItemJson:
        try:
            listed = await self._api.ask("ingest", "GET", f"/items/{_id(item_id)}")
        except BadInput:
            if must_be_there:
                raise
            return {"item_id": item_id, "title": item_id, "category": "", "price": None}
        return {"item_id": item_id, **listed["item"]}

    def _remember(self, items: Iterable[ItemJson]) -> None:
        for item in items:
            self._items[item["item_id"]] = item
        while len(self._items) > _MOST_ITEMS:
            self._items.popitem(last=False)

    async def _events(self, sequence: UserSequence, start: int, used: set[str]) -> list[Did]:
        """The events from index *start* on with their items, oldest first."""
        about = await self.items(sequence.items[start:])
        rows = zip(sequence.event_ids, sequence.items, sequence.types, sequence.times_ms, strict=True)
        return [
            Did(event_id, item_id, about[item_id]["title"], about[item_id]["category"], kind, at_ms, event_id in used)
            for event_id, item_id, kind, at_ms in list(rows)[start:]
        ]

    async def _list(self, path: str, **params: Any) -> list[ItemJson]:
        items: list[ItemJson] = (await self._get(path, **params))["items"]
        self._remember(items)
        return items

    async def _get(self, path: str, **params: Any) -> Any:
        return await self._api.ask("retrieval", "GET", path, params=params)


def _refuse_refused(result: Mapping[str, Any]) -> None:
    if result["status"] == "refused":
        raise BadInput(result["reason"], result["problem"], field=result["field"])


def _record(sequence: UserSequence) -> dict[str, Any]:
    """The sequence as ``POST /why`` takes it."""
    body = {"v": 1, "user_id": sequence.user_id, "version": sequence.version}
    body |= {name: getattr(sequence, name) for name in ("items", "times_ms", "types", "values", "event_ids")}
    if any(sequence.contexts):
        body["contexts"] = sequence.contexts
    return body | ({"profile": sequence.profile, "profile_ms": sequence.profile_ms} if sequence.profile else {})


def _id(value: str) -> str:
    return quote(value, safe="")
