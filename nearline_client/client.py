"""The client for synchronous programs: each method is one call, retried if that is safe."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, cast

import httpx

from nearline_client import calls
from nearline_client.answers import (
    Deleted,
    Event,
    EventResults,
    Item,
    ItemAnswer,
    ItemChange,
    ItemOfBatch,
    ItemResults,
    ListOptions,
    Profile,
    Recommendations,
    RecommendOptions,
    SessionContext,
    SessionEvent,
    SessionOptions,
)
from nearline_client.batches import EventQueue, Lost, RefusedEvents
from nearline_client.calls import Call
from nearline_client.errors import NearlineError
from nearline_client.results import joined, only
from nearline_client.retrying import Retries
from nearline_client.sending import INGEST, LIMITS, RETRIEVAL, ServiceAccess, answer

_USUAL = Retries()


class Client:
    """Calls Nearline: ``with Client(key=…) as nearline: nearline.recommend("17850")``.

    *retrieval* and *ingest* are the base URLs of the two services. A call takes at most *timeout_s*; *retries* says how
    often it is repeated, if that cannot do the same thing twice. May be shared between threads, not across a fork.
    Events queued by ``track`` are sent in the background, at the latest by ``close`` or at the program's exit.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        retrieval: str = RETRIEVAL,
        ingest: str = INGEST,
        timeout_s: float = 5.0,
        retries: Retries = _USUAL,
        batch: int = 50,
        linger_s: float = 0.5,
        most_queued: int = 10_000,
        on_refused: RefusedEvents | None = None,
        on_lost: Lost | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._service = ServiceAccess(retrieval, ingest, key, timeout_s, retries)
        self._http = httpx.Client(transport=transport, limits=LIMITS)
        self._sleep = sleep
        self._draw = draw
        self._queue = EventQueue(
            self._send_once, batch=batch, linger_s=linger_s, most=most_queued, on_refused=on_refused, on_lost=on_lost
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Send the queued events, then close the connections; events that cannot be sent go to *on_lost*."""
        self._queue.close()
        self._http.close()

    # --- answers

    def recommend(self, user_id: str, **options: Unpack[RecommendOptions]) -> Recommendations:
        """At most *k* items for the user, best first, with the events that the answer used."""
        return cast("Recommendations", self._ask(calls.recommend(user_id, options)))

    def recommend_session(self, events: Sequence[SessionEvent], **options: Unpack[SessionOptions]) -> Recommendations:
        """Items for a visitor with only these events; nothing is stored."""
        return cast("Recommendations", self._ask(calls.recommend_session(events, options)))

    def rank(
        self,
        item_ids: Sequence[str],
        *,
        user_id: str | None = None,
        events: Sequence[SessionEvent] | None = None,
        context: SessionContext | None = None,
    ) -> dict[str, Any]:
        """The caller's items, ranked for the user (or the visitor with *events*)."""
        return cast("dict[str, Any]", self._ask(calls.rank(item_ids, user_id, events, context)))

    def similar(self, item_id: str, **options: Unpack[ListOptions]) -> dict[str, Any]:
        """Items similar to this one."""
        return cast("dict[str, Any]", self._ask(calls.similar(item_id, options)))

    def trending(self, **options: Unpack[ListOptions]) -> dict[str, Any]:
        """The currently popular items."""
        return cast("dict[str, Any]", self._ask(calls.trending(options)))

    def latest(self, **options: Unpack[ListOptions]) -> dict[str, Any]:
        """The most recently listed items."""
        return cast("dict[str, Any]", self._ask(calls.latest(options)))

    def search(self, query: str, **options: Unpack[ListOptions]) -> dict[str, Any]:
        """Items whose texts contain the words of *query*."""
        return cast("dict[str, Any]", self._ask(calls.search(query, options)))

    def similar_users(self, user_id: str, *, k: int | None = None) -> dict[str, Any]:
        """Users whose vectors are near this user's."""
        return cast("dict[str, Any]", self._ask(calls.similar_users(user_id, k)))

    def audience(self, item_id: str, *, k: int | None = None) -> dict[str, Any]:
        """Users who would like the item."""
        return cast("dict[str, Any]", self._ask(calls.audience(item_id, k)))

    def known_of_user(self, user_id: str) -> dict[str, Any]:
        """What the system knows about the user."""
        return cast("dict[str, Any]", self._ask(calls.known_of_user(user_id)))

    # --- events

    def track(self, event: Event, *, block_s: float = 0.0) -> None:
        """Queue *event* (``event()`` makes one) to be sent soon, with others; ``QueueFull`` if there is no room.

        With *block_s* it waits that long for room.
        """
        self._queue.add(calls.identified([event])[0], block_s=block_s)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all queued events are sent; return whether they were in time."""
        return self._queue.flush(timeout_s)

    def send_event(self, event: Event) -> str:
        """Send one event and return its id once it is in the log; ``Refused`` with the field if it is invalid."""
        return only(self.send_events([event]))

    def send_events(self, events: Iterable[Event]) -> EventResults:
        """Send any number of events, each accepted or refused by itself; accepted ones are in the log on return.

        Events without an id get one, so that a lost answer can be retried.
        """
        batches = calls.batches(calls.identified(events))
        return joined([self._ask(calls.send_events(batch)) for batch in batches])

    # --- items

    def put_item(self, item_id: str, item: Item, *, if_match: int | None = None) -> ItemAnswer:
        """Add the item, or replace it as a whole. With *if_match*, only if that is its version."""
        return cast("ItemAnswer", self._ask(calls.put_item(item_id, item, if_match)))

    def put_items(self, items: Iterable[ItemOfBatch]) -> ItemResults:
        """Add or replace any number of items, each accepted or refused by itself."""
        return cast("ItemResults", joined([self._ask(calls.put_items(batch)) for batch in calls.batches(items)]))

    def patch_item(self, item_id: str, change: ItemChange, *, if_match: int | None = None) -> ItemAnswer:
        """Change some fields: ``{"available": False}`` makes the item unavailable, ``None`` removes a field."""
        return cast("ItemAnswer", self._ask(calls.patch_item(item_id, change, if_match)))

    def delete_item(self, item_id: str, *, purge: bool = False, if_match: int | None = None) -> Deleted:
        """Delete the item; with *purge* its vector too."""
        return cast("Deleted", self._ask(calls.delete_item(item_id, purge, if_match)))

    def get_item(self, item_id: str) -> ItemAnswer:
        """The item in the catalogue; ``NotThere`` if there is none."""
        return cast("ItemAnswer", self._ask(calls.get_item(item_id)))

    # --- users

    def put_user(self, user_id: str, profile: Profile) -> dict[str, Any]:
        """Set the user's profile, replacing an earlier one."""
        return cast("dict[str, Any]", self._ask(calls.put_user(user_id, cast("Mapping[str, Any]", profile))))

    def get_user(self, user_id: str) -> dict[str, Any]:
        """The user's profile; ``NotThere`` if there is none."""
        return cast("dict[str, Any]", self._ask(calls.get_user(user_id)))

    def erase_user(self, user_id: str) -> dict[str, Any]:
        """Erase the user: history, vector, seen items, profile."""
        return cast("dict[str, Any]", self._ask(calls.erase_user(user_id)))

    def remove_event(self, user_id: str, event_id: str) -> dict[str, Any]:
        """Delete one event of the user."""
        return cast("dict[str, Any]", self._ask(calls.remove_event(user_id, event_id)))

    def merge(
        self, user_id: str, *, session_id: str | None = None, events: Sequence[Event] | None = None
    ) -> dict[str, Any]:
        """Merge a session into the user: the events sent under *session_id*, and *events* not sent before."""
        return cast("dict[str, Any]", self._ask(calls.merge(user_id, session_id, events)))

    # --- how a call is made

    def _ask(self, call: Call) -> Any:
        attempts = self._service.attempts(call, self._draw)
        while True:
            try:
                return self._once(call)
            except NearlineError as failure:
                pause_s = attempts.pause_s(failure)
            self._sleep(pause_s)
            call = calls.again(call)

    def _once(self, call: Call) -> Any:
        try:
            response = self._http.send(self._service.request(self._http, call))
        except httpx.HTTPError as error:
            raise self._service.lost(call, error) from None
        return answer(call, response)

    def _send_once(self, events: list[Event]) -> EventResults:
        return cast("EventResults", self._once(calls.send_events(events)))
