"""Traces: one from a click to the first answer that used it, its context in the events' ``traceparent`` (W3C).

Whether a click is traced depends on its event id alone (``is_in_share``), or on the producer who says so in the event.
A part notes what it did once it knows when that was; without an exporter there is nobody to note it for, and no part
does anything. ``nearline/adapters/traces.py`` sends what is noted.
"""

import re
from typing import Protocol

from nearline.hashing import hash64

About = str | int | float | bool
# Version, trace and span (neither of zeros), and flags whose last bit says that it is traced.
_TRACED = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")


class Span(Protocol):
    """Something that began; *traceparent* is its own, for what it causes."""

    @property
    def traceparent(self) -> str: ...

    def end(self, end_ns: int, **about: About) -> None:
        """It ended then (``time.time_ns``); *about* is what else there is to say."""


class Spans(Protocol):
    """Where spans go; neither waits nor fails."""

    def begin(self, name: str, start_ns: int, parent: str = "") -> Span:
        """*name* began at *start_ns* because of the span whose traceparent is *parent*; without one a trace begins."""


def note(spans: Spans, name: str, start_ns: int, end_ns: int, parent: str = "", **about: About) -> str:
    """A whole span; its traceparent."""
    span = spans.begin(name, start_ns, parent)
    span.end(max(start_ns, end_ns), **about)
    return span.traceparent


def is_traced(traceparent: str | None) -> bool:
    """Whether it is a trace context, and one of a trace that is recorded."""
    return bool(traceparent) and _TRACED.fullmatch(traceparent or "") is not None


def is_in_share(event_id: str, share: float) -> bool:
    """Whether the event is of the *share* of all that is traced; the same wherever it is asked."""
    return hash64(event_id) < int(share * 2**64)


def trace_id_of(traceparent: str) -> str:
    """The trace's id, as logs name it; of one that ``is_traced``."""
    return traceparent.split("-", 2)[1]


class ClickTraces:
    """Begins the traces of a *share* of clicks, and goes on with those that their producers began."""

    def __init__(self, spans: Spans, share: float) -> None:
        self._spans = spans
        self._share = share

    def begin(self, event_id: str, parent: str | None, start_ns: int) -> Span | None:
        """The span of the click's way into the log, or ``None`` if it is not traced."""
        if is_traced(parent):
            return self._spans.begin("append", start_ns, parent or "")
        return self._spans.begin("append", start_ns) if is_in_share(event_id, self._share) else None
