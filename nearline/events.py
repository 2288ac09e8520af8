"""Events: what a user did to an item, as in the topic ``clicks`` (version 1).

Every event is validated here, by ``decode_event`` or ``event_of``: an invalid one becomes a dead letter with a reason
that helps its producer.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.ids import check_ids, check_new_id

MAX_EVENT_BYTES = 64 * 1024
MAX_DEPTH = 256  # of JSON in the log; what is deeper can be neither written nor shown
MAX_REQUEST_DEPTH = 100  # of the body of a request
EARLIEST_MS = 315_532_800_000  # 1980-01-01: an earlier time has a wrong unit
_LATEST_S = 4_102_444_800  # 2100-01-01: a greater number is no time in seconds
MAX_AHEAD_MS = 2_000  # clocks that differ by no more are taken for equal: an order within it is better kept


class EventType(StrEnum):
    """What a user did; the order is the models' encoding (1, 2, …), so new types are appended."""

    VIEW = "view"
    CLICK = "click"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    LIKE = "like"
    DISLIKE = "dislike"
    SKIP = "skip"


EVENT_TYPES: tuple[str, ...] = tuple(EventType)
_TYPES = frozenset(EVENT_TYPES)


@dataclass(slots=True)  # not frozen, though nothing changes one: that would cost each click two microseconds
class Event:
    """One valid event. Events with equal ``event_id`` are the same event.

    *merged_from* is empty, except in a copy that the job made when it merged an anonymous session into a user
    (nearline/user_commands.py): the user ids of earlier copies, oldest first. Those already counted the event.
    """

    event_id: str
    user_id: str
    item_id: str
    type: str
    time_ms: int
    value: float = 1.0
    context: Mapping[str, Any] = field(default_factory=dict)
    produced_ms: int | None = None
    request_id: str | None = None
    traceparent: str | None = None
    synthetic: bool = False
    merged_from: tuple[str, ...] = ()


_FIELDS = frozenset({"v", *(f.name for f in fields(Event))})
_REQUIRED = ("v", "event_id", "user_id", "item_id", "type", "time_ms")


def encode_event(event: Event) -> bytes:
    """The event as producers write it; optional fields at their default are left out."""
    body: dict[str, Any] = {"v": 1}
    for f in fields(Event):
        value = getattr(event, f.name)
        if f.name in _REQUIRED or f.name == "value" or value:
            body[f.name] = value
    return orjson.dumps(body)


def decode_event(raw: bytes | None, *, append_ms: int) -> Event:
    """Return the event in *raw*, which was appended to the log at *append_ms*, or raise ``BadInput`` with a reason.

    An event that is ahead of the log's clock has its append time (``is_ahead``). The result depends only on the
    arguments, so a replayed log gives the same events.
    """
    event = event_of(load_object(raw, MAX_EVENT_BYTES))
    return replace(event, time_ms=append_ms) if is_ahead(event.time_ms, append_ms) else event


def is_ahead(time_ms: int, append_ms: int) -> bool:
    """Whether a record's time is so far after its append time that the producer's clock must be wrong."""
    return time_ms > append_ms + MAX_AHEAD_MS


def event_of(body: Mapping[str, Any]) -> Event:
    """The event in the JSON object *body*, at the time that its producer gave; else ``BadInput`` as above."""
    if not body.keys() <= _FIELDS:
        refuse_unknown(body, _FIELDS, hint="put your own fields under 'context'")
    for name in _REQUIRED:
        if name not in body:
            raise BadInput(
                "missing_field", f"required field {name!r} is missing; came {sorted(body)}"[:500], field=name
            )
    check_version(body)
    kind = body["type"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise BadInput("unknown_type", f"type must be one of {', '.join(EVENT_TYPES)}, came {kind!r:.80}", field="type")
    return Event(
        event_id=check_new_id("event_id", body["event_id"]),
        user_id=check_new_id("user_id", body["user_id"]),
        item_id=check_new_id("item_id", body["item_id"]),
        type=kind,
        time_ms=check_time(body["time_ms"]),
        # Most events have few optional fields: a missing one costs nothing and keeps its default.
        **{name: read(name, body[name]) for name, read in _OPTIONAL.items() if name in body},
    )


def load_object(raw: bytes | None, max_bytes: int) -> dict[str, Any]:
    """The JSON object in *raw*; ``BadInput`` with a reason for anything else."""
    if not raw:
        raise BadInput("empty", "the value is null or empty; expected a JSON object")
    if len(raw) > max_bytes:
        raise BadInput("too_large", f"the value has {len(raw):,} bytes; at most {max_bytes:,} are accepted")
    body = load_json(raw)
    if not isinstance(body, dict):
        raise BadInput("not_an_object", f"expected a JSON object, came {type(body).__name__}: {raw[:80]!r}")
    return body


def load_json(raw: bytes, most_depth: int = MAX_DEPTH) -> Any:
    """The JSON value in *raw*; ``BadInput`` if it is not JSON, or arrays and objects in it are nested deeper."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _not_json(raw, error) from None
    # Most texts are too short, or have too few brackets, to be deep.
    if len(raw) > 2 * most_depth and raw.count(b"{") + raw.count(b"[") > most_depth and _is_deeper(value, most_depth):
        raise _too_deep(most_depth)
    return value


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _too_deep(most: int) -> BadInput:
    return BadInput("too_deep", f"more than {most} arrays and objects are nested")


def _not_json(raw: bytes, error: Exception) -> BadInput:
    if "depth limit" in str(error):  # orjson's own is 1,024
        return _too_deep(MAX_DEPTH)
    try:
        raw.decode()
    except UnicodeDecodeError as broken:
        return BadInput("not_utf8", f"byte {broken.start} is not UTF-8 ({broken.reason}): {raw[:80]!r}")
    return BadInput("not_json", f"not JSON: {error}: {raw[:80]!r}")


def refuse_unknown(body: Mapping[str, Any], known: frozenset[str], *, hint: str) -> None:
    """Raise ``BadInput`` for the first unknown field, naming the nearest known one: typos are not stored."""
    name = min(body.keys() - known)
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else f"; {hint}"
    raise BadInput("unknown_field", f"unknown field {name!r:.80}{guess}", field=name[:80])


def check_version(body: Mapping[str, Any]) -> None:
    """Raise ``BadInput`` unless the body has version 1."""
    if type(body.get("v")) is not int or body["v"] != 1:
        raise BadInput("unknown_version", f"v must be 1, came {body.get('v')!r:.80}", field="v")


def check_time(value: object) -> int:
    """Return *value* if it is a time in UTC ms from 1980 on, else raise ``BadInput``."""
    if type(value) is not int:
        expected = "time_ms must be an integer of UTC milliseconds"
        raise BadInput("wrong_type", f"{expected}, came {value!r:.80}", field="time_ms")
    if value < EARLIEST_MS:
        looks = "; it looks like seconds" if EARLIEST_MS // 1000 <= value < _LATEST_S else ""
        before = f"time_ms {value} is before 1980-01-01{looks}; expected UTC milliseconds"
        raise BadInput("impossible_time", before, field="time_ms")
    return value


def _finite(name: str, value: object) -> float:
    if type(value) not in (int, float):
        raise BadInput("wrong_type", f"{name} must be a number, came {value!r:.80}", field=name)
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number) or abs(number) > 1e12:
        expected = f"{name} must be a finite number within ±1e12"
        raise BadInput("out_of_range", f"{expected}, came {value!r:.80}", field=name)
    return number


def _context(name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput("wrong_type", f"{name} must be an object, came {type(value).__name__}", field=name)
    return value


def _text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise BadInput("wrong_type", f"{name} must be a string, came {value!r:.80}", field=name)


def _integer(name: str, value: object) -> int | None:
    if value is None or type(value) is int:
        return value
    raise BadInput("wrong_type", f"{name} must be an integer, came {value!r:.80}", field=name)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadInput("wrong_type", f"{name} must be true or false, came {value!r:.80}", field=name)
    return value


_OPTIONAL: Mapping[str, Callable[[str, object], Any]] = {
    "value": _finite,
    "context": _context,
    "produced_ms": _integer,
    "request_id": _text,
    "traceparent": _text,
    "synthetic": _flag,
    "merged_from": check_ids,
}
