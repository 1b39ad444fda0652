"""Spans by OpenTelemetry: sent over OTLP where the `OTEL_...` variables of the environment say.

Needs the extra `otel`. The exporter speaks HTTP; sampling, resource and headers are configured as
everywhere, by `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_HEADERS` and so on.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from rag import __version__
from rag.errors import Cancelled, MissingExtra
from rag.spans import SILENT, Attributes, Span, Spans, ended

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def open_spans(wanted: bool | Literal["auto"]) -> Spans:
    """Where spans go: nowhere unless that is wanted, `auto` by the environment.

    Raises MissingExtra.
    """
    if wanted == "auto":
        wanted = any(os.environ.get(name) for name in ENDPOINTS)
    if not wanted:
        return SILENT
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise MissingExtra(
            "OpenTelemetry is configured, but not installed.",
            hint='Run: pip install "ragstone[otel]", or set RAG_OTEL=false.',
        ) from None
    ours = Resource.create({"service.name": "ragstone", "service.version": __version__})
    # What the environment says of the service wins.
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelSpans(provider)


class OtelSpans:
    """Spans of one provider. Thread-safe."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("ragstone", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def start(self, name: str, attributes: Attributes) -> Span:
        """A span that begins now, part of the request that is current, if one is."""
        return OtelSpan(self._tracer, self._tracer.start_span(name, attributes=attributes))

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator["OtelSpan"]:
        """The span of an HTTP request, current within the block; its caller's trace goes on."""
        from opentelemetry.trace import SpanKind, use_span

        made = self._tracer.start_span(
            method,
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        )
        # What is raised ends the span below; here it would be recorded with its message.
        with (
            use_span(made, record_exception=False, set_status_on_exception=False),
            ended(OtelSpan(self._tracer, made)) as span,
        ):
            yield span

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


class OtelSpan:
    """A span. Its parent is given, never ambient: the steps of an answer run in several threads."""

    def __init__(self, tracer: "trace.Tracer", span: "trace.Span") -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        """Of the trace that it is part of."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def child(self, name: str, attributes: Attributes) -> Span:
        """A part of it that begins now."""
        from opentelemetry.trace import set_span_in_context

        within = set_span_in_context(self._span)
        made = self._tracer.start_span(name, context=within, attributes=attributes)
        return OtelSpan(self._tracer, made)

    def set(self, attributes: Attributes) -> None:
        """Say more about it."""
        self._span.set_attributes(attributes)

    def answered(self, method: str, route: str, status: int) -> None:
        """Which route took it, and what it was answered."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}".strip())
        self.set({"http.response.status_code": status})
        if route:
            self.set({"http.route": route})
        if status >= 500:
            self.set({"error.type": str(status)})
            self._span.set_status(StatusCode.ERROR)

    def end(self, error: BaseException | None = None) -> None:
        """It is over. Of an error its class is told, not its message: that may quote a document."""
        from opentelemetry.trace import StatusCode

        if error is not None and not isinstance(error, GeneratorExit | Cancelled):
            self._span.set_attribute("error.type", type(error).__qualname__)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
