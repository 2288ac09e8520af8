"""What becomes of a body of events: each is judged by itself, by the rules that the job applies later."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from nearline.errors import BadInput
from nearline.events import MAX_AHEAD_MS, MAX_EVENT_BYTES, encode_event, event_of
from nearline.reasons import reasons_of
from nearline.tracing import Span

Begin = Callable[[str, str | None], Span | None]
MAX_BATCH = 500
# What an event can be refused with, by itself or as one of a merge (user_editor.py).
REASONS = reasons_of("events", "ids", others=("too_deep", "other_user"))
# A minute less than the job allows: this machine's clock may run so far ahead of the log's, and nothing that is
# accepted here becomes a dead letter there.
AHEAD_MS = MAX_AHEAD_MS - 60_000


@dataclass(frozen=True, slots=True)
class AcceptedEvent:
    """An event as it goes into the log: its user is the key."""

    event_id: str
    key: bytes
    value: bytes
    span: Span | None = None  # of its way into the log, if it is traced


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """Why the event with this id (if it has one) can never be accepted."""

    event_id: str | None
    problem: BadInput


def made_id() -> str:
    """An id for an event that brings none: no other event has it."""
    return uuid.uuid4().hex


def validate(
    bodies: list[object], *, now_ms: int, new_id: Callable[[], str] = made_id, begin: Begin | None = None
) -> list[AcceptedEvent | RefusedEvent]:
    """The verdict on each of *bodies*, in their order; a bad one never touches its neighbours.

    *begin* begins the span of an event that is traced: given its id and its traceparent, it gives the span or none.
    """
    verdicts: list[AcceptedEvent | RefusedEvent] = []
    for body in bodies:
        try:
            verdicts.append(_accept(body, now_ms, new_id, begin))
        except BadInput as problem:
            verdicts.append(refused(body, problem))
    return verdicts


def refused(body: object, problem: BadInput) -> RefusedEvent:
    """That *body* cannot be accepted, under its id if it has one."""
    return RefusedEvent(_id_in(body), problem)


def _accept(body: object, now_ms: int, new_id: Callable[[], str], begin: Begin | None) -> AcceptedEvent:
    if not isinstance(body, dict):
        raise BadInput("not_an_object", f"an event must be a JSON object, came {type(body).__name__}: {body!r:.80}")
    if "merged_from" in body:  # only the job may say it: what it brings along is not counted again
        raise BadInput("unknown_field", "merged_from is set by a merge, not by callers", field="merged_from")
    whole = {"v": 1, "time_ms": now_ms, **body, "produced_ms": now_ms}
    if "event_id" not in body:
        whole["event_id"] = new_id()
    event = event_of(whole, append_ms=now_ms, ahead_ms=AHEAD_MS)
    span = None if begin is None else begin(event.event_id, event.traceparent)
    if span is not None:
        event = replace(event, traceparent=span.traceparent)
    try:
        value = encode_event(event)
    except orjson.JSONEncodeError as error:
        raise BadInput("too_deep", f"context cannot be written as JSON: {error}", field="context") from None
    if len(value) > MAX_EVENT_BYTES:
        raise BadInput("too_large", f"the event has {len(value):,} bytes; at most {MAX_EVENT_BYTES:,} are accepted")
    return AcceptedEvent(event.event_id, event.user_id.encode(), value, span)


def _id_in(body: object) -> str | None:
    found = body.get("event_id") if isinstance(body, dict) else None
    return found if isinstance(found, str) else None
