"""Sends traces to a collector with OpenTelemetry's SDK and OTLP exporter, behind nearline/tracing.py.

A thread of the SDK sends spans in batches; if the collector is down, spans are lost and nothing else happens.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nearline.tracing import About

_EXPORT_S = 2.0
_CLOSE_S = 3.0
_PROPAGATOR = TraceContextTextMapPropagator()


class OtelSpan:
    """A span of OpenTelemetry."""

    def __init__(self, span: Span) -> None:
        self._span = span
        context = span.get_span_context()
        # The click was sampled before its first span was made, so every span is recorded.
        self.traceparent = f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-01"

    def end(self, end_ns: int, **about: About) -> None:
        """As ``nearline.tracing.Span.end``."""
        for name, value in about.items():
            self._span.set_attribute(f"nearline.{name}", value)
        self._span.end(end_ns)


class OtelSpans:
    """Passes spans of *part* to *processor*."""

    def __init__(self, part: str, processor: SpanProcessor) -> None:
        resource = Resource.create({"service.name": part, "service.namespace": "nearline"})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("nearline")

    def begin(self, name: str, start_ns: int, parent: str = "") -> OtelSpan:
        """As ``nearline.tracing.Spans.begin``."""
        context = _PROPAGATOR.extract({"traceparent": parent}, Context()) if parent else Context()
        return OtelSpan(self._tracer.start_span(name, context, start_time=start_ns))

    async def close(self) -> None:
        """Send the buffered spans; those that the collector does not accept within seconds are lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.to_thread(self._provider.shutdown)


def to_collector(endpoint: str, part: str) -> OtelSpans:
    """Spans that are sent to the OTLP collector at *endpoint* (HTTP)."""
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # it warns about each retried batch
    return OtelSpans(part, BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_EXPORT_S)))


class _Nowhere(SpanExporter):
    """Accepts every span and sends none."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def to_nowhere(part: str) -> OtelSpans:
    """Spans that are made and batched but not sent, to measure their cost."""
    return OtelSpans(part, BatchSpanProcessor(_Nowhere()))
