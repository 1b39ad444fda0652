"""Ingestion in the background, on the real models of the starter profile."""

import io
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from rag import ingest as steps
from rag import jobs as module
from rag import journal as journal_module
from rag.errors import NotFound, Overloaded, StorageFull, StoreUnreachable
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.journal import Journal
from rag.sources import Source
from rag.tables import tasks
from rag.types import Scope
from rag.work import Priority, current_work


@pytest.fixture
def docs(rag):
    """A Ragstone with an empty collection `docs`."""
    from rag import collection as shelf

    shelf.create(rag.parts, rag.scope, "docs")
    return rag


@pytest.fixture
def ingestor(docs):
    made = Ingestor(docs)
    made.start()
    yield made
    made.close()


def text(name: str, content: str = "") -> Upload:
    content = content or f"The text of {name}."
    return Upload(Source(name=name, origin=name, id=name, text=content))


def long_text(chunks: int) -> str:
    sentence = "The lamp burns oil all night. "
    return "\n\n".join(f"Paragraph {n}. {sentence * 30}" for n in range(chunks))


def done(ingestor, job):
    ingestor.ended(job.id).result(timeout=60)
    return ingestor._journal.job(job.tasks[0].scope, job.id)


def statuses(job) -> list[str]:
    return [task.report.status if task.report else task.state for task in job.tasks]


def test_texts_and_files_become_searchable(docs, ingestor):
    file = io.BytesIO(b"# Fog\n\nThe horn sounds twice a minute in fog.")
    uploads = [
        text("lamp", "The lamp of Bell Rock burns oil."),
        Upload(Source(name="fog.md", origin="fog.md"), file),
    ]
    job = done(ingestor, ingestor.submit(docs.scope, "docs", uploads))
    assert statuses(job) == ["ingested", "ingested"]
    found = docs.search("How often does the horn sound?", collection="docs").hits
    assert found[0].chunk.title == "Fog"
    assert docs.text("lamp", collection="docs") == "The lamp of Bell Rock burns oil."
    again = done(ingestor, ingestor.submit(docs.scope, "docs", uploads))
    assert statuses(again) == ["unchanged", "unchanged"]
    assert list(examine(docs.parts)) == []


def test_of_two_who_send_one_new_id_the_later_replaces_nothing_that_it_does_not_see(docs):
    """Both were accepted when there was no such document."""
    worker = Ingestor(docs)
    sent = {}
    for group in ("hr", "it"):
        source = Source("a", "a", id="plan", text=f"Of {group}.", metadata={"acl": [group]})
        scope = Scope(docs.scope.tenant, groups=frozenset({group}))
        sent[group] = worker.submit(scope, "docs", [Upload(source)])
    worker.start()
    try:
        assert statuses(done(worker, sent["hr"])) == ["ingested"]
        (refused,) = done(worker, sent["it"]).tasks
    finally:
        worker.close()
    assert refused.state == "failed"
    assert "not yours to replace" in refused.error.message
    assert docs.text("plan", collection="docs") == "Of hr."
    assert list(examine(docs.parts)) == []


def group(docs, *names) -> Scope:
    return Scope(docs.scope.tenant, groups=frozenset(names))


def acl_of(docs, name):
    record = docs.parts.catalog.document(docs.scope, "docs", name)
    (point,) = docs.search(name, collection="docs", filter={"document_id": name}).hits
    assert point.chunk.metadata.get("acl") == record.metadata.get("acl")
    return record.metadata.get("acl")


@pytest.mark.parametrize("in_background", [True, False])
def test_a_new_version_is_seen_by_those_who_saw_the_one_before(docs, ingestor, in_background):
    """Unless it says who may: a crawler that knows nothing of groups opens nothing."""
    versions = iter(range(10))

    def send(**more):
        source = Source("plan", "plan", id="plan", text=f"Version {next(versions)}.", **more)
        if in_background:
            assert statuses(done(ingestor, ingestor.submit(docs.scope, "docs", [Upload(source)])))
        else:
            docs.add(source, collection="docs")
        return acl_of(docs, "plan")

    assert send() is None
    # The groups of a member who does not say anything are for new documents.
    assert send(metadata={"acl": ["it"]}, acl_assumed=True) is None
    docs.patch("plan", {"metadata": {"acl": ["hr"]}}, collection="docs")
    assert send() == ["hr"]
    assert send(metadata={"year": 1811}) == ["hr"]
    assert send(metadata={"acl": ["hr", "it"]}, acl_assumed=True) == ["hr"]
    assert send(metadata={"acl": ["it"]}) == ["it"]
    assert send(metadata={"acl": []}) == []
    assert docs.parts.catalog.document(group(docs), "docs", "plan")
    assert list(examine(docs.parts)) == []


def test_who_tries_a_job_again_replaces_nothing_that_they_do_not_see(docs, ingestor):
    """Though whoever sent it would have been allowed to."""
    job = ingestor.submit(docs.scope, "docs", [Upload(Source("x", "x", id="x", text=" "))])
    assert done(ingestor, job).state == "failed"  # open to all, and so is the job
    secret = Source("x", "x", id="x", text="Of hr.", metadata={"acl": ["hr"]})
    done(ingestor, ingestor.submit(docs.scope, "docs", [Upload(secret)]))
    with pytest.raises(NotFound):  # it is hidden as well, now that its document is
        docs.parts.journal.retry(group(docs, "it"), job.id)
    assert docs.text("x", collection="docs") == "Of hr."


def test_a_job_that_is_tried_again_is_whoever_asked_s_as_well(docs, ingestor):
    """The document is hidden only after the job was queued again."""
    job = ingestor.submit(docs.scope, "docs", [Upload(Source("x", "x", id="x", text=" "))])
    assert done(ingestor, job).state == "failed"
    docs.parts.journal.retry(group(docs, "it"), job.id)
    with docs.parts.database.read() as connection:
        query = sa.select(tasks.c.groups).where(tasks.c.job_id == job.id)
        assert connection.execute(query).scalar_one() == ["it"]


def test_a_job_is_hidden_with_its_document(docs, ingestor):
    """Also when that is taken back later."""
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    journal, outside = docs.parts.journal, group(docs, "it")
    assert journal.job(outside, job.id).tasks[0].document_id == "a"
    docs.patch("a", {"metadata": {"acl": ["hr"]}}, collection="docs")
    with pytest.raises(NotFound):
        journal.job(outside, job.id)
    assert journal.list_jobs(outside) == []
    assert [one.id for one in journal.list_jobs(group(docs, "hr"))] == [job.id]


def test_idempotency_keys_are_their_callers_own(docs, ingestor):
    """Nobody can take another's key, or learn that it was used."""
    scopes = [replace(docs.scope, caller=name) for name in ("key:a", "key:b")]
    jobs = [
        ingestor.submit(scope, "docs", [text(scope.caller)], key="once").id
        for scope in (*scopes, *scopes)
    ]
    assert jobs[:2] == jobs[2:]
    assert jobs[0] != jobs[1]


def test_ingestion_is_bulk_work(docs, ingestor, monkeypatch):
    seen = []

    def parse(*arguments, parse=steps.parse):
        seen.append(current_work().priority)
        return parse(*arguments)

    monkeypatch.setattr(steps, "parse", parse)
    done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    assert seen == [Priority.BULK]


def test_a_bad_document_does_not_stop_the_others(docs, ingestor):
    uploads = [
        Upload(Source(name="torn.pdf", origin="torn.pdf"), io.BytesIO(b"%PDF-1.7 torn")),
        text("good"),
    ]
    job = done(ingestor, ingestor.submit(docs.scope, "docs", uploads))
    assert statuses(job) == ["failed", "ingested"]
    assert job.state == "done"
    assert job.tasks[0].error.kind in ("MalformedDocument", "ParseError")
    assert list(examine(docs.parts)) == []


def test_what_nobody_foresaw_fails_one_document(docs, ingestor, monkeypatch, caplog):
    def parse(parts, source, *more, parse=steps.parse):
        if source.id == "bad":
            raise ZeroDivisionError("secret")
        return parse(parts, source, *more)

    monkeypatch.setattr(steps, "parse", parse)
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("bad"), text("good")]))
    assert statuses(job) == ["failed", "ingested"]
    assert "secret" not in job.tasks[0].error.message
    assert "secret" in caplog.text


def test_a_store_that_comes_back_is_waited_for(docs, ingestor, monkeypatch):
    calls = []

    def store(*arguments, store=steps.store):
        calls.append(1)
        if len(calls) <= 2:
            raise StoreUnreachable("Qdrant does not answer.")
        store(*arguments)

    monkeypatch.setattr(steps, "store", store)
    monkeypatch.setattr(module.random, "uniform", lambda *_: 0.01)
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    assert statuses(job) == ["ingested"]
    assert job.tasks[0].retries == 2
    assert list(examine(docs.parts)) == []


def test_retries_end(docs, ingestor, monkeypatch):
    def store(*_):
        raise StoreUnreachable("Qdrant does not answer.")

    monkeypatch.setattr(steps, "store", store)
    monkeypatch.setattr(module.random, "uniform", lambda *_: 0.0001)
    settings = docs.parts.settings.model_copy(update={"ingest_retries": 2})
    monkeypatch.setattr(docs.parts, "settings", settings)
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    assert (statuses(job), job.tasks[0].error.kind) == (["failed"], "StoreUnreachable")
    assert list(examine(docs.parts)) == []
    monkeypatch.undo()
    ingestor._journal.retry(docs.scope, job.id)
    ingestor.wake()
    assert statuses(done(ingestor, job)) == ["ingested"]


def test_a_stopped_service_goes_on_where_it_was(docs, monkeypatch):
    """Batches that were stored before the stop are not embedded again."""
    settings = docs.parts.settings.model_copy(update={"embed_batch": 4})
    monkeypatch.setattr(docs.parts, "settings", settings)
    first = Ingestor(docs)
    embedded, stored = [], threading.Event()

    def store(parts, scope, found, chunks, vectors, store=steps.store):
        store(parts, scope, found, chunks, vectors)
        embedded.append([chunk.index for chunk in chunks])
        if len(embedded) == 2:
            stored.set()
            assert current_work().cancelled.wait(30)  # the next batch is not begun

    monkeypatch.setattr(steps, "store", store)
    first.start()
    job = first.submit(docs.scope, "docs", [text("long", long_text(20))])
    assert stored.wait(60)
    waiting = first.ended(job.id)
    first.close()
    with pytest.raises(Overloaded, match="will be ingested"):
        waiting.result(0)
    assert docs.parts.catalog.documents(docs.scope, "docs") == []
    assert docs.search("lamp", collection="docs").hits == ()

    second = Ingestor(docs)
    second.start()
    job = done(second, job)
    second.close()
    assert statuses(job) == ["ingested"]
    seen = [index for batch in embedded for index in batch]
    assert seen == list(range(len(seen)))  # none twice, none left out
    assert len(seen) == job.tasks[0].report.chunks > 8
    assert list(examine(docs.parts)) == []


def test_a_closed_ingestor_takes_nothing(docs):
    ingestor = Ingestor(docs)
    ingestor.start()
    ingestor.close()
    with pytest.raises(Overloaded):
        ingestor.submit(docs.scope, "docs", [text("late")])


def test_bytes_that_cannot_be_kept_are_not_promised(docs, ingestor, monkeypatch):
    def full(*_):
        raise StorageFull("The disk is full.")

    monkeypatch.setattr(docs.parts.objects, "put_file", full)
    with pytest.raises(StorageFull):
        ingestor.submit(docs.scope, "docs", [text("a")])
    assert docs.parts.journal.list_jobs(docs.scope) == []
    assert list(examine(docs.parts)) == []


def test_an_upload_that_cannot_even_be_refused_is_forgotten_in_time(docs, ingestor, monkeypatch):
    """The journal is on the same full disk. It must not look received for as long as we live."""

    def full(*_):
        raise StorageFull("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(docs.parts.journal, "accept", full)
        patched.setattr(docs.parts.journal, "refuse", full)
        with pytest.raises(StorageFull):
            ingestor.submit(docs.scope, "docs", [text("a")])
    (job,) = docs.parts.journal.list_jobs(docs.scope)
    assert job.state == "receiving"
    start = datetime.now(UTC)
    monkeypatch.setattr(journal_module, "_now", lambda: start + 0.9 * journal_module.LEASE)
    ingestor._renew()  # as it does while it is at work: no longer for this one
    monkeypatch.setattr(journal_module, "_now", lambda: start + 1.8 * journal_module.LEASE)
    ingestor._sweep()
    assert docs.parts.journal.list_jobs(docs.scope) == []
    assert list(examine(docs.parts)) == []


def test_an_end_that_cannot_be_written_down_is_written_down_later(docs, ingestor, monkeypatch):
    """Else the lease would have to end, and the document would seem to kill processes."""
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(module.random, "uniform", lambda *_: 0.01)
    stored, failed = [], []

    def store(*arguments, store=steps.store):
        stored.append(1)
        if len(stored) == 1:
            raise StoreUnreachable("Qdrant does not answer.")
        store(*arguments)

    def put_back(*arguments, put_back=docs.parts.journal.put_back, **options):
        failed.append(1)
        if len(failed) <= 3:
            raise StorageFull("The disk is full.")
        put_back(*arguments, **options)

    monkeypatch.setattr(steps, "store", store)
    monkeypatch.setattr(docs.parts.journal, "put_back", put_back)
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    assert statuses(job) == ["ingested"]
    assert (len(failed), job.tasks[0].retries, job.tasks[0].starts) == (4, 1, 1)


def test_points_that_come_after_their_generation_was_purged_go_as_well(docs, ingestor, monkeypatch):
    """Whoever slept through the lease writes when somebody else has long been done with it."""
    journal, catalog = docs.parts.journal, docs.parts.catalog
    slept = []

    def store(parts, scope, found, chunks, vectors, store=steps.store):
        if not slept:
            slept.append(chunks[0].generation)
            later = datetime.now(UTC) + 1.1 * journal_module.LEASE
            with monkeypatch.context() as patched:
                patched.setattr(journal_module, "_now", lambda: later)
                taken = Journal(docs.parts.database, catalog).claim()
            other = journal.open_generation(taken, text_hash="none", parsed_hash="none")
            catalog.purged(scope, "docs", slept)
            assert not catalog.has_generation(slept[0])
            journal.put_back(other, after=timedelta(0))
        store(parts, scope, found, chunks, vectors)

    monkeypatch.setattr(steps, "store", store)
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    assert statuses(job) == ["ingested"]
    assert job.tasks[0].generation != slept[0]
    ingestor.close()
    assert list(examine(docs.parts)) == []


def test_a_sweep_does_not_knock_at_a_closed_door_for_each_document(docs, monkeypatch):
    for name in "ab":
        docs.add(Source(name=name, origin=name, id=name, text=name), collection="docs")
        docs.parts.catalog.delete_document(docs.scope, "docs", name)
    knocks = []

    def delete(*_):
        knocks.append(1)
        raise StoreUnreachable("Qdrant does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(docs.parts.store, "delete", delete)
        Ingestor(docs)._sweep()
    assert knocks == [1]
    Ingestor(docs)._sweep()
    assert list(examine(docs.parts)) == []


def test_a_service_starts_on_a_full_disk(docs, monkeypatch):
    def full(*_):
        raise StorageFull("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(docs.parts.journal, "recover", full)
        ingestor = Ingestor(docs)
        ingestor.start()
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    ingestor.close()
    assert statuses(job) == ["ingested"]


def test_a_document_that_kills_the_process_is_given_up(docs):
    journal = docs.parts.journal
    waiting = Ingestor(docs)  # not started: another process's
    job = waiting.submit(docs.scope, "docs", [text("deadly")])
    for _ in range(module.MOST_STARTS):
        assert journal.claim(per_collection=1).document_id == "deadly"
        Journal(docs.parts.database, docs.parts.catalog).recover()
    waiting.start()
    found = done(waiting, job)
    waiting.close()
    assert statuses(found) == ["failed"]
    assert "ended 5 times" in found.tasks[0].error.message


def test_cancelling_stops_the_document_at_work(docs, ingestor, monkeypatch):
    monkeypatch.setattr(module, "RENEW_SECONDS", 0)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    started = threading.Event()

    def parse(*arguments, parse=steps.parse):
        started.set()
        assert current_work().cancelled.wait(30)
        return parse(*arguments)

    monkeypatch.setattr(steps, "parse", parse)
    job = ingestor.submit(docs.scope, "docs", [text("a"), text("b")])
    assert started.wait(30)
    docs.parts.journal.cancel(docs.scope, job.id)
    found = done(ingestor, job)
    assert statuses(found) == ["cancelled", "cancelled"]
    ingestor.close()
    assert docs.parts.catalog.documents(docs.scope, "docs") == []
    assert list(examine(docs.parts)) == []


def test_an_unknown_collection_is_refused(docs, ingestor):
    with pytest.raises(NotFound):
        ingestor.submit(docs.scope, "other", [text("a")])


def test_what_a_crash_left_in_the_store_is_swept(docs):
    """Points of a generation that nobody will finish, and stale ones that were not purged."""
    parts, scope = docs.parts, docs.scope
    docs.add(Source(name="kept", origin="kept", id="kept", text="Kept."), collection="docs")
    begun = parts.catalog.begin_generation(
        scope, "docs", "kept", content_hash="c", text_hash="t", parsed_hash="p"
    )
    kinds = [finding.kind for finding in examine(parts)]
    assert kinds == ["unfinished generation", *["missing object"] * 3]
    ingestor = Ingestor(docs)
    ingestor.start()
    ingestor.close()
    assert begun not in parts.catalog.stale_generations(scope, "docs", "kept")
    assert list(examine(parts)) == []
    assert docs.text("kept", collection="docs") == "Kept."


def test_ended_jobs_are_forgotten_in_time(docs, ingestor):
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("a")]))
    docs.parts.journal.forget(job.created_at + timedelta(hours=1))
    with pytest.raises(NotFound):
        docs.parts.journal.job(docs.scope, job.id)
    assert docs.text("a", collection="docs") == "The text of a."


def test_several_documents_are_at_work_at_once(docs, ingestor, monkeypatch):
    """Each waits in the store until four are there: one after the other they would never be."""
    together = threading.Barrier(4)

    def store(*arguments, store=steps.store):
        together.wait(60)
        store(*arguments)

    monkeypatch.setattr(steps, "store", store)
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text(f"{n}") for n in range(8)]))
    assert statuses(job) == ["ingested"] * 8
    assert list(examine(docs.parts)) == []


def test_while_questions_come_one_document_is_at_work_at_a_time(docs, monkeypatch):
    at_work, most = [], []

    def store(parts, scope, found, chunks, vectors, store=steps.store):
        at_work.append(chunks[0].document_id)
        store(parts, scope, found, chunks, vectors)
        most.append(len(at_work))
        at_work.remove(chunks[0].document_id)

    monkeypatch.setattr(steps, "store", store)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    ingestor = Ingestor(docs)
    with docs.parts.crowd.answering():
        ingestor.start()
        job = done(ingestor, ingestor.submit(docs.scope, "docs", [text(f"{n}") for n in range(6)]))
        ingestor.close()
    assert statuses(job) == ["ingested"] * 6
    assert most == [1] * 6


def test_documents_at_work_when_a_question_comes_wait_for_the_first_of_them(docs, monkeypatch):
    """Two that both have begun: the one that came first goes on, the other after it."""
    settings = docs.parts.settings.model_copy(update={"embed_batch": 4})
    monkeypatch.setattr(docs.parts, "settings", settings)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    begun, asked, seen = threading.Barrier(3), threading.Event(), []

    def store(parts, scope, found, chunks, vectors, store=steps.store):
        store(parts, scope, found, chunks, vectors)
        if chunks[0].index == 0:
            begun.wait(60)
            assert asked.wait(60)
        else:
            seen.append(chunks[0].document_id)

    monkeypatch.setattr(steps, "store", store)
    ingestor = Ingestor(docs)
    ingestor.start()
    job = ingestor.submit(docs.scope, "docs", [text(n, f"{n} {long_text(12)}") for n in "ab"])
    begun.wait(60)  # both have stored their first batch
    first = next(iter(ingestor._inside))
    tasks = docs.parts.journal.job(docs.scope, job.id).tasks
    owner = {task.owner: task.document_id for task in tasks}
    with docs.parts.crowd.answering():
        asked.set()
        job = done(ingestor, job)
    ingestor.close()
    assert statuses(job) == ["ingested"] * 2
    assert len(seen) >= 4
    assert seen == sorted(seen, key=lambda document: document != owner[first])


def test_the_next_batch_is_embedded_while_one_is_stored(docs, ingestor, monkeypatch):
    settings = docs.parts.settings.model_copy(update={"embed_batch": 4})
    monkeypatch.setattr(docs.parts, "settings", settings)
    embedded = [threading.Event() for _ in range(2)]
    batches = iter(embedded)

    def embed_passages(texts, embed=docs.parts.embedder.embed_passages):
        vectors = embed(texts)
        next(batches, threading.Event()).set()
        return vectors

    def store(*arguments, store=steps.store):
        assert embedded[1].wait(60)
        store(*arguments)

    monkeypatch.setattr(docs.parts.embedder, "embed_passages", embed_passages)
    monkeypatch.setattr(steps, "store", store)
    job = done(ingestor, ingestor.submit(docs.scope, "docs", [text("long", long_text(9))]))
    assert statuses(job) == ["ingested"]
    assert job.tasks[0].done == job.tasks[0].total == job.tasks[0].report.chunks > 4
    assert list(examine(docs.parts)) == []
