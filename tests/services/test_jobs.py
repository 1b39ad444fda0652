"""The ingest queue under pressure."""

import io
import threading

import pytest

from rag.errors import NotFound, Overloaded
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.types import DocumentReport, Scope
from rag.work import Priority, current_work
from services.jobs import IngestQueue, Upload
from tests.services.serving import is_problem, serving, with_settings


class Held(Orchestrator):
    """Ingests as ever, once it is allowed to."""

    def __init__(self, parts) -> None:
        super().__init__(parts, Scope("default"))
        self.started, self.release = threading.Event(), threading.Event()

    def add(self, source, **options) -> DocumentReport:
        self.started.set()
        assert self.release.wait(30)
        return super().add(source, **options)


def text(name: str) -> Upload:
    return Upload(Source(name=name, origin=name, id=name, text=f"The text of {name}."))


def test_a_full_queue_is_429_with_retry_after(parts, collection):
    held = Held(with_settings(parts, ingest_queue=1))
    with serving(held.parts, held) as client:

        def send(name):
            sent = {"collection": collection, "documents": [{"id": name, "text": f"Text {name}."}]}
            return client.post("/v1/documents", json=sent)

        running = send("a").json()["job_id"]
        assert held.started.wait(10)
        waiting = send("b").json()["job_id"]
        response = send("c")
        is_problem(response, 429, "/problems/overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert client.get(f"/v1/jobs/{running}").json()["state"] == "running"
        job = client.get(f"/v1/jobs/{waiting}").json()
        assert (job["state"], job["documents"][0]["status"]) == ("queued", "queued")
        assert client.get("/healthz").status_code == 200
        assert client.post("/v1/search", json={"query": "a", "collection": collection}).is_success

        held.release.set()
        for job_id in (running, waiting):
            client.app.state.service.queue.job(job_id).ended.result(timeout=30)
            assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "done"
        assert send("c").status_code == 202


def test_stopping_finishes_the_document_at_hand_and_gives_up_the_rest(parts, collection):
    held = Held(parts)
    queue = IngestQueue(held, waiting=8)
    files = [io.BytesIO(b"One."), io.BytesIO(b"Two.")]
    running = queue.submit(
        collection,
        [Upload(Source(name=f"{n}.txt", origin=f"{n}.txt"), file) for n, file in enumerate(files)],
    )
    waiting = queue.submit(collection, [text("late")])
    assert held.started.wait(10)
    closing = threading.Thread(target=queue.close)
    closing.start()
    waiting.ended.result(timeout=30)
    held.release.set()
    closing.join(30)
    assert [report.status for report in running.reports] == ["ingested", "failed"]
    assert [report.status for report in waiting.reports] == ["failed"]
    assert "stopped" in waiting.reports[0].error
    assert all(file.closed for file in files)
    with pytest.raises(Overloaded):
        queue.submit(collection, [text("later still")])


def test_ingestion_is_bulk_work(parts, collection):
    seen = []

    class Asked(Orchestrator):
        def add(self, source, **options):
            seen.append(current_work().priority)
            return super().add(source, **options)

    queue = IngestQueue(Asked(parts, Scope("default")), waiting=8)
    queue.submit(collection, [text("bulk")]).ended.result(timeout=30)
    queue.close()
    assert seen == [Priority.BULK]


def test_a_document_that_takes_too_long_to_stop_is_cancelled_and_leaves_nothing(parts, collection):
    started = threading.Event()

    class Slow(Orchestrator):
        def add(self, source, **options):
            started.set()
            assert current_work().cancelled.wait(30)
            return super().add(source, **options)  # its embedder refuses cancelled work

    queue = IngestQueue(Slow(parts, Scope("default")), waiting=8)
    job = queue.submit(collection, [text("long")])
    assert started.wait(10)
    queue.close(seconds=0)
    assert job.reports[0].status == "failed"
    assert "stopped while it was being ingested" in job.reports[0].error
    assert isinstance(job.errors[0], Overloaded)
    assert parts.catalog.documents(Scope("default"), collection) == []


def test_only_so_many_finished_jobs_are_kept(parts, collection):
    queue = IngestQueue(Orchestrator(parts, Scope("default")), waiting=8, kept=2)
    jobs = [queue.submit(collection, [text(f"kept-{n}")]) for n in range(4)]
    for job in jobs:
        job.ended.result(timeout=30)
    queue.close()
    for job in jobs[:2]:
        with pytest.raises(NotFound):
            queue.job(job.id)
    assert [queue.job(job.id).state for job in jobs[2:]] == ["done", "done"]


def test_the_worker_outlives_what_nobody_foresaw(parts, collection, caplog):
    class Broken(Orchestrator):
        def add(self, source, **options):
            if source.id == "bad":
                raise ZeroDivisionError("secret")
            return super().add(source, **options)

    queue = IngestQueue(Broken(parts, Scope("default")), waiting=8)
    bad, good = (queue.submit(collection, [text(name)]) for name in ("bad", "good"))
    good.ended.result(timeout=30)
    queue.close()
    assert (bad.state, good.state) == ("failed", "done")
    assert "secret" not in bad.reports[0].error
    assert "ZeroDivisionError" in caplog.text
