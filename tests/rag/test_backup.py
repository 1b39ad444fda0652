"""Backups while all goes on: what one transaction of the catalog refers to, and nothing else."""

import threading
from contextlib import closing
from datetime import timedelta

import pytest

from rag import backup
from rag import collection as shelf
from rag.archive import Archive
from rag.errors import Conflict, StoreUnreachable
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.objects import digest
from rag.restore import restore
from rag.sources import Source
from rag.types import Scope
from tests.rag.restoring import documents_of, opened

SENTENCE = "The lamp burns oil all night long. "


def text(name: str, version: int = 1, paragraphs: int = 3) -> Source:
    said = f"This is version {version} of {name}. {SENTENCE * 30}"
    return Source(
        name, name, id=name, text="\n\n".join([said] * paragraphs), metadata={"v": version}
    )


@pytest.fixture
def docs(rag):
    """Three documents in a collection, one of which was replaced."""
    shelf.create(rag.parts, rag.scope, "docs")
    for name in ("one", "two", "three"):
        rag.add(text(name), collection="docs")
    rag.add(text("two", 2), collection="docs")
    return rag


def paused(monkeypatch):
    """(reached, go on): backups stand still between the catalog's rows and the objects."""
    ready, go = threading.Event(), threading.Event()
    objects = backup._objects

    def waiting(*arguments):
        ready.set()
        assert go.wait(60)
        yield from objects(*arguments)

    monkeypatch.setattr(backup, "_objects", waiting)
    return ready, go


def kinds(rag) -> set[str]:
    return {finding.kind for finding in examine(rag.parts)}


def sweep(rag) -> None:
    ingestor = Ingestor(rag)
    ingestor._sweep()


def test_it_says_what_it_holds(docs, tmp_path):
    manifest = backup.write(docs.parts, tmp_path / "b")
    counts = {"collections": 1, "documents": 3, "generations": 3, "jobs": 0, "tasks": 0}
    assert manifest.counts | counts == manifest.counts
    # Three texts, which are what was sent as well, and one structure: all three have none.
    assert manifest.counts["objects"] == 4
    index = shelf.index_of(docs.parts.catalog.collection(docs.scope, "docs"))
    assert manifest.counts["points"] == docs.parts.store.count(docs.scope, index) > 6
    with Archive.open(tmp_path / "b") as archive:
        assert archive.manifest == manifest
    assert manifest.settings["chunk_tokens"] == 256
    assert manifest.settings["models"]["embedder"].endswith("MiniLM-L6-v2")


def test_no_secret_and_no_place_is_in_it(docs, tmp_path):
    settings = docs.parts.settings.model_copy(
        update={"embedder_url": "tei+http://user:hush@host", "qdrant_ca_file": tmp_path / "hush"}
    )
    kept = repr(backup.settings_of(settings))
    assert "hush" not in kept
    assert "api_key" not in kept
    assert str(tmp_path) not in kept


def test_what_happens_meanwhile_is_not_in_it_and_takes_nothing_from_it(docs, tmp_path, monkeypatch):
    rag, scope = docs, docs.scope
    shelf.create(rag.parts, scope, "other")
    rag.add(text("elsewhere"), collection="other")
    before = {name: documents_of(rag, name) for name in ("docs", "other")}
    ready, go = paused(monkeypatch)
    thread = threading.Thread(target=backup.write, args=(rag.parts, tmp_path / "b"))
    thread.start()
    assert ready.wait(60)
    rag.delete("one", collection="docs")
    rag.add(text("two", 3), collection="docs")
    rag.add(text("four"), collection="docs")
    shelf.drop(rag.parts, scope, "other")
    assert rag.search("lamp", collection="docs", filter={"document_id": "one"}).hits == ()
    sweep(rag)  # does not take away what the backup still has to read
    go.set()
    thread.join(60)
    restore(rag.parts.settings.model_copy(update={"data": tmp_path / "new"}), tmp_path / "b")
    with opened(tmp_path / "new", rag) as restored:
        assert {name: documents_of(restored, name) for name in before} == before
        assert restored.text("two", collection="docs").startswith("This is version 2")
    sweep(rag)  # now it goes
    assert kinds(rag) == set()
    index = shelf.index_of(rag.parts.catalog.collection(scope, "docs"))
    assert set(rag.parts.store.inventory(scope, index)) == set(
        rag.parts.catalog.generations_of(rag.parts.catalog.collection(scope, "docs")).live
    )


def test_backups_while_documents_come_change_and_go(docs, tmp_path):
    """Every document of each backup is whole, in one version; deleted ones are not in part."""
    rag, over = docs, threading.Event()

    def work() -> None:
        version = 10
        while not over.is_set():
            version += 1
            name = f"d{version % 4}"
            rag.add(text(name, version, 1 + version % 5), collection="docs")
            if version % 3 == 0:
                rag.delete(name, collection="docs")

    thread = threading.Thread(target=work)
    thread.start()
    for number in range(3):
        backup.write(rag.parts, tmp_path / f"b{number}")
    over.set()
    thread.join(60)
    for number in range(3):
        data = tmp_path / f"new{number}"
        settings = rag.parts.settings.model_copy(update={"data": data})
        restore(settings, tmp_path / f"b{number}")  # checks as fsck does
        with opened(data, rag) as restored:
            found = documents_of(restored, "docs")
            assert found["two"]["metadata"] == {"v": 2}
            for name, document in found.items():
                version = document["metadata"]["v"]
                assert restored.text(name, collection="docs").startswith(
                    f"This is version {version} of {name}."
                )
                assert document["points"] == document["chunks"] > 0
                assert document["versions"] == {version}
    sweep(rag)
    assert kinds(rag) == set()


def test_closed_early_it_lets_go(docs, monkeypatch):
    monkeypatch.setattr(backup, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(backup.Writer, "take", lambda self: self._out.take(1))
    with closing(backup.pieces(docs.parts)) as made:
        assert next(made)
        docs.delete("one", collection="docs")
        assert kinds(docs) == {"unpurged generation"}
        sweep(docs)
        assert kinds(docs) == {"unpurged generation"}
    sweep(docs)
    assert kinds(docs) == set()


def test_one_that_stood_still_too_long_fails_and_blocks_nothing(docs, tmp_path, monkeypatch):
    rag = docs
    hold = rag.parts.catalog.hold
    # As if all of its lease had passed since.
    monkeypatch.setattr(rag.parts.catalog, "hold", lambda _: hold(timedelta(0)))
    with pytest.raises(Conflict, match="stood still"):
        backup.write(rag.parts, tmp_path / "b")
    assert list(tmp_path.glob("b*")) == []
    rag.delete("one", collection="docs")
    assert kinds(rag) == set()  # purged at once


def test_a_dead_one_of_the_last_process_blocks_nothing(docs):
    docs.parts.catalog.hold(timedelta(hours=1))  # and then it was killed
    docs.delete("one", collection="docs")
    assert kinds(docs) == {"unpurged generation"}
    docs.parts.close()
    with opened(docs.parts.settings.data, docs) as again:
        again.delete("two", collection="docs")
        assert kinds(again) == {"unpurged generation"}  # that of "one", for the sweep
        sweep(again)
        assert kinds(again) == set()


def test_deleted_vectors_whose_store_was_away_are_dropped_later(docs, monkeypatch, caplog):
    def away(_):
        raise StoreUnreachable("Qdrant does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(docs.parts.store, "drop_physical", away)
        shelf.drop(docs.parts, docs.scope, "docs")
    assert "not deleted yet" in caplog.text
    assert docs.parts.store.physical_names() != []
    sweep(docs)
    assert docs.parts.store.physical_names() == []
    assert docs.parts.catalog.vectors_to_drop() == []


@pytest.mark.parametrize("damage", ["object missing", "object changed", "points missing"])
def test_what_is_damaged_is_not_passed_off_as_a_backup(docs, tmp_path, damage):
    parts, scope = docs.parts, docs.scope
    record = parts.catalog.document(scope, "docs", "one")
    if damage == "object missing":
        parts.objects.delete(record.text_hash)
        says = record.text_hash
    elif damage == "object changed":
        parts.objects._path(record.text_hash).write_bytes(b"rotten")
        says = "has changed on the disk"
    else:
        index = shelf.index_of(parts.catalog.collection(scope, "docs"))
        parts.store.delete(scope, index, "one", [record.generation])
        says = f"'one' has 0 of {record.chunks} points"
    with pytest.raises(Conflict, match=says):
        backup.write(parts, tmp_path / "b")
    assert list(tmp_path.glob("b*")) == []


def test_collections_of_all_tenants_are_in_it(docs, tmp_path):
    theirs = docs.within(Scope("theirs"))
    shelf.create(docs.parts, theirs.scope, "docs")
    theirs.add(text("one", 9), collection="docs")
    backup.write(docs.parts, tmp_path / "b")
    restore(docs.parts.settings.model_copy(update={"data": tmp_path / "new"}), tmp_path / "b")
    with opened(tmp_path / "new", docs) as restored:
        assert documents_of(restored, "docs") == documents_of(docs, "docs")
        other = restored.within(theirs.scope)
        assert documents_of(other, "docs") == documents_of(theirs, "docs")
        assert set(documents_of(other, "docs")) == {"one"}


def test_an_empty_catalog_has_a_backup_too(rag, tmp_path):
    manifest = backup.write(rag.parts, tmp_path / "b")
    assert set(manifest.counts.values()) == {0}
    restore(rag.parts.settings.model_copy(update={"data": tmp_path / "new"}), tmp_path / "b")
    with opened(tmp_path / "new", rag) as restored:
        assert restored.parts.catalog.every_collection() == []


def test_a_collection_whose_vectors_were_not_made_yet_is_in_it(docs, tmp_path):
    """A crash may have come between a collection's row and its vectors."""
    pipeline = shelf.pipeline(docs.parts.settings, docs.parts.embedder)
    docs.parts.catalog.create_collection(docs.scope, "half", pipeline)
    backup.write(docs.parts, tmp_path / "b")
    restore(docs.parts.settings.model_copy(update={"data": tmp_path / "new"}), tmp_path / "b")
    with opened(tmp_path / "new", docs) as restored:
        restored.add(text("first"), collection="half")
        assert set(documents_of(restored, "half")) == {"first"}


def test_the_bytes_of_what_is_queued_are_in_it(docs, tmp_path):
    waiting = Ingestor(docs)  # not started
    waiting.submit(docs.scope, "docs", [Upload(Source("q", "q", id="q", text="Queued."))])
    manifest = backup.write(docs.parts, tmp_path / "b")
    assert (manifest.counts["jobs"], manifest.counts["tasks"]) == (1, 1)
    with Archive.open(tmp_path / "b") as archive:
        assert digest(b"Queued.") in {name for name, pieces in archive.objects() if list(pieces)}
