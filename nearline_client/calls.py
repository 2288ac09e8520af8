"""Every route of both services as a ``Call``: what to send where, and whether it may be repeated.

Nothing here sends: ``Client`` and ``AsyncClient`` do, with a method for each function here.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast
from urllib.parse import quote

from nearline_client.answers import (
    Event,
    EventType,
    Item,
    ItemChange,
    ListOptions,
    RecommendOptions,
    SessionContext,
    SessionEvent,
    SessionOptions,
)
from nearline_client.errors import (
    NearlineError,
    NotLetIn,
    NotThere,
    OtherVersion,
    Problem,
    Refused,
    TooMany,
    Unavailable,
    UnexpectedAnswer,
)
from nearline_client.retrying import retry_after_s

MOST_IN_A_BATCH = 500
MOST_BYTES_IN_A_BATCH = 2 * 1024 * 1024  # half of the service's default limit
_AWAY = {408, 502, 503, 504}  # from the service, its log, or a proxy in front
_NOT_HERE = 501  # this process does not offer it; the problem says which one does
_SENT = "sent_ms"  # when a request with events was first sent: the service corrects their times by it
_REFUSALS: Mapping[int, type[Refused]] = {401: NotLetIn, 403: NotLetIn, 404: NotThere, 412: OtherVersion}


@dataclass(frozen=True, slots=True)
class Call:
    """One request. *is_repeatable* means idempotent: the client may repeat it when the answer is lost."""

    service: Literal["retrieval", "ingest"]
    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    is_batch: bool = False  # a 422 with results is an answer, not a refusal
    extra_wait_s: float = 0.0  # the wait that the caller asked for

    @property
    def content(self) -> bytes | None:
        """The encoded body."""
        return None if self.body is None else encoded(self.body)


def again(call: Call) -> Call:
    """*call* to be sent once more: if it says when it was first sent, with how long ago that was."""
    if _SENT not in call.params:
        return call
    return replace(call, params={**call.params, "waited_ms": max(0, _now_ms() - call.params[_SENT])})


def encoded(body: Any) -> bytes:
    """JSON in UTF-8; ``ValueError`` for NaN and infinities, which JSON lacks."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


# --- answers of retrieval --------------------------------------------------------------------------------------------


def recommend(user_id: str, options: RecommendOptions) -> Call:
    """``GET /recommend/{user_id}``."""
    wait_s = options.get("wait_ms", 0) / 1000
    return Call("retrieval", "GET", f"/recommend/{_id(user_id)}", recommend_params(options), extra_wait_s=wait_s)


def recommend_session(events: Sequence[SessionEvent], options: SessionOptions) -> Call:
    """``POST /recommend``: repeatable, since nothing is stored."""
    return Call("retrieval", "POST", "/recommend", body={"events": _timed(events), **options})


def rank(
    item_ids: Sequence[str],
    user_id: str | None,
    events: Sequence[SessionEvent] | None,
    context: SessionContext | None,
) -> Call:
    """``POST /rank``."""
    told = _given(user_id=user_id, events=None if events is None else _timed(events), context=context)
    return Call("retrieval", "POST", "/rank", body={"item_ids": list(item_ids), **told})


def similar(item_id: str, options: ListOptions) -> Call:
    """``GET /similar/{item_id}``."""
    return Call("retrieval", "GET", f"/similar/{_id(item_id)}", _list_params(options))


def trending(options: ListOptions) -> Call:
    """``GET /trending``."""
    return Call("retrieval", "GET", "/trending", _list_params(options))


def latest(options: ListOptions) -> Call:
    """``GET /latest``."""
    return Call("retrieval", "GET", "/latest", _list_params(options))


def search(query: str, options: ListOptions) -> Call:
    """``GET /search``."""
    return Call("retrieval", "GET", "/search", {"q": query, **_list_params(options)})


def similar_users(user_id: str, k: int | None) -> Call:
    """``GET /users/{user_id}/similar``."""
    return Call("retrieval", "GET", f"/users/{_id(user_id)}/similar", _given(k=k))


def audience(item_id: str, k: int | None) -> Call:
    """``GET /items/{item_id}/audience``."""
    return Call("retrieval", "GET", f"/items/{_id(item_id)}/audience", _given(k=k))


def known_of_user(user_id: str) -> Call:
    """``GET /users/{user_id}`` of retrieval."""
    return Call("retrieval", "GET", f"/users/{_id(user_id)}")


# --- routes of ingest ------------------------------------------------------------------------------------------------


def event(
    user_id: str, item_id: str, type: EventType = "click", *, request_id: str | None = None, **more: Any
) -> Event:
    """A new event with the current time and a new id, so that sending it again does not count it twice."""
    made = {"event_id": uuid.uuid4().hex, "user_id": user_id, "item_id": item_id, "type": type, "time_ms": _now_ms()}
    return cast("Event", made | _given(request_id=request_id) | more)


def identified(events: Iterable[Event]) -> list[Event]:
    """The events, each with an id and a time: missing ones are added."""
    return [cast("Event", {"event_id": uuid.uuid4().hex, "time_ms": _now_ms(), **one}) for one in events]


def send_events(events: Sequence[Event]) -> Call:
    """``POST /events``; repeatable if every event has an id."""
    repeatable = all("event_id" in one for one in events)
    sent = {_SENT: _now_ms()}
    return Call("ingest", "POST", "/events", sent, list(events), is_repeatable=repeatable, is_batch=True)


def put_item(item_id: str, item: Item, if_match: int | None) -> Call:
    """``PUT /items/{item_id}``."""
    return _change("PUT", item_id, item, if_match)


def patch_item(item_id: str, change: ItemChange, if_match: int | None) -> Call:
    """``PATCH /items/{item_id}``: repeatable, since a merge patch is idempotent."""
    return _change("PATCH", item_id, change, if_match)


def delete_item(item_id: str, purge: bool, if_match: int | None) -> Call:
    """``DELETE /items/{item_id}``."""
    return _change("DELETE", item_id, None, if_match, {"purge": "true"} if purge else {})


def get_item(item_id: str) -> Call:
    """``GET /items/{item_id}``."""
    return Call("ingest", "GET", f"/items/{_id(item_id)}")


def put_items(items: Sequence[Any]) -> Call:
    """``POST /items``."""
    return Call("ingest", "POST", "/items", body=list(items), is_batch=True)


def put_user(user_id: str, profile: Mapping[str, Any]) -> Call:
    """``PUT /users/{user_id}``."""
    return Call("ingest", "PUT", f"/users/{_id(user_id)}", body=dict(profile))


def get_user(user_id: str) -> Call:
    """``GET /users/{user_id}`` of ingest."""
    return Call("ingest", "GET", f"/users/{_id(user_id)}")


def erase_user(user_id: str) -> Call:
    """``DELETE /users/{user_id}``."""
    return Call("ingest", "DELETE", f"/users/{_id(user_id)}")


def remove_event(user_id: str, event_id: str) -> Call:
    """``DELETE /users/{user_id}/events/{event_id}``."""
    return Call("ingest", "DELETE", f"/users/{_id(user_id)}/events/{_id(event_id)}")


def merge(user_id: str, session_id: str | None, events: Sequence[Event] | None) -> Call:
    """``POST /users/{user_id}/merge``: repeatable, since the events have ids."""
    told = _given(session_id=session_id, events=None if events is None else identified(events))
    return Call("ingest", "POST", f"/users/{_id(user_id)}/merge", {_SENT: _now_ms()}, told, is_batch=True)


def batches(bodies: Iterable[Any]) -> Iterator[list[Any]]:
    """Split *bodies*, in order, into batches within the service's limits."""
    batch: list[Any] = []
    size = 0
    for body in bodies:
        more = len(encoded(body)) + 1
        if batch and (len(batch) >= MOST_IN_A_BATCH or size + more > MOST_BYTES_IN_A_BATCH):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += more
    if batch:
        yield batch


# --- answers ---------------------------------------------------------------------------------------------------------


def answer_in(call: Call, status: int, headers: Mapping[str, str], raw: bytes) -> Any:
    """The service's answer, or raise the error for its status; *headers* as in httpx (any case)."""
    said = _json(raw)
    if 200 <= status < 300 and said is not None:
        return said
    if status == 422 and call.is_batch and isinstance(said, dict) and "results" in said:
        return said
    raise failure_in(call, status, headers, said, raw)


def failure_in(call: Call, status: int, headers: Mapping[str, str], said: Any, raw: bytes) -> NearlineError:
    """The error for an answer with *status*."""
    problems = _problems(said)
    words = f"{call.method} {call.path}: {status} " + ("; ".join(one.problem for one in problems) or f"{raw[:200]!r}")
    again_s = retry_after_s(headers.get("retry-after"), time.time())
    if status == 429:
        return TooMany(words, again_s)
    if status in _AWAY:
        return Unavailable(words, retry_after_s=again_s)
    if problems and (400 <= status < 500 or status == _NOT_HERE):
        return _REFUSALS.get(status, Refused)(status, problems)
    return UnexpectedAnswer(status, words)


def _problems(said: Any) -> list[Problem]:
    detail = said.get("detail") if isinstance(said, dict) else None
    if not isinstance(detail, list):
        return []
    known = Problem.__slots__
    return [
        Problem(**{"field": "", "problem": ""} | {name: one[name] for name in known if name in one})
        for one in detail
        if isinstance(one, dict)
    ]


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def recommend_params(options: RecommendOptions) -> dict[str, Any]:
    """The options as query parameters: field names joined by commas, ids repeated, one parameter per context key."""
    params: dict[str, Any] = {name: value for name, value in options.items() if name != "context"}
    if "fields" in options:
        params["fields"] = ",".join(options["fields"])
    return params | {f"context.{name}": value for name, value in options.get("context", {}).items()}


def _list_params(options: ListOptions) -> dict[str, Any]:
    return dict(options)


def _timed(events: Iterable[SessionEvent]) -> list[dict[str, Any]]:
    """The events, each with a type and a time; the defaults are ``click`` and now."""
    return [{"type": "click", "time_ms": _now_ms(), **one} for one in events]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _change(
    method: str, item_id: str, body: Any, if_match: int | None, params: Mapping[str, str] | None = None
) -> Call:
    """A change of one item. With a condition it is not repeatable: the second of two equal changes fails."""
    headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
    path = f"/items/{_id(item_id)}"
    return Call("ingest", method, path, params or {}, body, headers, is_repeatable=if_match is None)


def _id(value: str) -> str:
    """An id as one path segment; dots are escaped too, since ``..`` would otherwise be a step upwards."""
    return quote(value, safe="").replace(".", "%2E") if set(value) == {"."} else quote(value, safe="")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
