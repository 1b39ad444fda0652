"""What was accepted, who works on it, and how it ends."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial

import pytest

from rag import journal as j
from rag.catalog import Catalog, Revision
from rag.database import Database
from rag.errors import Conflict, MalformedDocument, NotFound, Overloaded, StoreUnreachable
from rag.sources import Source
from rag.types import DocumentReport, Scope
from tests.sqlite_work import work_of

MINE = Scope("mine")
DONE = DocumentReport("d", "ingested")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    opened = Database.open(url)
    yield opened
    made = Catalog(opened)
    for left in made.every_collection():
        made.delete_collection(Scope(left.tenant), left.name)
    opened.close()


@pytest.fixture
def catalog(database):
    made = Catalog(database)
    made.dropped = []
    made._drop_object = made.dropped.append
    made.create_collection(MINE, "docs", {"dim": 4})
    return made


@pytest.fixture
def journal(database, catalog) -> j.Journal:
    return j.Journal(database, catalog, owner="us")


@pytest.fixture
def others(database, catalog) -> j.Journal:
    return j.Journal(database, catalog, owner="them")


def arrivals(*documents: str) -> list[j.Arrival]:
    return [j.Arrival(Source(name=d, origin=d, id=d, text="x"), f"bytes of {d}") for d in documents]


def receive(journal, *documents, **options) -> str:
    options = {"most_waiting": 100, **options}
    return journal.receive(MINE, "docs", arrivals(*documents), **options)[0]


def accept(journal, *documents, **options) -> str:
    job = receive(journal, *documents, **options)
    journal.accept(job)
    return job


def claim(journal, most=10):
    return journal.claim(per_collection=most)


def flip(journal, task) -> None:
    task = journal.open_generation(task, text_hash="t", parsed_hash="p")
    revision = Revision(
        task.document_id, task.generation, "s", "T", "text/plain", {}, task.content_hash, "f",
        1, 10, 0, 40, (), {},
    )  # fmt: skip
    journal.flip(task, revision, lambda _: DONE)


def test_nothing_is_promised_before_the_bytes_are_there(journal):
    job = receive(journal, "a")
    assert claim(journal) is None
    assert journal.job(MINE, job).state == "receiving"
    journal.accept(job)
    assert claim(journal).document_id == "a"


def test_a_refused_job_leaves_nothing_and_gives_up_its_objects(journal, catalog):
    job = receive(journal, "a")
    journal.refuse(job, set())
    assert catalog.dropped == ["bytes of a"]
    with pytest.raises(NotFound):
        journal.job(MINE, job)


def test_tasks_come_in_order_and_one_document_s_never_at_once(journal):
    accept(journal, "a", "b")
    accept(journal, "a")
    first, second = claim(journal), claim(journal)
    assert [first.document_id, second.document_id] == ["a", "b"]
    assert claim(journal) is None  # the second version of a waits for the first
    flip(journal, first)
    assert claim(journal).id > second.id


def test_at_most_so_many_of_a_collection_run(journal, catalog):
    catalog.create_collection(MINE, "more", {"dim": 4})
    accept(journal, "a", "b")
    other, _ = journal.receive(MINE, "more", arrivals("c"), most_waiting=9)
    journal.accept(other)
    assert [claim(journal, most=1).document_id for _ in range(2)] == ["a", "c"]
    assert claim(journal, most=1) is None
    assert claim(journal, most=0).document_id == "b", "0 is no limit"


def test_a_job_s_state_is_that_of_its_documents(journal):
    job = accept(journal, "a", "b")
    assert journal.job(MINE, job).state == "queued"
    first, second = claim(journal), claim(journal)
    assert journal.job(MINE, job).state == "running"
    flip(journal, first)
    assert not journal.has_ended(job)
    journal.fail(second, MalformedDocument("Torn.", hint="Mend it."))
    found = journal.job(MINE, job)
    assert (found.state, found.ended, journal.has_ended(job)) == ("done", True, True)
    assert [task.state for task in found.tasks] == ["done", "failed"]
    assert found.tasks[0].report == DONE
    raised = found.tasks[1].error.as_error()
    assert (type(raised), raised.hint) == (MalformedDocument, "Mend it.")


def test_a_job_of_which_nothing_is_done_failed_if_anything_did(journal):
    """Whatever else was cancelled, whatever order a set has."""
    job = accept(journal, "a", "b")
    journal.fail(claim(journal), MalformedDocument("Torn."))
    assert journal.cancel(MINE, job).state == "failed"
    other = accept(journal, "c")
    assert journal.cancel(MINE, other).state == "cancelled"


def test_states_are_counted_over_all_tenants(journal, catalog):
    yours = Scope("yours")
    catalog.create_collection(yours, "docs", {"dim": 4})
    accept(journal, "a", "b", "c", "d")
    accepted, _ = journal.receive(yours, "docs", arrivals("a"), most_waiting=100)
    journal.accept(accepted)
    receive(journal, "e")
    flip(journal, claim(journal))
    journal.fail(claim(journal), MalformedDocument("No."))
    claim(journal)
    assert journal.states() == {
        "receiving": 1,
        "queued": 2,
        "running": 1,
        "done": 1,
        "failed": 1,
        "cancelled": 0,
    }


def test_an_interrupted_task_goes_on_where_it_was(journal, others, catalog):
    accept(journal, "a")
    task = journal.open_generation(claim(journal), text_hash="t", parsed_hash="p")
    journal.progress(task, "embed", 64, 200)
    assert others.recover() == 1  # the process is gone, another holds the data folder
    taken = claim(others)
    assert (taken.generation, taken.done, taken.total) == (task.generation, 64, 200)
    assert others.written(taken) == (task.generation, "t", "p")
    assert taken.starts == 1  # it had got on since it began
    catalog.abandon_orphans(taken.updated_at + timedelta(days=1))
    assert catalog.stale_generations(MINE, "docs", "a") == []


def test_who_lost_the_lease_can_finish_nothing(journal, others, monkeypatch):
    accept(journal, "a")
    slept = journal.open_generation(claim(journal), text_hash="t", parsed_hash="p")
    late = j._now() + 2 * j.LEASE
    monkeypatch.setattr(j, "_now", lambda: late)
    taken = claim(others)
    assert taken.id == slept.id
    for finish in (
        lambda: journal.progress(slept, "embed", 1, 2),
        lambda: journal.open_generation(slept, text_hash="t", parsed_hash="p"),
        lambda: flip(journal, slept),
        lambda: journal.fail(slept, MalformedDocument("Torn.")),
        lambda: journal.put_back(slept, after=timedelta(0)),
    ):
        with pytest.raises(j.LeaseLost):
            finish()
    assert journal.renew([slept.owner]) == set()
    assert others.renew([taken.owner]) == {taken.owner}
    flip(others, taken)


def test_of_two_claims_in_one_process_the_later_holds(journal, monkeypatch):
    accept(journal, "a")
    slept = journal.open_generation(claim(journal), text_hash="t", parsed_hash="p")
    late = j._now() + 2 * j.LEASE
    monkeypatch.setattr(j, "_now", lambda: late)
    taken = claim(journal)
    with pytest.raises(j.LeaseLost):
        journal.progress(slept, "embed", 1, 2)
    journal.progress(taken, "embed", 1, 2)


def test_a_generation_that_was_given_up_never_comes_alive(journal, catalog):
    accept(journal, "a")
    task = journal.open_generation(claim(journal), text_hash="t", parsed_hash="p")
    catalog.abandon(MINE, "docs", task.generation)
    revision = Revision(
        "a", task.generation, "s", "T", "text/plain", {}, "c", "f", 1, 10, 0, 40, (), {}
    )
    with pytest.raises(j.LeaseLost):
        journal.flip(task, revision, lambda _: DONE)
    assert catalog.documents(MINE, "docs") == []


def test_a_renewed_lease_is_kept(journal, others, monkeypatch):
    start = j._now()
    accept(journal, "a")
    task = claim(journal)
    monkeypatch.setattr(j, "_now", lambda: start + 0.9 * j.LEASE)
    assert journal.renew([task.owner]) == {task.owner}
    monkeypatch.setattr(j, "_now", lambda: start + 1.8 * j.LEASE)
    assert claim(others) is None


def test_what_heals_is_tried_later_and_says_why(journal, monkeypatch):
    job = accept(journal, "a")
    journal.put_back(
        claim(journal), after=timedelta(seconds=30), error=StoreUnreachable("No store.")
    )
    (task,) = journal.job(MINE, job).tasks
    assert (task.state, task.retries, task.error.message) == ("queued", 1, "No store.")
    assert claim(journal) is None
    later = j._now() + timedelta(seconds=31)
    monkeypatch.setattr(j, "_now", lambda: later)
    again = claim(journal)
    assert (again.retries, again.starts) == (1, 1)
    flip(journal, again)
    assert journal.job(MINE, job).tasks[0].error is None


def test_starts_count_until_it_gets_on(journal):
    accept(journal, "a")
    for expected in (1, 2, 3):
        task = claim(journal)
        assert task.starts == expected
        j.Journal(journal._database, journal._catalog, owner="next").recover()
    task = claim(journal)
    journal.progress(task, "parse", 0, 0)  # a beginning, not getting on
    j.Journal(journal._database, journal._catalog, owner="next").recover()
    task = claim(journal)
    assert task.starts == 5
    journal.progress(task, "embed", 64, 128)
    j.Journal(journal._database, journal._catalog, owner="next").recover()
    assert claim(journal).starts == 1


def test_cancelling_stops_what_waits_and_what_runs(journal, catalog):
    job = accept(journal, "a", "b", "c")
    done, running = claim(journal), claim(journal)
    flip(journal, done)
    running = journal.open_generation(running, text_hash="t2", parsed_hash="p2")
    found = journal.cancel(MINE, job)
    assert [task.state for task in found.tasks] == ["done", "cancelled", "cancelled"]
    assert journal.renew([running.owner]) == set()
    with pytest.raises(j.LeaseLost):
        flip(journal, running)
    assert catalog.stale_generations(MINE, "docs", "b") == []  # it may still be written
    retried = journal.retry(MINE, job)
    assert [task.state for task in retried.tasks] == ["done", "cancelled", "queued"]
    journal.release(running)
    assert catalog.stale_generations(MINE, "docs", "b") == [running.generation]
    assert list(catalog.live_generations(MINE, "docs", ["a", "b"])) == ["a"]


def test_retrying_queues_what_failed_or_was_cancelled(journal):
    job = accept(journal, "a", "b")
    with pytest.raises(Conflict, match="failed or was cancelled"):
        journal.retry(MINE, job)
    flip(journal, claim(journal))
    journal.fail(claim(journal), MalformedDocument("Torn."))
    assert [task.state for task in journal.retry(MINE, job).tasks] == ["done", "queued"]
    assert claim(journal).document_id == "b"


def test_deleting_wins_over_what_was_accepted_before(journal, catalog):
    accept(journal, "a")
    flip(journal, claim(journal))
    job = accept(journal, "a")
    running = claim(journal)
    journal.delete_document(MINE, "docs", "a")
    assert journal.job(MINE, job).state == "cancelled"
    with pytest.raises(j.LeaseLost):
        flip(journal, running)
    assert catalog.documents(MINE, "docs") == []
    with pytest.raises(NotFound):
        journal.delete_document(MINE, "docs", "a")


def test_deleting_what_is_only_accepted_cancels_it_and_gives_up_its_bytes(journal, catalog):
    job = accept(journal, "a")
    journal.delete_document(MINE, "docs", "a")
    assert journal.job(MINE, job).state == "cancelled"
    assert claim(journal) is None
    assert catalog.dropped == ["bytes of a"]
    with pytest.raises(Conflict):
        journal.retry(MINE, job)


def test_what_is_done_holds_its_bytes_no_longer(journal, catalog):
    for _ in range(2):
        accept(journal, "a")
        flip(journal, claim(journal))
    catalog.purged(MINE, "docs", catalog.stale_generations(MINE, "docs", "a"))
    assert catalog.dropped == []  # the live one has the same bytes
    journal.delete_document(MINE, "docs", "a")
    catalog.purged(MINE, "docs", catalog.stale_generations(MINE, "docs", "a"))
    assert catalog.dropped == ["bytes of a", "p", "t"]


def test_the_same_key_is_the_same_job(journal):
    job = accept(journal, "a", key="k")
    assert journal.receive(MINE, "docs", arrivals("a"), most_waiting=9, key="k") == (job, False)
    with pytest.raises(Conflict, match="Something else"):
        receive(journal, "b", key="k")


def test_a_repeated_request_is_not_promised_before_the_first_one_is(journal):
    job = receive(journal, "a", key="k")
    with pytest.raises(Overloaded):
        receive(journal, "a", key="k")
    journal.accept(job)
    assert receive(journal, "a", key="k") == job


def test_an_upload_that_ends_after_a_delete_keeps_its_bytes(journal, catalog):
    accept(journal, "a")
    flip(journal, claim(journal))
    job = receive(journal, "a")
    journal.delete_document(MINE, "docs", "a")
    journal.accept(job)
    assert claim(journal).content_hash == "bytes of a"
    assert "bytes of a" not in catalog.dropped


def test_a_full_journal_refuses(journal):
    accept(journal, "a")
    with pytest.raises(Overloaded) as raised:
        receive(journal, "b", most_waiting=1)
    assert raised.value.retry_after > 0
    flip(journal, claim(journal))
    receive(journal, "b", most_waiting=1)


def test_bytes_are_kept_while_a_task_may_need_them(journal, catalog):
    accept(journal, "a")
    task = claim(journal)
    task = journal.open_generation(task, text_hash="t", parsed_hash="p")
    journal.fail(task, MalformedDocument("Torn."))
    catalog.purged(MINE, "docs", [task.generation])
    assert catalog.dropped == ["p", "t"]  # what was sent can be tried again
    journal.forget(j._now() + timedelta(days=1))
    assert catalog.dropped == ["p", "t", "bytes of a"]
    assert journal.list_jobs(MINE) == []


def test_open_jobs_are_not_forgotten(journal, catalog):
    job = accept(journal, "a", "b")
    flip(journal, claim(journal))
    journal.forget(j._now() + timedelta(days=1))
    assert len(journal.job(MINE, job).tasks) == 2
    assert catalog.dropped == []


def test_jobs_are_listed_newest_first_and_page_by_page(journal):
    made = [accept(journal, name) for name in "abc"]
    assert [job.id for job in journal.list_jobs(MINE)] == made[::-1]
    assert [job.id for job in journal.list_jobs(MINE, limit=1, before=made[2])] == [made[1]]
    assert journal.list_jobs(MINE, collection="other") == []


def test_another_tenant_sees_nothing(journal):
    job = accept(journal, "a")
    for scope in (Scope("theirs"), Scope("mine", collections=frozenset())):
        assert journal.list_jobs(scope) == []
        for call in (journal.job, journal.cancel, journal.retry):
            with pytest.raises(NotFound):
                call(scope, job)
        with pytest.raises(NotFound):
            journal.delete_document(scope, "docs", "a")


def test_a_deleted_collection_takes_its_jobs_along(journal, catalog):
    job = accept(journal, "a")
    running = claim(journal)
    catalog.delete_collection(MINE, "docs")
    assert catalog.dropped == ["bytes of a"]
    with pytest.raises(NotFound):
        journal.job(MINE, job)
    with pytest.raises(j.LeaseLost):
        journal.fail(running, MalformedDocument("Torn."))


def test_many_workers_do_each_task_once(database, catalog):
    """Four processes on one database share the work."""
    wanted = {f"d{n}" for n in range(20)}
    accept(j.Journal(database, catalog), *sorted(wanted))
    done: list[str] = []

    def work(_: int) -> None:
        own = j.Journal(database, catalog)
        while task := claim(own, most=100):
            flip(own, task)
            done.append(task.document_id)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(done) == sorted(wanted)
    assert set(catalog.live_generations(MINE, "docs", sorted(wanted))) == wanted


def test_accepting_and_deleting_at_once_neither_deadlocks_nor_loses(database, catalog):
    """Deletes lock the collection and drop objects, uploads refer to objects and the collection."""
    kept = [f"kept-{n}" for n in range(12)]

    def upload(name: str) -> None:
        own = j.Journal(database, catalog)
        accept(own, name, most_waiting=1000)

    def delete(_: int) -> None:
        own = j.Journal(database, catalog)
        accept(own, "gone", most_waiting=1000)
        with suppress(NotFound):
            own.delete_document(MINE, "docs", "gone")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda call: call(), [*(partial(upload, name) for name in kept),
                                            *(partial(delete, n) for n in range(12))]))  # fmt: skip
    worker, seen = j.Journal(database, catalog), []
    while task := claim(worker, most=1000):
        seen.append(task.document_id)
        flip(worker, task)
    assert sorted(name for name in seen if name != "gone") == sorted(kept)
    assert not {f"bytes of {name}" for name in kept} & set(catalog.dropped)


def locked(*documents: str, password: str = "secret") -> list[j.Arrival]:
    sources = (Source(name=d, origin=d, id=d, text="x", password=password) for d in documents)
    return [j.Arrival(source, f"bytes of {source.id}") for source in sources]


def accept_locked(journal, *more: str, **options) -> str:
    sent = [*locked("locked", **options), *arrivals(*more)]
    job, _ = journal.receive(MINE, "docs", sent, most_waiting=100)
    journal.accept(job)
    return job


def kept(journal) -> str:
    """Everything that the journal holds, as it stands in its tables."""
    with journal._database.read() as connection:
        rows = [
            dict(row)
            for table in (j.jobs, j.tasks)
            for row in connection.execute(table.select()).mappings()
        ]
    return repr(rows)


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "deleted"])
def test_a_password_is_kept_until_its_task_ends(journal, end):
    job = accept_locked(journal)
    task = claim(journal)
    journal.put_back(task, after=timedelta(0), error=StoreUnreachable("No store."))
    task = claim(journal)
    assert task.source.password == "secret"
    assert "secret" not in repr(task)
    match end:
        case "done":
            flip(journal, task)
        case "failed":
            journal.fail(task, MalformedDocument("Torn."))
        case "cancelled":
            journal.cancel(MINE, job)
        case "deleted":
            journal.delete_document(MINE, "docs", "locked")
    assert "secret" not in kept(journal)
    assert journal.job(MINE, job).tasks[0].source.password is None


def test_nothing_is_kept_from_which_a_password_could_be_guessed(journal):
    hashes = set()
    for password in ("one", "two"):
        job = accept_locked(journal, password=password)
        with journal._database.read() as connection:
            row = connection.execute(j.jobs.select().where(j.jobs.c.id == job)).one()
        hashes.add(row.request_hash)
    assert len(hashes) == 1


def test_what_came_with_a_password_has_to_be_sent_again(journal):
    job = accept_locked(journal, "a")
    for _ in range(2):
        journal.fail(claim(journal), MalformedDocument("Torn."))
    retried = journal.retry(MINE, job)
    assert [task.state for task in retried.tasks] == ["failed", "queued"]
    assert "password" in retried.tasks[0].error.hint
    journal.fail(claim(journal), MalformedDocument("Torn."))
    alone = accept_locked(journal)
    journal.fail(claim(journal), MalformedDocument("Torn."))
    with pytest.raises(Conflict, match="with its password"):
        journal.retry(MINE, alone)


def attached(*names: str, parent: str = "a") -> list[j.Arrival]:
    sources = [Source(name=n, origin=n, id=n, parent=parent, depth=1) for n in names]
    return [j.Arrival(source, f"bytes of {source.id}") for source in sources]


def flip_mail(journal, task, *children: str):
    hashes = [f"bytes of {name}" for name in children]
    task = journal.open_generation(task, text_hash="t", parsed_hash="p", attached=hashes)
    revision = Revision(
        task.document_id, task.generation, "s", "T", "text/plain", {}, task.content_hash, "f",
        1, 10, 0, 40, (), {}, task.source.parent or None, children,
    )  # fmt: skip
    files = attached(*children, parent=task.document_id)
    return journal.flip(task, revision, lambda _: DONE, files)[1]


def test_attachments_are_queued_with_the_flip_in_the_same_job(journal, catalog):
    job = accept(journal, "a", "b")
    assert flip_mail(journal, claim(journal), "x", "y") == set()
    found = journal.job(MINE, job)
    assert [(t.document_id, t.state) for t in found.tasks] == [
        ("a", "done"), ("b", "queued"), ("x", "queued"), ("y", "queued")
    ]  # fmt: skip
    assert (found.tasks[2].source.parent, found.tasks[2].source.depth) == ("a", 1)
    flip(journal, claim(journal))
    assert not journal.has_ended(job)
    child = claim(journal)
    assert (child.document_id, child.content_hash) == ("x", "bytes of x")
    flip_mail(journal, child)
    assert catalog.document(MINE, "docs", "x").parent == "a"


def test_bytes_of_attachments_are_kept_as_long_as_their_mail(journal, catalog):
    accept(journal, "a")
    task = claim(journal)
    journal.open_generation(task, text_hash="t", parsed_hash="p", attached=["bytes of x"])
    assert "bytes of x" in catalog.referenced_objects()
    flip_mail(journal, task, "x")
    flip_mail(journal, claim(journal))
    journal.delete_document(MINE, "docs", "x")
    catalog.purged(MINE, "docs", catalog.stale_generations(MINE, "docs", "x"))
    catalog.purged(MINE, "docs", catalog.stale_generations(MINE, "docs", "a"))
    assert catalog.dropped == []  # the mail, sent again, is asked for it
    assert journal.delete_document(MINE, "docs", "a") == {"x"}
    catalog.purged(MINE, "docs", catalog.stale_generations(MINE, "docs", "a"))
    assert set(catalog.dropped) == {"bytes of a", "bytes of x", "p", "t"}


def test_a_new_version_cancels_and_deletes_what_it_no_longer_has(journal, catalog):
    first = accept(journal, "a")
    flip_mail(journal, claim(journal), "live", "running", "waiting", "kept")
    flip_mail(journal, claim(journal))
    running = journal.open_generation(claim(journal), text_hash="t2", parsed_hash="p2")
    journal.fail(claim(journal), MalformedDocument("Torn."))
    accept(journal, "a")
    kept_one = claim(journal)
    assert kept_one.document_id == "kept"
    flip_mail(journal, kept_one)
    assert flip_mail(journal, claim(journal), "kept") == {"live", "running", "waiting"}
    states = [task.state for task in journal.job(MINE, first).tasks]
    assert states == ["done", "done", "cancelled", "failed", "done"]
    with pytest.raises(j.LeaseLost):
        flip_mail(journal, running)
    assert [one.id for one in catalog.documents(MINE, "docs")] == ["a", "kept"]
    journal.release(running)
    with pytest.raises(Conflict):  # what the mail no longer has is not tried again
        journal.retry(MINE, first)


def test_who_lost_the_lease_queues_no_attachments(journal, others, monkeypatch):
    job = accept(journal, "a")
    slept = journal.open_generation(claim(journal), text_hash="t", parsed_hash="p")
    late = j._now() + 2 * j.LEASE
    monkeypatch.setattr(j, "_now", lambda: late)
    claim(others)
    with pytest.raises(j.LeaseLost):
        flip_mail(journal, slept, "x")
    assert len(journal.job(MINE, job).tasks) == 1


def test_deleting_goes_all_the_way_down(journal, catalog):
    accept(journal, "a", "other")
    flip_mail(journal, claim(journal), "x")
    flip(journal, claim(journal))
    flip_mail(journal, claim(journal), "deep", "deeper")
    flip_mail(journal, claim(journal))
    job = catalog_job(journal, "deeper")
    assert journal.delete_document(MINE, "docs", "a") == {"x", "deep", "deeper"}
    assert [one.id for one in catalog.documents(MINE, "docs")] == ["other"]
    assert journal.job(MINE, job).tasks[-1].state == "cancelled"
    assert claim(journal) is None
    with pytest.raises(Conflict):
        journal.retry(MINE, job)


def catalog_job(journal, document: str) -> str:
    """The job of a document's only task."""
    with journal._database.read() as connection:
        query = j.tasks.select().where(j.tasks.c.document_id == document)
        return connection.execute(query).one().job_id


@pytest.mark.parametrize("ended", [False, True])
def test_a_claim_costs_the_same_however_many_tasks_there_are(journal, database, ended):
    if database._engine.name != "sqlite":
        pytest.skip("counts SQLite's instructions")
    accept(journal, *(f"d{n}" for n in range(3000)), most_waiting=10)
    if ended:
        with database.write() as connection:
            connection.execute(j.tasks.update().values(state="done"))
        accept(journal, "last")
    assert work_of(database, partial(claim, journal)) <= 2  # with 3,000 waiting it was 126


def test_a_full_collection_does_not_hold_up_the_others(journal, catalog):
    catalog.create_collection(MINE, "more", {"dim": 4})
    accept(journal, "a", "b")
    job, _ = journal.receive(MINE, "more", arrivals("c"), most_waiting=100)
    journal.accept(job)
    found = [claim(journal, most=1) for _ in range(3)]
    assert [task and task.document_id for task in found] == ["a", "c", None]


def test_open_jobs_are_those_that_were_accepted_and_are_not_done(journal, catalog):
    catalog.create_collection(Scope("theirs"), "docs", {"dim": 4})
    receive(journal, "on its way")
    done = accept(journal, "done")
    flip(journal, claim(journal))
    at_work, waiting = accept(journal, "at work", "behind it"), accept(journal, "waiting")
    claim(journal)
    failed = accept(journal, "failed")
    journal.cancel(MINE, failed)
    theirs = journal.receive(Scope("theirs"), "docs", arrivals("x"), most_waiting=9)[0]
    journal.accept(theirs)
    found = [job.id for job in journal.open_jobs(MINE)]
    assert found == [at_work, waiting]
    assert done not in found
    assert journal.open_jobs(Scope("mine", collections=frozenset())) == []
