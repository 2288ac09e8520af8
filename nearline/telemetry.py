"""Telemetry: structured logs and metrics, the same in every process.

Metrics are in the default registry of ``prometheus_client``; each is declared beside the code that counts it, with the
functions here, so that all names start with ``nearline_`` and docs/metrics.md can list them (``make docs``).

A series that starts with its first event cannot show that event: ``rate`` and ``increase`` need a value before it. So
a declaration lists its label values, and their series exist, at 0, from the start. If they are known only when a part
is set up (a topic's name holds the space's number), the part calls ``begin``.
"""

import logging
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, cast

import structlog
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from structlog.typing import EventDict, Processor

from nearline.hashing import pseudonym
from nearline.tracing import is_traced, trace_id_of

# The time of a series' creation is not used, and would add a line for each.
disable_created_metrics()  # type: ignore[no-untyped-call]

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0)
# The E12 series from 1 ms to 1 s: each bound is at most a quarter above the one before, so a percentile interpolated
# between two is only a few percent off.
_E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
FINE_BUCKETS_S = (
    0.0005,
    *(round(step * decade, 6) for decade in (0.001, 0.01, 0.1) for step in _E12),
    *(1.0, 1.2, 1.5, 2.0, 5.0, 30.0, 300.0),
)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 8192.0)


class LoggedRequest(NamedTuple):
    """The ids of the current request for log lines; empty if it has none."""

    id: str
    user_id: str = ""
    traceparent: str = ""


_REQUEST: ContextVar[LoggedRequest | None] = ContextVar("request", default=None)


def in_request(request: LoggedRequest) -> None:
    """Attach *request* to all further log lines of this task."""
    _REQUEST.set(request)


def with_request(_: object, __: str, line: EventDict) -> EventDict:
    """Add the ids of the line's request."""
    request = _REQUEST.get()
    if request is not None:
        line.setdefault("request_id", request.id)
        if request.user_id:
            line.setdefault("user_id", request.user_id)
        if is_traced(request.traceparent):
            line.setdefault("trace_id", trace_id_of(request.traceparent))
    return line


def without_user_ids(key: str = "") -> Processor:
    """A processor that replaces every ``user_id`` with ``user``, a hash with *key*: no log line identifies a person."""

    def hashed(_: object, __: str, line: EventDict) -> EventDict:
        if "user_id" in line:
            line["user"] = pseudonym(str(line.pop("user_id")), key)
        return line

    return hashed


def logs_requests() -> bool:
    """Whether each request is logged: at level debug."""
    return _logs_requests


_logs_requests = False


def configure_logs(part: str, *, level: str = "info", style: str = "json", key: str = "") -> None:
    """Log to stderr as one JSON object a line (or coloured text, *style* ``console``), each naming *part*.

    A line names its request and trace, and a user only as a hash with *key*.
    """
    global _logs_requests
    _logs_requests = level.lower() == "debug"
    last: Processor = structlog.dev.ConsoleRenderer() if style == "console" else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            with_request,
            without_user_ids(key),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper(), logging.INFO)),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    structlog.contextvars.bind_contextvars(part=part)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    # It logs every lost connection; the parts log what that means for them.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def get_logger() -> structlog.stdlib.BoundLogger:
    """The process's structured logger."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger())


# --- metrics ---------------------------------------------------------------------------------------------------------

Values = str | tuple[str, ...]  # of one label, or of all labels in order
Metric = TypeVar("Metric", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Declared:
    """A declared metric; *known* are the label values whose series exist from the start."""

    name: str
    kind: str  # counter, gauge or histogram
    about: str
    labels: tuple[str, ...]
    known: list[tuple[str, ...]] = field(default_factory=list)


_DECLARED: dict[str, Declared] = {}


def declared() -> list[Declared]:
    """Every metric declared by the modules imported so far, by name."""
    return [_DECLARED[name] for name in sorted(_DECLARED)]


def counter(name: str, about: str, *labels: str, known: Iterable[Values] = ()) -> Counter:
    """A counter ``nearline_<name>``; *name* ends in ``_total``."""
    return _declare("counter", Counter(f"nearline_{name}", about, labels), name, about, labels, known)


def gauge(name: str, about: str, *labels: str, known: Iterable[Values] = ()) -> Gauge:
    """A gauge ``nearline_<name>``; *name* ends in a base unit, the plural of what it counts, ``_up`` or ``_info``."""
    return _declare("gauge", Gauge(f"nearline_{name}", about, labels), name, about, labels, known)


def seconds(
    name: str,
    about: str,
    *labels: str,
    known: Iterable[Values] = (),
    buckets: Sequence[float] = LATENCY_BUCKETS_S,
) -> Histogram:
    """A histogram of durations ``nearline_<name>``; *name* ends in ``_seconds``."""
    metric = Histogram(f"nearline_{name}", about, labels, buckets=buckets)
    return _declare("histogram", metric, name, about, labels, known)


def sizes(name: str, about: str, *labels: str, known: Iterable[Values] = ()) -> Histogram:
    """A histogram of batch sizes ``nearline_<name>``; *name* ends in what is counted."""
    metric = Histogram(f"nearline_{name}", about, labels, buckets=BATCH_BUCKETS)
    return _declare("histogram", metric, name, about, labels, known)


def begin(metric: Counter | Gauge | Histogram, known: Iterable[Values]) -> None:
    """Create the series of these label values; new ones are at 0."""
    about = _DECLARED.get(metric._name) or _DECLARED[f"{metric._name}_total"]
    for one in known:
        values = (one,) if isinstance(one, str) else one
        metric.labels(*values)
        if values not in about.known:
            about.known.append(values)


def _declare(
    kind: str, metric: Metric, name: str, about: str, labels: tuple[str, ...], known: Iterable[Values]
) -> Metric:
    _DECLARED[f"nearline_{name}"] = Declared(f"nearline_{name}", kind, about, labels)
    begin(metric, known)
    return metric
