"""A real server on the loopback interface: streams come piece by piece and can be broken off."""

import threading

import httpx
import pytest

from rag import types as t
from rag.errors import StoreUnreachable
from rag.orchestrator import Orchestrator
from rag.types import Scope
from services import events
from tests.services.serving import events_of, server


class Watched(Orchestrator):
    """Answers as ever, and says when an answer ended, having counted its pieces."""

    def __init__(self, parts) -> None:
        super().__init__(parts, Scope("default"))
        self.ended, self.pieces, self.completed = threading.Event(), 0, False

    def stream(self, question, **options):
        try:
            for event in super().stream(question, **options):
                self.pieces += isinstance(event, t.TextPiece)
                yield event
            self.completed = True
        finally:
            self.ended.set()


def asking(collection, **more):
    return {"collection": collection, "question": "Who built Bell Rock?", "limit": 1, **more}


def test_an_answer_over_a_real_connection(lm_parts, lighthouses):
    watched = Watched(lm_parts)
    with server(watched) as client:
        body = asking(lighthouses, stream=True, max_new_tokens=8, do_sample=False)
        with client.stream("POST", "/v1/ask", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            found = events_of("".join(response.iter_text()))
        assert [name for name, _ in found][:2] == ["retrieval", "token"]
        assert found[-1][0] == "done"
        assert client.get("/healthz").json()["status"] == "ok"
    assert watched.completed


def test_a_client_that_goes_away_stops_the_model(lm_parts, lighthouses):
    watched = Watched(lm_parts)
    with server(watched) as client:
        body = asking(lighthouses, stream=True, max_new_tokens=2000, do_sample=False)
        with client.stream("POST", "/v1/ask", json=body) as response:
            next(line for line in response.iter_lines() if line == "event: token")
        assert watched.ended.wait(20)
        assert not watched.completed
        assert watched.pieces < 1000
        # Its model is free again: one generates at a time, and this one answers.
        assert client.post("/v1/ask", json=asking(lighthouses, max_new_tokens=2)).is_success


def test_a_client_that_does_not_stream_stops_the_model_too(lm_parts, lighthouses):
    watched = Watched(lm_parts)
    with server(watched) as client:
        body = asking(lighthouses, max_new_tokens=2000, do_sample=False)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/ask", json=body, timeout=httpx.Timeout(30, read=0.3))
        assert watched.ended.wait(20)
        assert not watched.completed


def test_what_fails_half_way_is_the_last_event(parts, lighthouses):
    class Failing(Orchestrator):
        def stream(self, question, **options):
            yield next(super().stream(question, **options))
            if "surprise" in question:
                raise ZeroDivisionError("secret")
            raise StoreUnreachable("Qdrant is gone.", hint="Start it.")

    with server(Failing(parts, Scope("default"))) as client:
        for question, status in (("Who?", 503), ("A surprise?", 500)):
            body = asking(lighthouses, stream=True) | {"question": question}
            found = events_of(client.post("/v1/ask", json=body).text)
            assert [name for name, _ in found] == ["retrieval", "error"]
            assert found[-1][1]["status"] == status
            assert found[-1][1]["instance"] == "/v1/ask"
            assert "secret" not in str(found)


def test_a_long_silence_is_filled(parts, lighthouses, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.01)

    class Thinking(Orchestrator):
        def stream(self, question, **options):
            made = super().stream(question, **options)
            yield next(made)
            assert release.wait(20)
            yield from made

    body = asking(lighthouses, stream=True)
    with (
        server(Thinking(parts, Scope("default"))) as client,
        client.stream("POST", "/v1/ask", json=body) as response,
    ):
        lines = response.iter_lines()
        next(line for line in lines if line == ": waiting")
        release.set()
        assert "event: done" in lines
