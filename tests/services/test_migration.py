"""Migrations over HTTP, while the collection serves."""

import time

import pytest

from rag import ingest as steps
from rag.fsck import examine
from tests import tiny_models
from tests.services.serving import BELL_ROCK, FASTNET, is_problem, serving

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
ROUTE = "/v1/collections/docs/migration"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(tiny_models.bge(tmp_path_factory.mktemp("models") / "tiny", max_tokens=128))


@pytest.fixture
def docs(own_parts):
    """A server of one's own, with a collection of two documents."""
    with serving(own_parts) as client:
        assert client.post("/v1/collections", json={"name": "docs"}).status_code == 201
        documents = [{"id": "bell", "text": BELL_ROCK}, {"id": "fastnet", "text": FASTNET}]
        sent = {"collection": "docs", "documents": documents}
        assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
        yield client


def until(client, *states: str) -> dict:
    for _ in range(600):
        found = client.get(ROUTE)
        state = found.json()["state"] if found.status_code == 200 else "none"
        if state in states:
            return found.json()
        time.sleep(0.05)
    raise AssertionError(f"it is still {state}")


def found_by(client) -> set[str]:
    """Which documents a search finds."""
    asked = {"query": "Which lighthouse?", "collection": "docs"}
    response = client.post("/v1/search", json=asked)
    assert response.status_code == 200, response.text
    return {hit["document_id"] for hit in response.json()["hits"]}


def embedder(client) -> str:
    return client.get("/v1/collections/docs").json()["embedder"]


def test_there_and_back_and_dropped(docs, own_parts, tiny):
    is_problem(docs.get(ROUTE), 404, "/problems/not-found")
    started = docs.post(ROUTE, json={"to": tiny, "most_loss": 1})
    assert started.status_code == 202, started.text
    assert started.json()["serving"] == MINILM
    flipped = until(docs, "flipped")
    assert (flipped["serving"], flipped["aside"]) == (tiny, MINILM)
    assert (flipped["done"], flipped["total"]) == (2, 2)
    assert flipped["comparison"]["queries"] == 2
    assert (embedder(docs), found_by(docs)) == (tiny, {"bell", "fastnet"})
    listed = docs.get("/v1/collections").json()["collections"]
    assert [one["name"] for one in listed] == ["docs"]  # the other index is nobody's business
    assert len(docs.get("/v1/jobs?collection=docs").json()["jobs"]) == 1

    sent = {"collection": "docs", "documents": [{"id": "new", "text": "A third lighthouse."}]}
    assert docs.post("/v1/documents?wait=true", json=sent).status_code == 200
    assert docs.post(f"{ROUTE}/back").status_code == 202
    until(docs, "ready")
    assert (embedder(docs), found_by(docs)) == (MINILM, {"bell", "fastnet", "new"})
    assert docs.post(f"{ROUTE}/flip").status_code == 202
    until(docs, "flipped")
    assert docs.delete(ROUTE).status_code == 202
    for _ in range(600):
        if docs.get(ROUTE).status_code == 404:
            break
        time.sleep(0.05)
    assert (embedder(docs), found_by(docs)) == (tiny, {"bell", "fastnet", "new"})
    assert [finding.what for finding in examine(own_parts)] == []


def test_wrong_requests_are_refused_at_once(docs, tiny):
    is_problem(docs.post(ROUTE, json={"to": MINILM}), 409, "/problems/conflict")
    is_problem(docs.post(ROUTE, json={"to": "/no/model"}), 422, "/problems/invalid-input")
    is_problem(docs.post(ROUTE, json={"to": tiny, "task": "x"}), 422, "/problems/invalid-input")
    is_problem(docs.post(ROUTE, json={"to": tiny, "most_loss": 2}), 422, "/problems/invalid-input")
    is_problem(docs.post(f"{ROUTE}/flip"), 404, "/problems/not-found")
    is_problem(docs.delete(ROUTE), 404, "/problems/not-found")
    elsewhere = docs.post("/v1/collections/nowhere/migration", json={"to": tiny})
    is_problem(elsewhere, 404, "/problems/not-found")
    assert docs.post(ROUTE, json={"to": tiny, "flip": False}).status_code == 202
    until(docs, "ready")
    is_problem(docs.post(f"{ROUTE}/back"), 409, "/problems/conflict")


def test_a_restarted_server_goes_on(own_parts, tiny, monkeypatch):
    """The first server stops while a document is written; the second one ends the migration."""
    with serving(own_parts) as first:
        first.post("/v1/collections", json={"name": "docs"})
        documents = [{"id": "bell", "text": BELL_ROCK}, {"id": "fastnet", "text": FASTNET}]
        sent = {"collection": "docs", "documents": documents}
        assert first.post("/v1/documents?wait=true", json=sent).status_code == 200
        with monkeypatch.context() as patch:
            migrator = first.app.state.service.migrator

            def store(*arguments, store=steps.store):
                store(*arguments)
                migrator._cancelled.set()  # as closing does, in the middle of a document

            patch.setattr(steps, "store", store)
            assert first.post(ROUTE, json={"to": tiny, "most_loss": 1}).status_code == 202
            migrator._thread.join(60)
        assert first.get(ROUTE).json()["state"] == "building"
        assert (embedder(first), found_by(first)) == (MINILM, {"bell", "fastnet"})
    with serving(own_parts) as second:
        assert until(second, "flipped")["serving"] == tiny
        assert found_by(second) == {"bell", "fastnet"}
    assert [finding.what for finding in examine(own_parts)] == []
