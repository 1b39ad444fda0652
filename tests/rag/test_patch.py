"""Changing title and metadata without embedding again."""

import json
from dataclasses import replace

import pytest

from rag import collection as shelf
from rag.errors import Conflict, InvalidInput, NotFound, StoreUnreachable, TooLarge
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.patch import paint_all
from rag.sources import Source

LAMP = Source(
    name="lamp", origin="lamp.txt", id="lamp", title="Lamp", text="The lamp burns oil all night.",
    metadata={"year": 1811, "sea": "north", "tags": ["a", "b"]},
)  # fmt: skip
BELL = Source(name="bell", origin="bell.txt", id="bell", title="Bell", text="The bell rings.")


@pytest.fixture
def docs(rag):
    shelf.create(rag.parts, rag.scope, "docs")
    for source in (LAMP, BELL):
        rag.add(source, collection="docs")
    return rag


@pytest.fixture
def deaf(docs, monkeypatch):
    """A store that takes no payloads, until it is let."""

    def paint(*_, **__):
        raise StoreUnreachable("The store does not answer.")

    monkeypatch.setattr(docs.parts.store, "paint", paint)
    return monkeypatch


def kinds(rag) -> list[str]:
    return [finding.kind for finding in examine(rag.parts)]


def found(rag, **where) -> list[str]:
    hits = rag.search("lamp bell", collection="docs", filter=where or None).hits
    return sorted({hit.chunk.document_id for hit in hits})


def vectors_read(rag, monkeypatch) -> list[int]:
    """How many passages are embedded from here on."""
    read: list[int] = []
    embed = rag.parts.embedder.embed_passages

    def counted(texts):
        read.append(len(texts))
        return embed(texts)

    monkeypatch.setattr(rag.parts.embedder, "embed_passages", counted)
    return read


def test_null_removes_what_is_left_out_stays(docs, monkeypatch):
    read = vectors_read(docs, monkeypatch)
    merge = {"metadata": {"year": 1812, "sea": None, "tags": ["c"], "new": True}}
    changed = docs.patch("lamp", merge, collection="docs")
    assert changed.metadata == {"year": 1812, "tags": ["c"], "new": True}
    assert changed.title == "Lamp"
    assert read == []
    assert found(docs, year=1812, new=True) == ["lamp"]
    assert found(docs, tags="c") == ["lamp"]
    assert found(docs, sea="north") == found(docs, tags="a") == found(docs, year=1811) == []
    assert kinds(docs) == []


def test_null_for_all_metadata_and_for_a_title(docs):
    docs.patch("lamp", {"title": "The lamp", "metadata": None}, collection="docs")
    (hit, *_) = docs.search("lamp", collection="docs", filter={"title": "The lamp"}).hits
    assert (hit.chunk.title, hit.chunk.metadata) == ("The lamp", {})
    assert docs.patch("lamp", {"title": None}, collection="docs").title == "Lamp"
    assert found(docs, title="Lamp") == ["lamp"]
    assert kinds(docs) == []


def test_the_same_upload_again_keeps_a_patch_and_a_changed_one_replaces_it(docs, monkeypatch):
    read = vectors_read(docs, monkeypatch)
    docs.patch("lamp", {"title": "New", "metadata": {"year": 1900}}, collection="docs")
    assert docs.add(LAMP, collection="docs").status == "unchanged"
    assert read == []
    record = docs.parts.catalog.document(docs.scope, "docs", "lamp")
    assert (record.title, record.metadata["year"]) == ("New", 1900)
    other = replace(LAMP, text="The lamp is electric.")
    assert docs.add(other, collection="docs").status == "replaced"
    record = docs.parts.catalog.document(docs.scope, "docs", "lamp")
    assert (record.title, record.metadata, record.patches) == ("Lamp", LAMP.metadata, 0)
    assert found(docs, year=1811) == ["lamp"]
    assert kinds(docs) == []


def test_what_the_store_did_not_take_is_painted_by_the_next_sweep(docs, deaf):
    docs.patch("lamp", {"title": "New", "metadata": {"year": 1900}}, collection="docs")
    # Points still say 1811: the hit shows what the catalog has, and the old filter finds it no more
    (hit,) = docs.search("oil lamp", collection="docs", filter={"document_id": "lamp"}).hits
    assert (hit.chunk.title, hit.chunk.metadata["year"]) == ("New", 1900)
    stale = docs.search("oil lamp", collection="docs", filter={"year": 1811})
    assert stale.hits == ()
    assert "does not hold any more" in stale.cuts[0].why
    assert kinds(docs) == ["outdated points"]
    paint_all(docs.parts)  # it still takes nothing: nothing is lost by trying
    deaf.undo()
    paint_all(docs.parts)
    assert kinds(docs) == []
    assert found(docs, year=1900) == ["lamp"]


def test_a_process_that_starts_paints_what_a_killed_one_did_not(docs, deaf):
    docs.patch("lamp", {"metadata": {"year": 1900}}, collection="docs")
    deaf.undo()
    ingestor = Ingestor(docs)
    ingestor.start()
    ingestor.close()
    assert kinds(docs) == []
    assert found(docs, year=1900) == ["lamp"]


def test_fsck_repairs_points_that_say_something_else(docs):
    parts, record = docs.parts, docs.parts.catalog.document(docs.scope, "docs", "lamp")
    index = shelf.index_of(parts.catalog.collection(docs.scope, "docs"))
    parts.store.paint(docs.scope, index, "lamp", record.generation, metadata={"year": 1})
    (finding,) = examine(parts)
    assert (finding.kind, "'lamp'" in finding.what) == ("outdated points", True)
    finding.repair()
    assert kinds(docs) == []
    assert found(docs, year=1811) == ["lamp"]


def test_missing_points_are_written_again_with_a_patch(docs):
    docs.patch("lamp", {"title": "New", "metadata": {"year": 1900}}, collection="docs")
    parts, record = docs.parts, docs.parts.catalog.document(docs.scope, "docs", "lamp")
    index = shelf.index_of(parts.catalog.collection(docs.scope, "docs"))
    parts.store.delete(docs.scope, index, "lamp", [record.generation])
    (finding,) = examine(parts)
    finding.repair()
    assert kinds(docs) == []
    assert found(docs, year=1900, title="New") == ["lamp"]


def test_no_patch_while_a_newer_version_is_on_its_way(docs):
    ingestor = Ingestor(docs)
    newer = replace(LAMP, text="The lamp is electric.")
    job = ingestor.submit(docs.scope, "docs", [Upload(newer)])  # nobody works on it yet
    with pytest.raises(Conflict, match=f"GET /v1/jobs/{job.id}"):
        docs.patch("lamp", {"metadata": {"year": 1900}}, collection="docs")
    docs.patch("bell", {"metadata": {"year": 1900}}, collection="docs")
    ingestor.start()
    ingestor.ended(job.id).result(timeout=30)
    docs.patch("lamp", {"metadata": {"year": 1900}}, collection="docs")
    ingestor.close()
    assert kinds(docs) == []


def test_a_patch_that_changes_nothing_is_none(docs):
    before = docs.parts.catalog.document(docs.scope, "docs", "lamp")
    assert docs.patch("lamp", {"metadata": {"year": 1811, "no": None}}, collection="docs") == before
    assert docs.patch("lamp", {}, collection="docs") == before


@pytest.mark.parametrize(
    ("document", "merge", "error"),
    [
        ("nobody", {"title": "New"}, NotFound),
        ("lamp", {"source": "x"}, InvalidInput),
        ("lamp", {"title": " "}, InvalidInput),
        ("lamp", {"title": "x" * 2001}, InvalidInput),
        ("lamp", {"metadata": [1]}, InvalidInput),
        ("lamp", {"metadata": {"deep": {"er": 1}}}, InvalidInput),
        ("lamp", {"metadata": {"note": "x" * 20_000}}, TooLarge),
    ],
)
def test_wrong_patches_change_nothing(docs, document, merge, error):
    before = docs.parts.catalog.documents(docs.scope, "docs")
    with pytest.raises(error):
        docs.patch(document, merge, collection="docs")
    assert docs.parts.catalog.documents(docs.scope, "docs") == before
    assert json.dumps(before[1].metadata) == json.dumps(dict(LAMP.metadata))
