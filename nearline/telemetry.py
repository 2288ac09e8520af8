"""Telemetry: structured logs and the metrics' names, the same in every process.

Metrics live in the default registry of ``prometheus_client``; each is declared beside the code that counts it, through
the functions here, so that all of them start with ``nearline_`` and docs/metrics.md can list them (``make docs``).

A series that is born with its first event cannot show that event: ``rate`` and ``increase`` need a value before it. So
a declaration names the label values that it may count by, and their series exist, at 0, from the start. Where those
are known only when a part is put together (a topic's name holds the space's number), the part calls ``begin``.
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

# Nobody asks when a series was born, and it would be a line of its own for each.
disable_created_metrics()  # type: ignore[no-untyped-call]

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0)
# The E12 series from 1 ms to 1 s: no bound is more than a quarter above the one before, so a percentile that is read
# between two is off by a few percent only.
_E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
FINE_BUCKETS_S = (
    0.0005,
    *(round(step * decade, 6) for decade in (0.001, 0.01, 0.1) for step in _E12),
    *(1.0, 1.2, 1.5, 2.0, 5.0, 30.0, 300.0),
)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 8192.0)


class LoggedRequest(NamedTuple):
    """The request that is being answered, as log lines name it; empty for what it has not."""

    id: str
    user_id: str = ""
    traceparent: str = ""


_REQUEST: ContextVar[LoggedRequest | None] = ContextVar("request", default=None)


def in_request(request: LoggedRequest) -> None:
    """What this task logs from here on is about *request*."""
    _REQUEST.set(request)


def with_request(_: object, __: str, line: EventDict) -> EventDict:
    """Add the ids of the request that the line belongs to."""
    request = _REQUEST.get()
    if request is not None:
        line.setdefault("request_id", request.id)
        if request.user_id:
            line.setdefault("user_id", request.user_id)
        if is_traced(request.traceparent):
            line.setdefault("trace_id", trace_id_of(request.traceparent))
    return line


def without_user_ids(key: str = "") -> Processor:
    """Puts ``user``, a hash by *key*, in the place of every ``user_id``: no log line names a person."""

    def hashed(_: object, __: str, line: EventDict) -> EventDict:
        if "user_id" in line:
            line["user"] = pseudonym(str(line.pop("user_id")), key)
        return line

    return hashed


def logs_requests() -> bool:
    """Whether each request is to be logged: at level debug."""
    return _logs_requests


_logs_requests = False


def configure_logs(part: str, *, level: str = "info", style: str = "json", key: str = "") -> None:
    """Log to stderr as one JSON object a line (or coloured text, *style* ``console``), each naming *part*.

    A line tells the request and the trace that it belongs to, and of a user only a hash by *key*.
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
    # Its own words on every lost connection; what it means for us is logged by the parts.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def get_logger() -> structlog.stdlib.BoundLogger:
    """The process's structured logger."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger())


# --- metrics ---------------------------------------------------------------------------------------------------------

Values = str | tuple[str, ...]  # of one label, or of all of them in their order
Metric = TypeVar("Metric", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as it was declared; *known* are the label values whose series exist from the start."""

    name: str
    kind: str  # counter, gauge or histogram
    about: str
    labels: tuple[str, ...]
    known: list[tuple[str, ...]] = field(default_factory=list)


_DECLARED: dict[str, Declared] = {}


def declared() -> list[Declared]:
    """Every metric that the modules imported so far declare, by name."""
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
    """A histogram of how many were dealt with together, ``nearline_<name>``; *name* ends in what they are."""
    metric = Histogram(f"nearline_{name}", about, labels, buckets=BATCH_BUCKETS)
    return _declare("histogram", metric, name, about, labels, known)


def begin(metric: Counter | Gauge | Histogram, known: Iterable[Values]) -> None:
    """Have the series of these label values from now on, at 0 where they are new."""
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
