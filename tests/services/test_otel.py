"""Spans of requests to a running server, and a service that is asked for more than is installed."""

import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rag.errors import MissingExtra
from rag.otel import OtelSpans
from rag.spans import SILENT
from services import chat
from services import service as services
from services.app import create_app
from tests.services.serving import server, serving, with_settings

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture
def exporter(lighthouse, monkeypatch):
    """Where spans of the shared documents go."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(lighthouse.parts, "spans", OtelSpans(provider))
    yield kept
    provider.shutdown()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_part_of_its_request_and_that_of_its_callers_trace(
    lighthouse, exporter, stream
):
    """Through the pool's threads: each step of a stream may run in another one."""
    body = {"question": "How far was it moved?", "collection": "lighthouse", "stream": stream}
    with server(lighthouse) as http:
        assert http.post("/v1/ask?private=1", json=body, headers=HEADERS).is_success
    by_name = {span.name: span for span in exporter.get_finished_spans()}
    del by_name["GET /healthz"]  # by which the test saw that the server is up
    assert {f"{span.context.trace_id:032x}" for span in by_name.values()} == {TRACE}
    request, answer = by_name["POST /v1/ask"], by_name["invoke_workflow answer"]
    assert f"{request.parent.span_id:016x}" == CALLER
    assert answer.parent.span_id == request.context.span_id
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/ask",
        "http.response.status_code": 200,
    }


def test_a_request_that_fails_is_an_error_without_its_message(lighthouse, exporter, monkeypatch):
    def fail(*_, **__):
        raise ValueError("s3cret")

    monkeypatch.setattr("rag.orchestrator.retrieve", fail)
    with serving(lighthouse.parts) as client:
        exporter.clear()
        body = {"query": "where", "collection": "lighthouse"}
        assert client.post("/v1/search", json=body).status_code == 500
        assert client.get("/v1/jobs/nobody").status_code == 404
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["retrieve"].attributes["error.type"] == "ValueError"
    assert spans["POST /v1/search"].attributes["error.type"] == "ValueError"
    assert "error.type" not in spans["GET /v1/jobs/{job_id}"].attributes, "the client's mistake"
    assert not any("s3cret" in span.to_json() for span in spans.values())


def test_a_service_has_none_by_default(parts, monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with serving(parts) as client:
        assert client.app.state.service.parts.spans is SILENT


def test_a_service_that_is_configured_has_them(parts):
    # Nothing listens there; nothing is sent either before its batch is due.
    own = with_settings(parts, otel=True)
    with serving(own) as client:
        assert isinstance(client.app.state.service.parts.spans, OtelSpans)


def test_what_is_not_installed_is_said_before_anything_is_opened(parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"ragstone\[otel\]"):
        create_app(parts.settings.model_copy(update={"otel": True}))
    monkeypatch.setenv("RAG_OTEL", "true")
    with pytest.raises(SystemExit, match=r'pip install "ragstone\[otel\]"'):
        services.run(chat.create_app)


def test_a_tool_call_of_an_agent_is_part_of_its_request(lighthouse, exporter):
    """Each call belongs to its own request."""
    accepts = {"Accept": "application/json, text/event-stream"}
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
    hello["clientInfo"] = {"name": "test", "version": "1"}
    tool = {"name": "search", "arguments": {"query": "light", "collection": "lighthouse"}}

    def call(http, number, method, params, **headers):
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        return http.post("/mcp", json=message, headers={**accepts, **headers})

    with server(lighthouse) as http:
        assert "mcp-session-id" not in call(http, 1, "initialize", hello).headers
        found = call(http, 2, "tools/call", tool, **HEADERS)
        assert "hits" in found.text
    spans = exporter.get_finished_spans()
    (search,) = [span for span in spans if span.name == "retrieval lighthouse"]
    assert f"{search.context.trace_id:032x}" == TRACE
