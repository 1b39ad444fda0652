"""Spans of real answers, as OpenTelemetry's own SDK received them."""

import sys
from contextlib import closing

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from rag.errors import MissingExtra, NotFound
from rag.otel import OtelSpans, open_spans
from rag.sampling import Sampling
from rag.spans import SILENT

QUESTION = "How many metres inland was the Cape Hatteras lighthouse moved?"
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def exported(lighthouse, monkeypatch):
    """The spans that have ended, in that order."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(lighthouse.parts, "spans", OtelSpans(provider))
    yield exporter.get_finished_spans
    provider.shutdown()


def named(spans):
    return {span.name: span for span in spans}


def parent_of(span, spans):
    """The name of the span that a span is part of; None for a root."""
    by_id = {one.context.span_id: one.name for one in spans}
    return by_id[span.parent.span_id] if span.parent else None


def test_an_answer_is_a_tree_of_its_stages(lighthouse, exported):
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=64, do_sample=True, seed=7)
    lighthouse.ask(QUESTION, collection="lighthouse", sampling=sampling, limit=4)
    spans = exported()
    tree = {span.name: parent_of(span, spans) for span in spans}
    answer, search = "invoke_workflow answer", "retrieval lighthouse"
    assert tree == {
        answer: None,
        "condense": answer,
        "cache": answer,
        search: answer,
        f"embeddings {EMBEDDER}": search,
        "retrieve": search,
        "rerank late-interaction": search,
        "pack": answer,
        "support": answer,
        "chat quote": answer,
        "cite": answer,
    }
    assert len({span.context.trace_id for span in spans}) == 1
    assert dict(named(spans)["chat quote"].attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ragstone",
        "gen_ai.request.model": "quote",
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.seed": 7,
        "gen_ai.usage.input_tokens": 0,  # it reads no prompt
        "gen_ai.usage.output_tokens": 0,
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert dict(named(spans)[search].attributes) == {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.provider.name": "ragstone",
        "gen_ai.data_source.id": "lighthouse",
        "gen_ai.request.top_k": 4.0,
    }
    assert (
        named(spans)[f"embeddings {EMBEDDER}"].attributes["gen_ai.operation.name"] == "embeddings"
    )
    assert all(span.status.status_code is StatusCode.UNSET for span in spans)


def test_a_stage_lies_within_what_it_is_part_of(lighthouse, exported):
    lighthouse.ask(QUESTION, collection="lighthouse")
    spans = exported()
    whole = named(spans)["invoke_workflow answer"]
    assert all(
        whole.start_time <= one.start_time <= one.end_time <= whole.end_time for one in spans
    )


def test_no_word_of_questions_documents_or_answers_is_exported(lighthouse, exported):
    answer = lighthouse.ask(QUESTION, collection="lighthouse")
    lighthouse.search("Fastnet granite", collection="lighthouse")
    with pytest.raises(NotFound):
        lighthouse.ask("Something private", collection="nowhere at all")
    text = "".join(span.to_json() for span in exported())
    words = {
        "inland",
        "Hatteras",
        "Fastnet",
        "granite",
        "private",
        answer.text,
        *answer.text.split(),
    }
    said = {word for word in words if len(word) > 5 and word in text}
    assert said == set()
    assert all(not span.events for span in exported()), "an exception's message is an event"


def test_an_error_is_named_by_its_class_alone(lighthouse, exported):
    with pytest.raises(NotFound):
        lighthouse.ask(QUESTION, collection="nowhere")
    (span,) = exported()
    assert span.attributes["error.type"] == "NotFound"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None


def test_who_goes_away_ends_the_spans_and_is_no_error(lighthouse, exported):
    with closing(lighthouse.stream(QUESTION, collection="lighthouse")) as events:
        assert next(events)
    spans = named(exported())
    assert spans["invoke_workflow answer"].status.status_code is StatusCode.UNSET
    assert "pack" not in spans


def test_a_refusal_asked_no_model(lighthouse, exported):
    answer = lighthouse.ask("What did the minister of finance say?", collection="lighthouse")
    assert answer.abstained
    assert {"generate", "support"} <= set(named(exported()))
    assert not any(name.startswith("chat") for name in named(exported()))


def test_a_search_is_a_tree_of_its_own(lighthouse, exported):
    lighthouse.search(QUESTION, collection="lighthouse", mode="bm25", rerank=False)
    spans = exported()
    # BM25 asks no embedder, so its stage is no `embeddings`.
    tree = {span.name: parent_of(span, spans) for span in spans}
    search = "retrieval lighthouse"
    assert tree == {search: None, "embed": search, "retrieve": search}


def test_a_request_goes_on_with_its_callers_trace(lighthouse, exported):
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
    with lighthouse.parts.spans.request("POST", headers) as request:
        assert request.trace_id == trace_id
        lighthouse.search(QUESTION, collection="lighthouse")
        request.answered("POST", "/v1/search", 503)
    spans = exported()
    server = named(spans)["POST /v1/search"]
    assert server.kind is SpanKind.SERVER
    assert f"{server.parent.span_id:016x}" == span_id
    assert dict(server.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/search",
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert parent_of(named(spans)["retrieval lighthouse"], spans) == "POST /v1/search"


@pytest.fixture
def no_endpoint(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_endpoint")
def test_it_is_off_unless_it_is_wanted(monkeypatch):
    assert open_spans("auto") is SILENT
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert open_spans(False) is SILENT
    on = open_spans("auto")
    assert on is not SILENT
    on.close()


@pytest.mark.usefixtures("no_endpoint")
@pytest.mark.parametrize(
    "gone", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"]
)
def test_an_extra_that_is_missing_names_its_cure(monkeypatch, gone):
    for name in ("", ".trace_exporter", ".export"):
        monkeypatch.setitem(sys.modules, gone + name, None)
    with pytest.raises(MissingExtra, match=r'pip install "ragstone\[otel\]"'):
        open_spans(True)


@pytest.mark.usefixtures("no_endpoint")
def test_the_environment_names_the_service(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
    spans = open_spans(True)
    assert spans._provider.resource.attributes["service.name"] == "answers"
    assert spans._provider.resource.attributes["telemetry.sdk.name"] == "opentelemetry"
    spans.close()
