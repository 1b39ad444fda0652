"""A real server on the loopback interface: streams come piece by piece and can be broken off."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rag import collection as shelf
from rag import ingest as steps
from rag import types as t
from rag.errors import StoreUnreachable
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.types import Scope
from rag.work import current_work
from services import events
from services.app import create_app
from tests.services.serving import (
    BELL_ROCK,
    FASTNET,
    events_of,
    is_problem,
    running,
    server,
    with_settings,
)
from tests.waiting import until


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


@pytest.fixture
def written(lm_parts, monkeypatch):
    """Every stream that the language model was asked for."""
    model, streams = lm_parts.generator.model, []
    stream = model.stream

    def noting(prompt, sampling):
        streams.append(stream(prompt, sampling))
        return streams[-1]

    monkeypatch.setattr(model, "stream", noting)
    return streams


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_what_only_looks_whether_it_is_there_is_answered(parts, path):
    """Load balancers and monitors ask with HEAD."""
    with server(Orchestrator(parts, Scope("default"))) as client:
        found = client.head(path)
        assert (found.status_code, found.content) == (200, b"")
        assert found.headers["content-type"] == client.get(path).headers["content-type"]


def test_a_client_that_goes_away_stops_the_model(lm_parts, lighthouses, written):
    watched = Watched(lm_parts)
    with server(watched) as client:
        body = asking(lighthouses, stream=True, max_new_tokens=2000, do_sample=False)
        with client.stream("POST", "/v1/ask", json=body) as response:
            next(line for line in response.iter_lines() if line == "event: token")
        assert watched.ended.wait(20)
        assert not watched.completed
        assert written[0].finish_reason == "cancelled"
        tokens = written[0].usage.completion_tokens
        assert 0 < tokens < 1000
        # Its model is free again: one generates at a time, and this one answers.
        assert client.post("/v1/ask", json=asking(lighthouses, max_new_tokens=2)).is_success
        assert written[0].usage.completion_tokens == tokens, "not one more was computed"
        assert written[1].usage.completion_tokens == 2


def test_a_client_that_does_not_stream_stops_the_model_too(lm_parts, lighthouses, written):
    watched = Watched(lm_parts)
    with server(watched) as client:
        body = asking(lighthouses, max_new_tokens=2000, do_sample=False)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/ask", json=body, timeout=httpx.Timeout(30, read=0.3))
        assert watched.ended.wait(20)
        assert not watched.completed
        assert written[0].finish_reason == "cancelled"


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


def test_a_caller_follows_so_many_jobs_at_once(own_parts, monkeypatch):
    """A stream whose client went away makes room again."""
    go_on = threading.Event()

    def parse(*arguments, parse=steps.parse):
        assert go_on.wait(60)
        return parse(*arguments)

    monkeypatch.setattr(steps, "parse", parse)
    own = with_settings(own_parts, jobs_followed=1)
    sent = {"documents": [{"id": "a", "text": "The light."}]}
    with server(Orchestrator(own, Scope("default"))) as client:
        path = f"/v1/jobs/{client.post('/v1/documents', json=sent).json()['job_id']}/events"
        with client.stream("GET", path) as first:
            lines = first.iter_lines()  # kept: without it the client would hang up
            assert next(lines) == "event: job"
            refused = client.get(path)
            is_problem(refused, 429, "/problems/overloaded")
            assert refused.headers["retry-after"] == "5"
        until(lambda: _follows(client, path))
        go_on.set()


def _follows(client, path):
    with client.stream("GET", path) as again:
        return again.status_code == 200


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


class Held(Orchestrator):
    """Answers as ever, once it is allowed to."""

    def __init__(self, parts) -> None:
        super().__init__(parts, Scope("default"))
        self.started, self.release = threading.Semaphore(0), threading.Event()

    def stream(self, question, **options):
        self.started.release()
        assert self.release.wait(60)
        yield from super().stream(question, **options)


def test_of_200_requests_at_once_each_is_answered_or_refused(parts, lighthouses):
    """4 run and 32 wait; with all 200 there before the first ends, that leaves 164 to refuse."""
    held = Held(with_settings(parts, max_answers=4, answers_waiting=32))

    async def ask_200(address) -> list[httpx.Response]:
        refused = 0

        async def ask(number):
            nonlocal refused
            body = asking(lighthouses, stream=number % 2 == 0)
            response = await client.post("/v1/ask", json=body)
            refused += response.status_code == 429
            if refused == 164:
                held.release.set()
            return response

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=address, timeout=60, trust_env=False, limits=limits
        ) as client:
            return await asyncio.gather(*map(ask, range(200)))

    with server(held) as client:
        responses = asyncio.run(ask_200(client.base_url))
        assert client.post("/v1/ask", json=asking(lighthouses)).status_code == 200
    assert Counter(response.status_code for response in responses) == {200: 36, 429: 164}
    for response in responses:
        if response.status_code == 429:
            assert int(response.headers["retry-after"]) >= 1
        else:
            assert "Robert Stevenson" in response.text


@pytest.fixture
def engine(parts, monkeypatch):
    """The embedder's engine, which waits before each batch while `gate` is closed."""
    engine = parts.embedder.encoder.engine
    gate, pooled = Gate(engine.workers), engine.pooled

    def gated(encodings):
        gate.pass_through()
        return pooled(encodings)

    monkeypatch.setattr(engine, "pooled", gated)
    yield gate
    gate.open.set()


class Gate:
    """Before an engine of so many workers; open at first."""

    def __init__(self, workers) -> None:
        self.open, self._reached, self._workers = threading.Event(), threading.Semaphore(0), workers
        self.open.set()

    def pass_through(self) -> None:
        self._reached.release()
        assert self.open.wait(30)

    def occupied_by(self, ask) -> list:
        """Close, and have every worker stand before the gate with somebody's question."""
        self.open.clear()
        asked = []
        for _ in range(self._workers):
            asked.append(ask())
            assert self._reached.acquire(timeout=20)
        return asked


def ask(client, collection):
    return client.post("/v1/ask", json=asking(collection))


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_whose_client_is_gone_is_dropped_before_it_is_computed(
    parts, lighthouses, engine, stream
):
    batcher = parts.embedder.encoder.batcher
    with server(Orchestrator(parts, Scope("default"))) as client, ThreadPoolExecutor() as threads:
        asked = engine.occupied_by(lambda: threads.submit(ask, client, lighthouses))
        before = batcher.stats
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                "/v1/ask",
                json=asking(lighthouses, stream=stream) | {"question": "Who lit the lamps?"},
                timeout=httpx.Timeout(30, read=0.5),
            )
        _until(lambda: batcher.stats.dropped > before.dropped)
        assert batcher.stats.waiting == 0
        engine.open.set()
        assert [answer.result(30).status_code for answer in asked] == [200] * len(asked)
        assert batcher.stats.dropped == before.dropped + 1


def test_a_search_whose_client_is_gone_is_dropped(parts, lighthouses, engine):
    batcher = parts.embedder.encoder.batcher
    with server(Orchestrator(parts, Scope("default"))) as client, ThreadPoolExecutor() as threads:
        asked = engine.occupied_by(lambda: threads.submit(ask, client, lighthouses))
        dropped = batcher.stats.dropped
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                "/v1/search",
                json={"collection": lighthouses, "query": "lamps"},
                timeout=httpx.Timeout(30, read=0.5),
            )
        _until(lambda: batcher.stats.dropped == dropped + 1)
        engine.open.set()
        assert [answer.result(30).status_code for answer in asked] == [200] * len(asked)


def test_stopping_lets_answers_end_and_puts_documents_back(own_parts, monkeypatch):
    """What was accepted is ingested by the next process, and its sender is told so."""
    held, parsing = Held(own_parts), threading.Event()
    shelf.ensure(own_parts, held.scope, "default")
    for title, text in (("Bell Rock", BELL_ROCK), ("Fastnet", FASTNET)):
        held.add(Source(name=title, origin=title, title=title, text=text))

    def parse(*arguments, parse=steps.parse):
        parsing.set()
        assert current_work().cancelled.wait(60)  # until the service stops
        return parse(*arguments)

    def post(path, body):
        return httpx.post(f"{address}{path}", json=body, timeout=60, trust_env=False)

    document = {"id": "at hand", "text": "The text of what was at hand."}
    sent = {"documents": [document]}
    with ThreadPoolExecutor() as threads, monkeypatch.context() as patched:
        patched.setattr(steps, "parse", parse)
        with running(create_app(orchestrator=held)) as client:
            address = str(client.base_url).rstrip("/")
            answer = threads.submit(post, "/v1/ask", asking("default"))
            at_hand = threads.submit(post, "/v1/documents?wait=true", sent)
            assert held.started.acquire(timeout=20)
            assert parsing.wait(20)
            # The answer may go on only once the document was put back, which comes first.
            at_hand.add_done_callback(lambda _: held.release.set())
        assert at_hand.result(0).status_code == 429
        assert "will be ingested when it runs again" in at_hand.result(0).json()["detail"]
        assert "Robert Stevenson" in answer.result(20).json()["answer"]
    with running(create_app(orchestrator=Orchestrator(own_parts, Scope("default")))) as client:
        _until(lambda: client.get("/v1/documents/at%20hand").status_code == 200)


def _until(happened) -> None:
    for _ in range(20_000):
        if happened():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never happened")
