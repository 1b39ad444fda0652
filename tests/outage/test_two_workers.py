"""Two processes on one Postgres share the work: whatever happens to one, all is done, and once."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rag import collection as shelf
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.orchestrator import Orchestrator
from rag.parts import open_parts
from rag.settings import load_settings
from rag.sources import Source
from rag.tables import generations
from rag.types import Scope
from tests.outage.shared_workers import Worker
from tests.postgres import Postgres
from tests.qdrant_shim import qdrant
from tests.waiting import until

# Of leases, and of how long Postgres bears a transaction that stands still. `make soak` takes what
# users have.
LEASE_SECONDS = os.environ.get("RAG_SOAK_LEASE_SECONDS", "2")
DOCUMENTS = [f"doc-{n}" for n in range(int(os.environ.get("RAG_SOAK_DOCUMENTS", "10")))]
PATIENCE = 60 + 10 * float(LEASE_SECONDS)


@pytest.fixture
def environment(tmp_path: Path, postgres: Postgres) -> Iterator[dict[str, str]]:
    """The settings of everybody."""
    with postgres.database() as url, qdrant(tmp_path / "shim") as (host, port):
        yield {
            "RAG_DATA": str(tmp_path / "data"),
            "RAG_DATABASE_URL": url,
            "RAG_QDRANT_URL": f"http://{host}:{port}",
            "RAG_PROFILE": "starter",
            "RAG_EMBED_BATCH": "4",
            "RAG_CHUNK_TOKENS": "64",
            "RAG_CHUNK_OVERLAP": "0",
            "RAG_INGEST_THREADS": "1",  # so that each is at the document of which the test speaks
            "LEASE_SECONDS": LEASE_SECONDS,
        }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Starts a worker."""
    started: list[Worker] = []

    def start_one() -> Worker:
        started.append(Worker(environment, tmp_path / "workers.log"))
        return started[-1]

    yield start_one
    for worker in started:
        worker.close()


class Front:
    """Takes documents in for the workers, and looks at what became of them."""

    def __init__(self, rag: Orchestrator) -> None:
        self._rag, self._ingestor = rag, Ingestor(rag)  # not started: it works on nothing

    def send(self, *documents: str, version: int = 1) -> str:
        sentence = f"Version {version}: the lamp burns oil all night, the horn sounds in fog. "
        text = "\n\n".join(f"Paragraph {n}. {sentence * 4}" for n in range(12))
        uploads = [Upload(Source(name=d, origin=d, id=d, text=text)) for d in documents]
        return self._ingestor.submit(self._rag.scope, "docs", uploads).id

    def wait(self, job: str) -> None:
        """Return when every document of a job was ingested."""
        journal = self._rag.parts.journal
        until(lambda: journal.has_ended(job), PATIENCE)
        tasks = journal.job(self._rag.scope, job).tasks
        assert {task.report and task.report.status for task in tasks} <= {"ingested", "replaced"}

    def wait_purged(self) -> None:
        """Return when nothing old is left."""
        until(lambda: not self._rag.parts.catalog.all_stale(), PATIENCE)

    def check(self, documents: set[str]) -> None:
        """These are there, each in one generation and with every point once, and nothing else."""
        parts, scope = self._rag.parts, self._rag.scope
        found = parts.catalog.collection(scope, "docs")
        records = parts.catalog.documents(scope, "docs", limit=1000)
        assert {record.id for record in records} == documents
        with parts.database.read() as connection:
            known = connection.execute(sa.select(generations.c.id, generations.c.state)).all()
        assert sorted(known) == sorted((record.generation, "live") for record in records)
        points = parts.store.inventory(scope, shelf.index_of(found))
        assert points == {(record.id, record.generation): record.chunks for record in records}
        assert found.chunks == points.total() > 3 * len(documents)
        assert list(examine(parts)) == []


@pytest.fixture
def front(environment: dict[str, str], lighthouse: Orchestrator, monkeypatch) -> Iterator[Front]:
    """The process that the documents are sent to."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    parts = open_parts(load_settings())
    parts._loaded["embedder"] = lighthouse.parts.embedder
    shelf.create(parts, Scope("default"), "docs")
    yield Front(Orchestrator(parts, Scope("default")))
    parts.close()


def test_all_is_done_and_once_whatever_happens_to_one(start, front):
    slept = start()
    slept.wait_ready()
    there = {"a", "b"}
    other = sleeps_through_its_lease(slept, start, front)
    front.check(there)
    stands_still_while_it_holds_locks(slept, other, front)
    there |= {"c", "d"}
    front.check(there)
    is_killed(slept, other, front)
    front.check(there | set(DOCUMENTS))


def sleeps_through_its_lease(slept: Worker, start: Callable[[], Worker], front: Front) -> Worker:
    """What it is about to write when it wakes up is of a generation that is gone for good."""
    slept.plan("SIGSTOP", "before upsert", 2)
    job = front.send("a", "b")
    until(lambda: slept.stopped)
    other = start()
    other.wait_ready()
    front.wait(job)
    front.wait(front.send("a", version=2))
    front.wait_purged()
    slept.resume()
    slept.wait_idle()
    assert slept.live == []
    assert sorted(document for document, _ in other.live) == ["a", "a", "b"]
    return other


def stands_still_while_it_holds_locks(slept: Worker, other: Worker, front: Front) -> None:
    """The other must not wait for it for ever."""
    other.live.clear()
    other.hold(True)
    slept.plan("SIGSTOP", "within flip", 1)
    jobs = [front.send("c")]
    until(lambda: slept.stopped)
    other.hold(False)
    jobs.append(front.send("d"))
    for job in jobs:
        front.wait(job)
    slept.resume()
    slept.wait_idle()
    assert slept.live == []
    assert sorted(document for document, _ in other.live) == ["c", "d"]


def is_killed(killed: Worker, other: Worker, front: Front) -> None:
    """In the middle of a document, after some that it shared with the other."""
    for worker in (killed, other):
        worker.live.clear()
    killed.plan("SIGKILL", "before upsert", 8)  # in its second or third: each takes three or more
    jobs = [front.send(*DOCUMENTS[:3]), front.send(*DOCUMENTS[3:])]
    killed.wait_dead()
    assert killed.process.returncode == -signal.SIGKILL
    for job in jobs:
        front.wait(job)
    other.wait_idle()
    assert killed.live, "it did some of the work"
    assert other.live, "and the other one some"
    made = [document for document, _ in killed.live + other.live]
    assert sorted(made) == sorted(DOCUMENTS), "each once"
