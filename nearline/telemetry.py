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
from dataclasses import dataclass, field
from typing import TypeVar, cast

import structlog
from prometheus_client import Counter, Gauge, Histogram

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


def configure_logs(part: str, *, level: str = "info", style: str = "json") -> None:
    """Log to stderr as one JSON object a line (or coloured text, *style* ``console``), each naming *part*."""
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if style == "console" else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
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
