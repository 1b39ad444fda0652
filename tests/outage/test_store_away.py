"""The store goes away in the middle of ingestion, and comes back: jobs wait for it, nobody else."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from rag import collection as shelf
from rag import jobs
from rag.fsck import examine
from rag.orchestrator import Orchestrator
from rag.parts import Parts, open_parts
from rag.settings import load_settings
from rag.types import Scope
from services.app import create_app
from tests.qdrant_shim import qdrant
from tests.services.serving import is_problem, running
from tests.tcp_proxy import Proxy
from tests.waiting import until

# `make soak` lets it be away for a minute, with the settings that users have.
AWAY_SECONDS = float(os.environ.get("RAG_SOAK_OUTAGE_SECONDS", "0"))
PATIENCE = (
    {}
    if AWAY_SECONDS
    else {"qdrant_timeout": 1, "ingest_retry_seconds": 0.2, "ingest_retries": 1000}
)
DOCUMENTS = [f"doc-{n}" for n in range(12)]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """The network between us and a Qdrant server, or the shim that stands in for one."""
    with qdrant(tmp_path / "shim") as (host, port):
        made = Proxy(host, port)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def parts(proxy: Proxy, tmp_path: Path, lighthouse: Orchestrator) -> Iterator[Parts]:
    """Stores behind the proxy, with the models that are loaded already."""
    settings = load_settings(
        data=tmp_path / "data", profile="starter", qdrant_url=proxy.url, embed_batch=4,
        chunk_tokens=64, chunk_overlap=0, ingest_threads=2, **PATIENCE,
    )  # fmt: skip
    opened = open_parts(settings)
    for name in ("embedder", "reranker", "generator", "late interaction"):
        getattr(lighthouse.parts, name.replace(" ", "_"))
        opened._loaded[name] = lighthouse.parts._loaded[name]
    yield opened
    opened.close()


def text_of(name: str, paragraphs: int = 12) -> str:
    sentence = f"The lamp of {name} burns oil all night long, and the horn sounds in fog. "
    return "\n\n".join(f"Paragraph {n}. {sentence * 4}" for n in range(paragraphs))


def send(client: httpx.Client, *names: str, wait: bool = False) -> str:
    documents = [{"id": name, "text": text_of(name)} for name in names]
    sent = client.post("/v1/documents", params={"wait": wait}, json={"documents": documents})
    assert sent.status_code == (200 if wait else 202), sent.text
    return sent.json()["job_id"]


def searched(client: httpx.Client, name: str) -> httpx.Response:
    body = {"query": f"lamp of {name}", "filter": {"document_id": name}, "limit": 3}
    return client.post("/v1/search", json=body)


def ready(client: httpx.Client) -> bool:
    return client.get("/readyz").status_code == 200


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_jobs_wait_for_a_store_that_is_away(how, proxy, parts, monkeypatch):
    monkeypatch.setattr(jobs, "SWEEP_SECONDS", 0.5)
    scope = Scope("default")
    with ExitStack() as stack:
        app = create_app(orchestrator=Orchestrator(parts, scope))
        client = stack.enter_context(running(app))
        send(client, "kept", "gone", wait=True)
        until(lambda: ready(client))
        job = send(client, *DOCUMENTS)

        def tasks() -> list[dict]:
            return parts.journal.job(scope, job).tasks

        until(lambda: any(task.done for task in tasks()))
        getattr(proxy, how)()
        away = time.monotonic()
        until(lambda: any(task.retries for task in tasks()))
        waiting = next(task for task in tasks() if task.retries)
        assert waiting.error.kind == "StoreUnreachable"
        assert waiting.error.message == "Qdrant does not answer."  # where it is, is for the log
        late = send(client, "late")  # accepting needs no store
        for question in (
            searched(client, "kept"),
            client.post("/v1/ask", json={"question": "What burns oil?"}),
        ):
            found = is_problem(question, 503, "/problems/store-unreachable")
            assert found["detail"] == "Qdrant does not answer."
        until(lambda: client.get("/readyz").status_code == 503)  # it looks twice a second
        unready = client.get("/readyz")
        assert unready.json()["checks"]["store"].startswith("Qdrant does not answer.")
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/documents/kept").status_code == 200
        assert client.get("/v1/documents/kept/text").text.startswith("Paragraph 0.")
        assert client.delete("/v1/documents/gone").status_code == 204  # effective, purged later
        until(lambda: time.monotonic() - away >= AWAY_SECONDS, AWAY_SECONDS + 60)
        proxy.heal()

        until(lambda: parts.journal.has_ended(job) and parts.journal.has_ended(late), 120)
        assert [task.report.status for task in tasks()] == ["ingested"] * len(DOCUMENTS)
        until(lambda: not parts.catalog.all_stale())
        for name in ("kept", "late", *DOCUMENTS):
            hits = searched(client, name).json()["hits"]
            assert [hit["document_id"] for hit in hits] == [name] * 3
        assert searched(client, "gone").json()["hits"] == []
        assert ready(client)
    assert_exact(parts, scope, {"kept", "late", *DOCUMENTS})


def assert_exact(parts: Parts, scope: Scope, documents: set[str]) -> None:
    """These documents are there and no others, each with every point once."""
    found = parts.catalog.collection(scope, "default")
    records = parts.catalog.documents(scope, "default", limit=1000)
    assert {record.id for record in records} == documents
    points = parts.store.inventory(scope, shelf.index_of(found))
    assert points == {(record.id, record.generation): record.chunks for record in records}
    assert found.chunks == points.total()
    assert list(examine(parts)) == []
