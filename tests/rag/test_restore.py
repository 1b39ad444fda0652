"""A backup put back: verified first, across kinds of stores, never half."""

import os
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from qdrant_client import QdrantClient

from rag import backup, revisions, unfinished
from rag import collection as shelf
from rag import restore as module
from rag.archive import Archive, Writer
from rag.catalog import Catalog
from rag.database import Database
from rag.errors import Conflict, MalformedBackup, StorageFull, StoreUnreachable
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.journal import Arrival
from rag.objects import digest
from rag.restore import restore
from rag.settings import load_settings
from rag.sources import Source
from rag.store.server import ServerStore
from rag.types import Scope
from tests.rag.restoring import documents_of, opened

POSTGRES = os.environ.get("RAG_TEST_DATABASE_URL")
SERVER = "http://qdrant.test:6333"


@pytest.fixture(scope="module")
def sample(lighthouse, tmp_path_factory):
    """A backup of the sample collection."""
    path = tmp_path_factory.mktemp("backups") / "sample.backup"
    backup.write(lighthouse.parts, path)
    return path


@pytest.fixture(scope="module")
def expected(lighthouse, questions) -> dict[str, list[tuple[str, float]]]:
    """The hits of each question, best first, with their scores."""
    return {question: hits(lighthouse, question) for question in questions}


@pytest.fixture(scope="module")
def questions(lighthouse) -> list[str]:
    """A hundred sentences of the sample documents, asked for as a person would."""
    found = []
    for record in lighthouse.parts.catalog.documents(lighthouse.scope, "lighthouse"):
        text = lighthouse.text(record.id, collection="lighthouse")
        sentences = re.findall(r"[A-Z][^.!?\n]{30,120}[.!?]", text)
        found += [f"Is it true that {sentence[:-1]}?" for sentence in sentences[:12]]
    assert len(found) >= 100
    return found[:100]


def settings(data, **more):
    return load_settings(data=data, profile="starter", **more)


def hits(rag, question: str) -> list[tuple[str, float]]:
    # Not reranked: that reads nothing but these, and models round as their batches happen to fall.
    found = rag.search(question, collection="lighthouse", limit=10, rerank=False).hits
    return [(hit.point_id, hit.score) for hit in found]


def agree(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    """The same hits in the same order. Engines add up 32-bit numbers in an order of their own."""
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [score for _, score in found] == pytest.approx([s for _, s in expected], abs=1e-5)


@pytest.fixture
def qdrant(tmp_path, monkeypatch):
    """A Qdrant of one's own behind `SERVER`: the client's local mode, on the disk."""

    def connect(url, **_):
        assert url == SERVER
        return ServerStore(QdrantClient(path=str(tmp_path / "qdrant")), address=url)

    monkeypatch.setattr("rag.store.server.connect", connect)
    return connect


def test_the_same_hundred_questions_give_the_same_hits(lighthouse, sample, expected, tmp_path):
    restore(settings(tmp_path / "new"), sample)
    with opened(tmp_path / "new", lighthouse) as restored:
        for question in expected:
            agree(hits(restored, question), expected[question])
        before, after = (documents_of(one, "lighthouse") for one in (lighthouse, restored))
        assert before == after  # every vector to the bit, every text, every record


@pytest.mark.usefixtures("qdrant")
def test_from_the_process_to_a_server_and_back(lighthouse, sample, expected, tmp_path):
    there = {"qdrant_url": SERVER}
    restore(settings(tmp_path / "new", **there), sample)
    with opened(tmp_path / "new", lighthouse, **there) as restored:
        assert isinstance(restored.parts.store, ServerStore)
        for question in [*expected][::4]:
            agree(hits(restored, question), expected[question])
        backup.write(restored.parts, tmp_path / "again")
    assert not (tmp_path / "new" / "vectors").exists()
    restore(settings(tmp_path / "back"), tmp_path / "again")
    with opened(tmp_path / "back", lighthouse) as back:
        for question in [*expected][::4]:
            agree(hits(back, question), expected[question])
        after, before = (documents_of(one, "lighthouse") for one in (back, lighthouse))
        # The client's local mode makes vectors of length 1 of those that are: a rounding more.
        for name, document in after.items():
            vectors, were = (one.pop("vectors") for one in (document, before[name]))
            for point, vector in vectors.items():
                assert np.frombuffer(vector, np.float32) == pytest.approx(
                    np.frombuffer(were[point], np.float32), abs=1e-6
                )
        assert after == before


@contextmanager
def postgres():
    """The URL of a database without rows."""
    if POSTGRES is None:
        pytest.skip("RAG_TEST_DATABASE_URL names no Postgres database")

    def clear() -> None:
        database = Database.open(POSTGRES)
        catalog = Catalog(database)
        for left in catalog.every_collection():
            catalog.delete_collection(Scope(left.tenant), left.name)
        for physical in catalog.vectors_to_drop():
            catalog.vectors_dropped(physical)
        database.close()

    clear()
    yield POSTGRES
    clear()


def test_from_sqlite_to_postgres_and_back(lighthouse, sample, expected, tmp_path):
    with postgres() as url:
        restore(settings(tmp_path / "new", database_url=url), sample)
        assert not (tmp_path / "new" / "catalog.sqlite").exists()
        with opened(tmp_path / "new", lighthouse, database_url=url) as restored:
            agree(hits(restored, next(iter(expected))), expected[next(iter(expected))])
            assert documents_of(restored, "lighthouse") == documents_of(lighthouse, "lighthouse")
            last = max(live(restored, "lighthouse").values())
            restored.add(note("n"), collection="lighthouse")
            assert live(restored, "lighthouse")["n"] > last  # the sequence goes on
            shelf.create(restored.parts, restored.scope, "next")
            backup.write(restored.parts, tmp_path / "again")
        with pytest.raises(Conflict, match="not empty"):
            restore(settings(tmp_path / "second", database_url=url), sample)
        assert not (tmp_path / "second").exists()
    restore(settings(tmp_path / "back"), tmp_path / "again")
    with opened(tmp_path / "back", lighthouse) as back:
        found = documents_of(back, "lighthouse")
        assert found.pop("n")["points"] == 1
        assert found == documents_of(lighthouse, "lighthouse")


def note(name: str, text: str = "The horn sounds twice a minute in fog.") -> Source:
    return Source(name, name, id=name, text=text)


def live(rag, collection: str) -> dict[str, int]:
    records = rag.parts.catalog.documents(rag.scope, collection, limit=1000)
    return {record.id: record.generation for record in records}


@pytest.fixture
def docs(rag):
    """A small collection of one's own."""
    shelf.create(rag.parts, rag.scope, "docs")
    for name in ("one", "two"):
        rag.add(note(name), collection="docs")
    return rag


@pytest.fixture
def small(docs, tmp_path):
    """A backup of it."""
    backup.write(docs.parts, tmp_path / "small")
    return tmp_path / "small"


def test_what_was_accepted_is_ingested_after_the_restore(docs, tmp_path):
    """One waits, one is at work and half written, one is only being received."""
    parts, scope = docs.parts, docs.scope
    waiting = Ingestor(docs)  # not started
    jobs = [waiting.submit(scope, "docs", [Upload(note(name))]) for name in ("a", "b")]
    running = parts.journal.claim(per_collection=5)
    parts.objects.put(b"text")
    parts.objects.put(b"structure")
    parts.journal.open_generation(
        running, text_hash=digest(b"text"), parsed_hash=digest(b"structure")
    )
    parts.journal.receive(
        scope, "docs", [Arrival(note("c"), digest(b"not here yet"))], most_waiting=9
    )
    manifest = backup.write(parts, tmp_path / "b")
    assert manifest.counts["tasks"] == 2
    restore(settings(tmp_path / "new"), tmp_path / "b")
    with opened(tmp_path / "new", docs) as restored:
        assert set(documents_of(restored, "docs")) == {"one", "two"}
        states = [restored.parts.journal.job(scope, job.id).state for job in jobs]
        assert states == ["queued", "queued"]
        ingestor = Ingestor(restored)
        ingestor.start()
        for job in jobs:
            ingestor.ended(job.id).result(timeout=60)
        ingestor.close()
        assert set(documents_of(restored, "docs")) == {"one", "two", "a", "b"}
        assert list(examine(restored.parts)) == []


def test_a_failed_document_can_be_tried_again_after_the_restore(docs, tmp_path):
    ingestor = Ingestor(docs)
    ingestor.start()
    job = ingestor.submit(docs.scope, "docs", [Upload(note("empty", " "))])
    ingestor.ended(job.id).result(timeout=60)
    ingestor.close()
    backup.write(docs.parts, tmp_path / "b")
    restore(settings(tmp_path / "new"), tmp_path / "b")
    with opened(tmp_path / "new", docs) as restored:
        journal = restored.parts.journal
        assert journal.job(docs.scope, job.id).tasks[0].error.kind == "EmptyDocument"
        assert journal.retry(docs.scope, job.id).state == "queued"


def test_a_generation_is_never_given_twice(docs, tmp_path):
    """Not even one whose document had gone before the backup."""
    docs.add(note("three"), collection="docs")
    last = live(docs, "docs")["three"]
    docs.delete("three", collection="docs")
    backup.write(docs.parts, tmp_path / "b")
    restore(settings(tmp_path / "new"), tmp_path / "b")
    with opened(tmp_path / "new", docs) as restored:
        restored.add(note("four"), collection="docs")
        assert live(restored, "docs")["four"] == last + 1


def test_a_folder_with_something_in_it_is_refused(docs, small, tmp_path):
    with pytest.raises(Conflict, match="not empty"):
        restore(docs.parts.settings, small)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("precious")
    with pytest.raises(Conflict, match="not empty"):
        restore(settings(tmp_path / "mine"), small)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]


@pytest.mark.usefixtures("qdrant")
def test_a_qdrant_that_holds_the_collections_is_refused(small, tmp_path):
    there = {"qdrant_url": SERVER}
    restore(settings(tmp_path / "new", **there), small)
    with pytest.raises(Conflict, match="Qdrant holds 1 of the backup's collections"):
        restore(settings(tmp_path / "second", **there), small)
    assert not (tmp_path / "second").exists()


def broken(path, at: int | None = None, bit: int | None = None):
    data = bytearray(path.read_bytes())
    if at is not None:
        del data[at:]
    if bit is not None:
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["half", "nearly all", "altered", "foreign"])
def test_nothing_is_written_of_a_bad_file(small, tmp_path, how):
    size = small.stat().st_size
    if how == "half":
        broken(small, at=size // 2)
    elif how == "nearly all":
        broken(small, at=size - 1)
    elif how == "altered":
        broken(small, bit=size * 4)
    else:
        small.write_bytes(b"PK\x03\x04 and so on, a zip of somebody else's")
    with pytest.raises(MalformedBackup):
        restore(settings(tmp_path / "new"), small)
    assert not (tmp_path / "new").exists()


def rewritten(path, change):
    """A backup with a right checksum whose content was changed by `change(name, data)`."""
    with Archive.open(path) as archive:
        manifest, writer = archive.manifest, Writer()
        for name in manifest.members:
            data = change(name, archive._zip.read(name))
            if data is not None:
                with writer.member(name) as member:
                    member.write(data)
    path.write_bytes(writer.take(0) + writer.finish(replace(manifest, members=writer.members)))
    return path


@pytest.mark.parametrize(
    ("member", "change", "says"),
    [
        ("catalog/documents.jsonl", lambda data: data.splitlines(keepends=True)[0], "entries"),
        ("catalog/generations.jsonl", lambda _: b"", "Nothing in the backup refers"),
        ("objects/000000", lambda _: b"", "is there 0 times"),
        (".npy", None, "cannot be read"),
        (
            ".jsonl points",
            lambda data: data.replace(b'"tenant": "default"', b'"tenant": "x"'),
            "tenant",
        ),
        (".jsonl points", lambda data: data.replace(b'"document_id"', b'"document"'), "is none"),
        (".jsonl points", lambda data: data.splitlines(keepends=True)[0], "do not fit"),
    ],
)
def test_what_does_not_fit_together_is_refused(small, tmp_path, member, change, says):
    suffix, _, folder = member.partition(" ")

    def changed(name, data):
        if name.endswith(suffix) and name.startswith(folder):
            return change(data) if change else None
        return data

    with pytest.raises(MalformedBackup, match=says):
        restore(settings(tmp_path / "new"), rewritten(small, changed))
    assert not (tmp_path / "new").exists()


def older(lines: bytes) -> bytes:
    """Rows of a catalog without the columns that its tables had not yet."""
    return re.sub(rb', "(version": \d+|acl": "[^"]*")', b"", lines)


def with_manifest(path, *, without=(), **changes):
    """The same backup with another manifest, and without some tables."""
    with Archive.open(path) as archive:
        writer = Writer()
        left_out = {f"catalog/{table}.jsonl" for table in without}
        for name in sorted(archive.manifest.members.keys() - left_out):
            with writer.member(name) as member:
                member.write(older(archive._zip.read(name)) if without else archive._zip.read(name))
        manifest = replace(archive.manifest, members=writer.members, **changes)
    path.write_bytes(writer.take(0) + writer.finish(manifest))
    return path


def test_one_of_a_newer_ragstone_is_refused(small, tmp_path):
    newer = with_manifest(small, revision="9999", made_by={"ragstone": "42.0"})
    with pytest.raises(MalformedBackup, match=r"42\.0, which is newer"):
        restore(settings(tmp_path / "new"), newer)
    assert not (tmp_path / "new").exists()


def test_one_of_older_tables_is_brought_up_to_date(docs, small, tmp_path):
    with Archive.open(small) as archive:
        counts = dict(archive.manifest.counts)
    younger = ("traces", "trace_documents", "feedback", "api_keys", "audit")
    for table in younger:
        del counts[table]
    older = with_manifest(small, without=younger, revision="0006", counts=counts)
    restore(settings(tmp_path / "new"), older)
    with opened(tmp_path / "new", docs) as restored:
        assert documents_of(restored, "docs") == documents_of(docs, "docs")
        with restored.parts.database.read() as connection:
            made = {index["name"] for index in sa.inspect(connection).get_indexes("generations")}
        assert "generations_state" in made  # which is younger
    assert revisions.newest() > "0006"


def interrupt(monkeypatch, owner, name: str):
    """Make a step of the restore fail as if the process had ended there."""

    def end(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, end)


@pytest.mark.usefixtures("qdrant")
@pytest.mark.parametrize("step", ["_fill_objects", "_fill_catalog", "_check"])
@pytest.mark.parametrize("kind", ["edge", "server"])
def test_an_interrupted_restore_is_recognised_and_can_begin_anew(
    docs, small, tmp_path, monkeypatch, step, kind
):
    more = {"qdrant_url": SERVER} if kind == "server" else {}
    to = settings(tmp_path / "new", **more)
    with monkeypatch.context() as patched:
        interrupt(patched, module, step)
        with pytest.raises(KeyboardInterrupt):
            restore(to, small)
    with pytest.raises(Conflict, match="not whole"), opened(tmp_path / "new", docs, **more):
        pass
    restore(to, small)
    with opened(tmp_path / "new", docs, **more) as restored:
        found, before = (documents_of(one, "docs") for one in (restored, docs))
        assert {n: d["record"] for n, d in found.items()} == {
            n: d["record"] for n, d in before.items()
        }
        assert list(examine(restored.parts)) == []


def test_no_room_is_said_before_anything_is_written(small, tmp_path):
    to = settings(tmp_path / "new", min_free_bytes=2**62)
    with pytest.raises(StorageFull, match="are free"):
        restore(to, small)
    assert not (tmp_path / "new").exists()


def test_settings_that_differ_are_named(small, tmp_path):
    found = restore(settings(tmp_path / "new", chunk_tokens=128), small)
    assert found.differs == {"chunk_tokens": (256, 128)}


def test_steps_are_told(small, tmp_path):
    seen = []
    restore(settings(tmp_path / "new"), small, seen.append)
    stages = list(dict.fromkeys(step.stage for step in seen))
    assert stages[:3] == ["checksum", "verify objects", "verify points"]
    assert {"objects", "points", "documents"} <= set(stages)
    assert all(step.done <= step.total for step in seen)


def test_what_the_store_cannot_take_leaves_a_mark(small, tmp_path, monkeypatch):
    def away(*_):
        raise StoreUnreachable("Qdrant does not answer.")

    monkeypatch.setattr("rag.store.edge.EdgeStore.upsert", away)
    with pytest.raises(StoreUnreachable):
        restore(settings(tmp_path / "new"), small)
    assert (tmp_path / "new" / unfinished.MARK).exists()
