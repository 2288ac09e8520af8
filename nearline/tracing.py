"""Traces from a click to the first answer that used it, with the context in events' ``traceparent`` (W3C).

A click is traced by its event id alone (``is_in_share``), or if its producer says so in the event. A part records a
span once it knows its times; without an exporter, no part records any. ``nearline/adapters/traces.py`` sends the spans.
"""

import re
from typing import Protocol

from nearline.hashing import hash64

About = str | int | float | bool
# Version, trace and span (neither all zeros), and flags whose last bit means that it is traced.
_TRACED = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")


class Span(Protocol):
    """A span that has begun; its *traceparent* is the parent of what it causes."""

    @property
    def traceparent(self) -> str: ...

    def end(self, end_ns: int, **about: About) -> None:
        """End the span at *end_ns* (``time.time_ns``); *about* are its attributes."""


class Spans(Protocol):
    """Records spans; never waits and never fails."""

    def begin(self, name: str, start_ns: int, parent: str = "") -> Span:
        """Begin span *name* at *start_ns* under *parent*, a traceparent; without one, begin a new trace."""


def note(spans: Spans, name: str, start_ns: int, end_ns: int, parent: str = "", **about: About) -> str:
    """Record a finished span; return its traceparent."""
    span = spans.begin(name, start_ns, parent)
    span.end(max(start_ns, end_ns), **about)
    return span.traceparent


def is_traced(traceparent: str | None) -> bool:
    """Whether *traceparent* is a valid trace context of a recorded trace."""
    return bool(traceparent) and _TRACED.fullmatch(traceparent or "") is not None


def is_in_share(event_id: str, share: float) -> bool:
    """Whether the event is in the traced *share*; the same in every part."""
    return hash64(event_id) < int(share * 2**64)


def trace_id_of(traceparent: str) -> str:
    """The trace id in a *traceparent* that ``is_traced``, as in logs."""
    return traceparent.split("-", 2)[1]


class ClickTraces:
    """Begins the traces of a *share* of clicks, and continues those that producers began."""

    def __init__(self, spans: Spans, share: float) -> None:
        self._spans = spans
        self._share = share

    def begin(self, event_id: str, parent: str | None, start_ns: int) -> Span | None:
        """The span of appending the click to the log, or ``None`` if it is not traced."""
        if is_traced(parent):
            return self._spans.begin("append", start_ns, parent or "")
        return self._spans.begin("append", start_ns) if is_in_share(event_id, self._share) else None
