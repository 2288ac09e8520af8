"""Corrects the times of a request's events by its sender's clock (docs/decisions.md says why as it does)."""

from typing import Any

from fastapi import Request

from nearline.errors import BadInput
from nearline.events import EARLIEST_MS, MAX_AHEAD_MS

LATEST_MS = 2**53 - 1  # the largest integer of a page
_SENT, _WAITED = "sent_ms", "waited_ms"


def correction_of(request: Request, received_ms: int) -> int:
    """What to add to the times of the events in *request*, received at *received_ms*; 0 if it has no ``sent_ms``.

    ``BadInput`` if that is not a time. The parameters are read here: FastAPI takes longer than the event's validation.
    """
    if not request.scope["query_string"]:
        return 0
    query = request.query_params
    waited_ms = _number(_WAITED, query.get(_WAITED, "0"), least=0)
    return 0 if _SENT not in query else correction_ms(received_ms, _number(_SENT, query[_SENT]), waited_ms)


def correction_ms(received_ms: int, sent_ms: int, waited_ms: int = 0) -> int:
    """What to add to the times of a request's events, so that they are by this service's clock and not the sender's.

    The sender first sent the request at *sent_ms* of its own clock, and again after *waited_ms*. What the clocks differ
    by is rounded to a second, as it includes the network's delay; below ``MAX_AHEAD_MS`` it is nothing.
    """
    behind_ms = received_ms - waited_ms - sent_ms
    return 0 if abs(behind_ms) < MAX_AHEAD_MS else (behind_ms + 500) // 1000 * 1000


def _number(name: str, text: str, *, least: int = EARLIEST_MS) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(LATEST_MS)) else -1
    if not least <= number <= LATEST_MS:
        expected = f"{name} must be milliseconds, a whole number from {least} to {LATEST_MS}"
        raise BadInput("wrong_type", f"{expected}, came {text!r:.80}", field=name)
    return number


def _parameter(name: str, about: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": {"type": "integer"}}


# For a route's ``openapi_extra``.
SENDER_CLOCK: dict[str, Any] = {
    "parameters": [
        _parameter(
            _SENT, "the sender's clock when it first sent the request, UTC milliseconds: `time_ms` is corrected by it"
        ),
        _parameter(_WAITED, "of a request that is sent again, with the same `sent_ms`: how long ago that was"),
    ]
}
