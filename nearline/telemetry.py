"""Telemetry: structured logs and the metrics' names, the same in every process.

Metrics live in the default registry of ``prometheus_client``; each is declared beside the code that counts it, through
the functions here, so that all of them start with ``nearline_``.
"""

import logging
import sys
from collections.abc import Sequence
from typing import cast

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


def counter(name: str, about: str, *labels: str) -> Counter:
    """A counter ``nearline_<name>``; *name* ends in ``_total``."""
    return Counter(f"nearline_{name}", about, labels)


def gauge(name: str, about: str, *labels: str) -> Gauge:
    """A gauge ``nearline_<name>`` with its unit in the name."""
    return Gauge(f"nearline_{name}", about, labels)


def seconds(name: str, about: str, *labels: str, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> Histogram:
    """A histogram of durations ``nearline_<name>``; *name* ends in ``_seconds``."""
    return Histogram(f"nearline_{name}", about, labels, buckets=buckets)
