"""The routes of events."""

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from nearline.errors import BadInput
from nearline.telemetry import counter
from nearline.tracing import ClickTraces
from services.ingest import clicks
from services.ingest.appender import Appender
from services.ingest.bodies import Reservation, Room
from services.ingest.callers import caller_of, charge
from services.ingest.catalogue_editor import CatalogueEditor
from services.ingest.http_io import answers, batch_answer, json_of, one_or_many, one_or_more, problem_of
from services.ingest.schemas import EventIn, EventResults, Problems
from services.ingest.sender_clock import SENDER_CLOCK, correction_of

EVENTS_ACCEPTED = counter("ingest_events_accepted_total", "Events that are in the log")
_REFUSED = counter("ingest_events_refused_total", "Events that were refused as invalid", "reason", known=clicks.REASONS)
_STRICT: dict[str, Any] = {
    "name": "strict",
    "in": "query",
    "required": False,
    "description": "refuse events on items that are not in the catalogue (`unknown_item`)",
    "schema": {"type": "boolean"},
}


def add_events(
    app: FastAPI,
    room: Room,
    events: Appender,
    catalogue: CatalogueEditor,
    now_ms: Callable[[], int],
    traces: ClickTraces | None = None,
) -> None:
    """Add ``POST /events`` to *app*; *catalogue* knows the items, *traces* records some events' spans."""

    def begin_of(request: Request) -> clicks.Begin | None:
        if traces is None:
            return None
        started_ns, header = time.time_ns(), request.headers.get("traceparent")
        return lambda event_id, told: traces.begin(event_id, told or header, started_ns)

    @app.post(
        "/events",
        summary="Send one event, or up to 500",
        responses=answers({200: EventResults, 207: EventResults, 422: EventResults | Problems}, 408, 413),
        openapi_extra=one_or_many(EventIn, clicks.MAX_BATCH) | {"parameters": [*SENDER_CLOCK["parameters"], _STRICT]},
    )
    async def post_events(request: Request) -> Response:
        """Send one event as an object, or 1-500 as an array; each is accepted or refused by itself. The answer comes
        when the log has acknowledged the accepted ones: 200 if all were accepted, 207 if some were refused, 422 if all
        were. An event on an item that is not in the catalogue is accepted, because a click may come before its item,
        and has `warnings` in its result; with `strict=true` it is refused. After a 2xx nothing has to be sent again;
        after 429 and 503 everything has to. Events with their own `event_id` may be sent any number of times. With
        `sent_ms` a device whose clock is wrong by 2 s or more gets the times of its events corrected, to the second;
        `context.device_time_ms` keeps its own. A page's key and a user's token send at most 50 events and 64 KiB; a
        token, events of its own user only. Each event counts against the key's limit.
        """
        shift_ms = correction_of(request, now_ms())  # before the body, which may take long to arrive
        caller = caller_of(request)
        with Reservation(room, caller) as place:
            # No variable for the parsed body: it would take several times its size while waiting for the log.
            verdicts = clicks.validate(
                charge(request, one_or_more(await json_of(request, place), caller.most_events)),
                now_ms=now_ms(),
                shift_ms=shift_ms,
                begin=begin_of(request),
                check=caller.check,
                items=catalogue.check(strict=_is_strict(request)),
            )
            accepted = [(one.key, one.value) for one in verdicts if isinstance(one, clicks.AcceptedEvent)]
            try:
                if accepted:
                    await events.append(accepted)
            finally:
                if traces is not None:
                    _end_spans(verdicts)
        EVENTS_ACCEPTED.inc(len(accepted))
        return batch_answer(list(map(event_result, verdicts)), len(accepted))


def _is_strict(request: Request) -> bool:
    """Whether the request says ``strict=true``; read here, as the sender's clock is."""
    if not request.scope["query_string"]:
        return False
    given = request.query_params.get("strict", "false")
    if given not in ("true", "false"):
        raise BadInput("wrong_type", f"strict must be true or false, came {given!r:.80}", field="strict")
    return given == "true"


def _end_spans(verdicts: list[clicks.AcceptedEvent | clicks.RefusedEvent]) -> None:
    now_ns = time.time_ns()
    for one in verdicts:
        if isinstance(one, clicks.AcceptedEvent) and one.span is not None:
            one.span.end(now_ns, event_id=one.event_id)


def event_result(verdict: clicks.AcceptedEvent | clicks.RefusedEvent) -> dict[str, Any]:
    """Count one event and return its result."""
    if isinstance(verdict, clicks.AcceptedEvent):
        told = {"warnings": [verdict.warning]} if verdict.warning else {}
        return {"status": "accepted", "event_id": verdict.event_id, **told}
    _REFUSED.labels(verdict.problem.reason).inc()
    return {"status": "refused", "event_id": verdict.event_id, **problem_of(verdict.problem)}
