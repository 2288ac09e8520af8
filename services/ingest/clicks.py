"""Validates the events of a body one by one, with the rules that the job applies later."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from nearline.errors import BadInput
from nearline.events import EARLIEST_MS, MAX_EVENT_BYTES, Event, encode_event, event_of
from nearline.reasons import reasons_of
from nearline.telemetry import counter
from nearline.tracing import Span
from services.ingest.sender_clock import LATEST_MS

Begin = Callable[[str, str | None], Span | None]
EventCheck = Callable[[Event], None]
MAX_BATCH = 500
# The reasons to refuse an event, also in a merge (user_editor.py).
REASONS = reasons_of("events", "ids", others=("other_user", "synthetic_user", "unknown_item"))
_UNKNOWN_ITEMS = counter("ingest_unknown_items_total", "Accepted events whose item is not in the catalogue")
DEVICE_TIME = "device_time_ms"  # of an event's context: its time by the device's clock, if it was corrected


@dataclass(frozen=True, slots=True)
class AcceptedEvent:
    """An accepted event with its record for the log, keyed by user."""

    event_id: str
    key: bytes
    value: bytes
    span: Span | None = None  # of appending it to the log, if it is traced
    warning: str = ""


@dataclass(frozen=True, slots=True)
class ItemCheck:
    """Whether events' items are in the catalogue: without *is_known* none is looked up; *strict* refuses
    those that are not.

    A click may come before its item, so such an event is usually accepted, and its answer says so.
    """

    is_known: Callable[[str], bool] | None = None
    strict: bool = False

    def warning(self, item_id: str) -> str:
        """What to say about an event on *item_id*, or nothing; ``BadInput`` if it is unknown and *strict*."""
        if self.is_known is None or self.is_known(item_id):
            return ""
        told = f"item {item_id!r:.140} is not in the catalogue"
        if self.strict:
            raise BadInput("unknown_item", f"{told}; add it first, or leave out strict=true", field="item_id")
        _UNKNOWN_ITEMS.inc()
        return f"{told}: the event counts for the user's vector once the item is there"


NO_CHECK = ItemCheck()


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """A refused event with the reason, and its id if it has one."""

    event_id: str | None
    problem: BadInput


def made_id() -> str:
    """A unique id for an event that has none."""
    return uuid.uuid4().hex


def validate(
    bodies: list[object],
    *,
    now_ms: int,
    shift_ms: int = 0,
    new_id: Callable[[], str] = made_id,
    begin: Begin | None = None,
    check: EventCheck = lambda _: None,
    items: ItemCheck = NO_CHECK,
) -> list[AcceptedEvent | RefusedEvent]:
    """Accept or refuse each of *bodies*, in order; a bad one does not affect the others.

    *shift_ms* corrects the times that came (sender_clock.py). *begin* takes an event's id and traceparent and begins
    its span, or returns none if it is not traced. *check* raises ``BadInput`` for an event that the
    caller may not send. *items* looks after the events' items.
    """
    verdicts: list[AcceptedEvent | RefusedEvent] = []
    for body in bodies:
        try:
            verdicts.append(_accept(body, now_ms, shift_ms, new_id, begin, check, items))
        except BadInput as problem:
            verdicts.append(refused(body, problem))
    return verdicts


def refused(body: object, problem: BadInput) -> RefusedEvent:
    """The refusal of *body*, with its id if it has one."""
    return RefusedEvent(_id_in(body), problem)


def _accept(
    body: object,
    now_ms: int,
    shift_ms: int,
    new_id: Callable[[], str],
    begin: Begin | None,
    check: EventCheck,
    items: ItemCheck,
) -> AcceptedEvent:
    if not isinstance(body, dict):
        raise BadInput("not_an_object", f"an event must be a JSON object, came {type(body).__name__}: {body!r:.80}")
    if "merged_from" in body:  # only the job may set it: popularity does not count such events again
        raise BadInput("unknown_field", "merged_from is set by a merge, not by callers", field="merged_from")
    whole = {"v": 1, "time_ms": now_ms, **body, "produced_ms": now_ms}
    if "event_id" not in body:
        whole["event_id"] = new_id()
    event = event_of(whole)
    check(event)
    warning = items.warning(event.item_id)
    if shift_ms and "time_ms" in body:
        event = _corrected(event, shift_ms)
    span = None if begin is None else begin(event.event_id, event.traceparent)
    if span is not None:
        event = replace(event, traceparent=span.traceparent)
    try:
        value = encode_event(event)
    except orjson.JSONEncodeError as error:
        raise BadInput("too_deep", f"context cannot be written as JSON: {error}", field="context") from None
    if len(value) > MAX_EVENT_BYTES:
        raise BadInput("too_large", f"the event has {len(value):,} bytes; at most {MAX_EVENT_BYTES:,} are accepted")
    return AcceptedEvent(event.event_id, event.user_id.encode(), value, span, warning)


def _corrected(event: Event, shift_ms: int) -> Event:
    """The event *shift_ms* later, with the time that came in its context; unchanged if that time cannot be."""
    time_ms = event.time_ms + shift_ms
    if not EARLIEST_MS <= time_ms <= LATEST_MS:
        return event
    return replace(event, time_ms=time_ms, context={DEVICE_TIME: event.time_ms, **event.context})


def _id_in(body: object) -> str | None:
    found = body.get("event_id") if isinstance(body, dict) else None
    return found if isinstance(found, str) else None
