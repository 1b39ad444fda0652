"""Two indexes of one collection in the catalog: what differs, and exchanging them."""

import os
import threading
from datetime import timedelta

import pytest

from rag.builds import Builds, Options, Query
from rag.catalog import Catalog, Revision
from rag.database import Database
from rag.errors import CollectionMoved, Conflict, NotFound, RagError
from rag.journal import Arrival, Journal, LeaseLost
from rag.sources import Source
from rag.tables import migrations
from rag.types import DocumentReport, Scope

MINE = Scope("mine")
POSTGRES = os.environ.get("RAG_TEST_DATABASE_URL")
OLD = {"dim": 4, "embedder": {"id": "old"}}
NEW = {"dim": 8, "embedder": {"id": "new"}}
DONE = DocumentReport("d", "ingested")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "postgres" and POSTGRES is None:
        pytest.skip("RAG_TEST_DATABASE_URL names no Postgres database")
    sqlite = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    opened = Database.open(POSTGRES if request.param == "postgres" else sqlite)
    yield opened
    made = Catalog(opened)
    for left in made.collections(MINE):
        made.delete_collection(MINE, left.name)
    assert made.every_collection() == []  # what is built aside goes with its collection
    opened.close()


@pytest.fixture
def catalog(database):
    made = Catalog(database)
    made.create_collection(MINE, "docs", OLD, settings={"fusion": "rrf"}, system_prompt="Be kind.")
    return made


@pytest.fixture
def builds(database, catalog) -> Builds:
    return Builds(database, catalog)


@pytest.fixture
def journal(database, catalog) -> Journal:
    return Journal(database, catalog, owner="us")


def revision(document: str, generation: int, **changes) -> Revision:
    values = {
        "document_id": document,
        "generation": generation,
        "source": "s",
        "title": "T",
        "media_type": "text/plain",
        "metadata": {"year": 1811, "b": [1.5, "x"], "a": None},
        "content_hash": f"bytes of {document}",
        "fingerprint": f"f of {document}",
        "chunks": 2,
        "tokens": 10,
        "pages": 0,
        "characters": 40,
        "warnings": (),
        "token_chunks": {7: 1},
    }
    return Revision(**(values | changes))


def put(catalog, document: str, which="docs", text="t", **changes) -> None:
    generation = catalog.begin_generation(
        MINE, which, document, content_hash="c", text_hash=text, parsed_hash="p"
    )
    assert catalog.flip(MINE, which, revision(document, generation, **changes))


def copy(catalog, builds, migration, document: str) -> None:
    record = catalog.document(MINE, migration.collection, document)
    generation = catalog.begin_generation(
        MINE, migration.build, document, content_hash="c",
        text_hash=record.text_hash, parsed_hash=record.parsed_hash,
    )  # fmt: skip
    face = {"metadata": record.metadata, "title": record.title, "fingerprint": record.fingerprint}
    assert builds.adopt(migration, revision(document, generation, **face), record)


def missing(builds, migration) -> list[str]:
    return builds.next_missing(migration, after="", limit=100)


def claim(builds, owner="worker"):
    migration = builds.claim(owner)
    assert migration is not None
    return migration


def flipping(catalog, builds):
    """A claimed migration in which nothing is in the way of the exchange any more."""
    builds.start(MINE, "docs", NEW, Options())
    migration = claim(builds)
    for document in missing(builds, migration):
        copy(catalog, builds, migration, document)
    builds.settle(migration, "flipping")
    return claim(builds)


def accept(journal, document: str) -> str:
    source = Source(name=document, origin=document, id=document, text="x")
    arrival = Arrival(source, f"bytes of {document}")
    job, _ = journal.receive(MINE, "docs", [arrival], most_waiting=100)
    journal.accept(job)
    return job


def test_what_is_built_aside_cannot_be_named_or_listed(catalog, builds):
    migration = builds.start(MINE, "docs", NEW, Options(queries=(Query("q", ("a",)),)))
    assert [found.name for found in catalog.collections(MINE)] == ["docs"]
    with pytest.raises(NotFound):
        catalog.collection(MINE, migration.build.name)
    with pytest.raises(NotFound):
        catalog.document(MINE, migration.build.name, "a")
    assert {found.id for found in catalog.every_collection()} == {
        migration.collection.id, migration.build.id
    }  # fmt: skip
    assert migration.build.settings == {"fusion": "rrf"}
    assert migration.options.queries == (Query("q", ("a",)),)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "another text"},
        {"title": "Another title"},
        {"metadata": {"year": 1812}},
        {"fingerprint": "of other bytes"},
    ],
)
def test_a_document_is_the_same_or_differs(catalog, builds, change):
    put(catalog, "a")
    put(catalog, "b")
    builds.start(MINE, "docs", NEW, Options())
    migration = claim(builds)
    assert (missing(builds, migration), builds.missing(migration)) == (["a", "b"], 2)
    for document in ("a", "b"):
        copy(catalog, builds, migration, document)
    assert (missing(builds, migration), builds.surplus(migration, limit=9)) == ([], [])
    put(catalog, "a", **change)
    assert missing(builds, migration) == ["a"]
    put(catalog, "c", migration.build)
    assert builds.surplus(migration, limit=9) == ["c"]


def test_a_copy_keeps_the_times_of_its_original(catalog, builds):
    put(catalog, "a")
    migration = flipping(catalog, builds)
    before = catalog.document(MINE, "docs", "a")
    assert builds.exchange(migration) == ""
    after = catalog.document(MINE, "docs", "a")
    assert after.generation != before.generation
    assert (after.created_at, after.updated_at) == (before.created_at, before.updated_at)
    assert after.metadata == before.metadata


def test_a_deleted_document_is_deleted_beside_as_well(catalog, builds):
    put(catalog, "a")
    put(catalog, "b")
    builds.start(MINE, "docs", NEW, Options())
    migration = claim(builds)
    copy(catalog, builds, migration, "a")
    (copied,) = catalog.live_generations(MINE, migration.build, ["a"]).values()
    record = catalog.document(MINE, "docs", "b")
    begun = catalog.begin_generation(
        MINE, migration.build, "b", content_hash="c", text_hash="t", parsed_hash="p"
    )
    catalog.delete_document(MINE, "docs", "a")
    assert catalog.stale_generations(MINE, migration.build, "a") == [copied]
    assert catalog.collection(MINE, migration.build).chunks == 0
    catalog.delete_document(MINE, "docs", "b")  # while it is copied
    assert not builds.adopt(migration, revision("b", begun), record)
    assert builds.ids(migration.build) == []


def test_the_exchange_swaps_what_the_name_points_at_and_nothing_else(catalog, builds):
    put(catalog, "a")
    before = catalog.collection(MINE, "docs")
    migration = flipping(catalog, builds)
    catalog.update_collection(MINE, "docs", answer_language="German")  # changed while it was built
    assert builds.exchange(migration) == ""
    after = catalog.collection(MINE, "docs")
    assert (after.id, after.physical) == (migration.build.id, migration.build.physical)
    assert (after.pipeline, after.chunks, after.build_for) == (NEW, 2, None)
    assert (after.system_prompt, after.answer_language) == ("Be kind.", "German")
    assert (after.settings, after.created_at) == ({"fusion": "rrf"}, before.created_at)
    aside = builds.find(MINE, "docs")
    assert (aside.state, aside.build.id, aside.build.build_for) == ("flipped", before.id, after.id)
    # Who looked the collection up before sees the index of then, whole.
    assert list(catalog.live_generations(MINE, before, ["a"])) == ["a"]
    assert catalog.token_document_frequencies(MINE, before, [7]) == ({7: 1}, 2)
    builds.ask(MINE, "docs", "back")
    assert builds.exchange(claim(builds)) == ""
    assert catalog.collection(MINE, "docs").id == before.id
    assert builds.find(MINE, "docs").state == "ready"


def test_a_difference_is_in_the_way(catalog, builds):
    put(catalog, "a")
    migration = flipping(catalog, builds)
    put(catalog, "b")
    assert builds.exchange(migration) == "documents that changed"
    copy(catalog, builds, migration, "b")
    put(catalog, "c", migration.build)
    assert builds.exchange(migration) == "documents that changed"
    assert catalog.collection(MINE, "docs").id == migration.collection.id
    catalog.delete_document(MINE, migration.build, "c")
    assert builds.exchange(migration) == ""


def test_what_is_at_work_ends_first_and_nothing_is_begun_meanwhile(catalog, builds, journal):
    migration = flipping(catalog, builds)
    accept(journal, "a")
    task = journal.claim(per_collection=9)
    assert builds.exchange(migration) == "documents at work"
    accept(journal, "b")
    builds.pause(migration)
    assert journal.claim(per_collection=9) is None
    catalog.create_collection(MINE, "other", OLD)
    arrival = Arrival(Source(name="o", origin="o", id="o", text="x"), "bytes of o")
    journal.accept(journal.receive(MINE, "other", [arrival], most_waiting=9)[0])
    assert journal.claim(per_collection=9).collection == "other"  # others are not held up
    task = journal.open_generation(task, text_hash="t", parsed_hash="p")
    journal.flip(task, revision("a", task.generation), lambda _: DONE)
    assert builds.exchange(migration) == "documents that changed"  # the one that ended
    copy(catalog, builds, migration, "a")
    assert builds.exchange(migration) == ""
    assert journal.claim(per_collection=9).document_id == "b"


def test_a_pause_lasts_as_long_as_its_worker_goes_on(database, catalog, builds, journal):
    migration = flipping(catalog, builds)
    accept(journal, "a")
    builds.progress(migration, done=0, total=1, rate=0.0, doing="")
    builds.pause(migration)
    with database.write() as connection:  # half a minute later
        past = migration.updated_at - timedelta(seconds=1)
        connection.execute(migrations.update().values(paused_until=past))
    builds.progress(migration, done=0, total=1, rate=0.0, doing="")
    assert journal.claim(per_collection=9) is None
    with database.write() as connection:  # and now it is dead
        connection.execute(migrations.update().values(paused_until=past))
    assert journal.claim(per_collection=9).document_id == "a"


def test_what_is_accepted_goes_on_in_the_new_index_from_its_beginning(catalog, builds, journal):
    job = accept(journal, "a")
    task = journal.claim(per_collection=9)
    task = journal.open_generation(task, text_hash="t", parsed_hash="p")
    journal.progress(task, "embed", 1, 2)
    journal.put_back(task, after=timedelta(0), error=RagError("Qdrant was away."))
    migration = flipping(catalog, builds)
    assert builds.exchange(migration) == ""
    (moved,) = journal.job(MINE, job).tasks
    assert (moved.state, moved.generation, moved.done, moved.retries) == ("queued", None, 0, 1)
    assert [one.id for one in journal.list_jobs(MINE, collection="docs")] == [job]
    # What it had written is in the index of before, and purged there.
    assert catalog.stale_generations(MINE, migration.collection, "a") == [task.generation]
    again = journal.open_generation(journal.claim(per_collection=9), text_hash="t", parsed_hash="p")
    journal.flip(again, revision("a", again.generation), lambda _: DONE)
    assert catalog.document(MINE, "docs", "a").generation == again.generation
    with pytest.raises(NotFound):
        catalog.document(MINE, migration.collection, "a")


def test_a_worker_that_slept_through_the_exchange_can_finish_nothing(catalog, builds, journal):
    accept(journal, "a")
    task = journal.claim(per_collection=9)
    task = journal.open_generation(task, text_hash="t", parsed_hash="p")
    with journal._database.write() as connection:  # its lease has ended
        journal._set(connection, task, lease_until=task.updated_at - timedelta(minutes=5))
    migration = flipping(catalog, builds)
    assert builds.exchange(migration) == ""
    with pytest.raises(LeaseLost):
        journal.flip(task, revision("a", task.generation), lambda _: DONE)
    with pytest.raises(LeaseLost):
        journal.progress(task, "embed", 2, 2)
    assert journal.claim(per_collection=9).document_id == "a"


def test_who_writes_without_the_journal_is_told(catalog, builds):
    """`rag.add` looked the collection up, then another index took its place."""
    put(catalog, "a")
    migration = flipping(catalog, builds)
    found = catalog.collection(MINE, "docs")
    begun = catalog.begin_generation(
        MINE, found, "b", content_hash="c", text_hash="t", parsed_hash="p"
    )
    assert builds.exchange(migration) == ""
    with pytest.raises(CollectionMoved):
        catalog.flip(MINE, found, revision("b", begun))
    with pytest.raises(CollectionMoved):
        catalog.begin_generation(MINE, found, "c", content_hash="c", text_hash="t", parsed_hash="p")
    with pytest.raises(CollectionMoved):
        catalog.delete_document(MINE, found, "a")
    # By its name, too: that generation belongs to the other index.
    assert not catalog.flip(MINE, "docs", revision("b", begun))
    catalog.abandon(MINE, found, begun)
    assert catalog.stale_generations(MINE, found, "b") == [begun]


def test_a_changed_bm25_language_is_no_small_difference(catalog, builds):
    migration = flipping(catalog, builds)
    catalog.update_collection(MINE, "docs", settings={"bm25_language": "german"})
    with pytest.raises(Conflict, match="BM25"):
        builds.exchange(migration)


def test_one_works_on_a_migration_and_a_dead_one_s_is_taken_over(builds):
    builds.start(MINE, "docs", NEW, Options())
    mine = claim(builds, "one")
    assert builds.claim("two") is None
    builds.recover()
    theirs = claim(builds, "two")
    for call in (
        lambda: builds.progress(mine, done=1, total=2, rate=1.0, doing=""),
        lambda: builds.settle(mine, "ready"),
        lambda: builds.pause(mine),
        lambda: builds.exchange(mine),
        lambda: builds.forget(mine),
    ):
        with pytest.raises(LeaseLost):
            call()
    builds.progress(theirs, done=1, total=2, rate=1.0, doing="")
    builds.hinder(theirs, RagError("Not now."), timedelta(minutes=1))
    assert builds.claim("three") is None  # not before it is time to try again


def test_it_is_asked_for_what_fits_its_state(catalog, builds):
    with pytest.raises(NotFound):
        builds.find(MINE, "docs")
    with pytest.raises(Conflict, match="exactly this already"):
        builds.start(MINE, "docs", OLD, Options())
    builds.start(MINE, "docs", NEW, Options())
    for wish in ("flip", "back"):
        with pytest.raises(Conflict, match="being migrated to new"):
            builds.ask(MINE, "docs", wish)
    with pytest.raises(Conflict, match="being migrated to new"):
        builds.start(MINE, "docs", {"dim": 9, "embedder": {"id": "third"}}, Options())
    migration = claim(builds)
    builds.fail(migration, RagError("No such model."))
    failed = builds.find(MINE, "docs")
    assert (failed.state, failed.error.message) == ("failed", "No such model.")
    assert builds.claim("nobody") is None
    again = builds.start(MINE, "docs", NEW, Options(flip=False))
    assert (again.state, again.error, again.options.flip) == ("building", None, False)
    builds.settle(claim(builds), "ready")
    with pytest.raises(Conflict, match="ready beside it"):
        builds.start(MINE, "docs", NEW, Options())
    builds.ask(MINE, "docs", "flip")
    assert builds.exchange(claim(builds)) == ""
    with pytest.raises(Conflict, match="was migrated"):
        builds.ask(MINE, "docs", "flip")
    builds.ask(MINE, "docs", "drop")
    builds.forget(claim(builds))
    assert [found.name for found in catalog.every_collection()] == ["docs"]


def test_accepting_beside_the_exchange_loses_nothing(catalog, builds, journal):
    """Whichever comes first: what was promised is of the collection that users see."""
    accept(journal, "a")
    migration = flipping(catalog, builds)
    jobs = []
    together = threading.Barrier(4)

    def send(name: str) -> None:
        together.wait()
        jobs.extend(accept(journal, f"{name}-{n}") for n in range(5))

    threads = [threading.Thread(target=send, args=(name,)) for name in ("x", "y", "z")]
    for thread in threads:
        thread.start()
    together.wait()
    assert builds.exchange(migration) == ""
    for thread in threads:
        thread.join()
    now = catalog.collection(MINE, "docs")
    assert now.id == migration.build.id
    listed = {job.id for job in journal.list_jobs(MINE, collection="docs", limit=100)}
    assert listed >= set(jobs)
    assert len(jobs) == 15
    claimed = {journal.claim(per_collection=100).document_id for _ in range(16)}
    assert len(claimed) == 16
