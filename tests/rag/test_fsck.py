"""Every kind of finding, made on purpose, and what repairing it does."""

from dataclasses import replace

import pytest

from rag import collection as shelf
from rag.errors import NotFound
from rag.fsck import examine
from rag.objects import digest
from rag.sources import Source
from rag.store import Index, Point, point_id

SENTENCE = "The lamp burns oil all night long. "
TEXT = "\n\n".join(f"Paragraph {n}. {SENTENCE * 40}" for n in range(8))


@pytest.fixture
def docs(rag):
    """Two documents in a collection."""
    shelf.create(rag.parts, rag.scope, "docs")
    for name in ("one", "two"):
        rag.add(Source(name=name, origin=name, id=name, text=f"{name}. {TEXT}"), collection="docs")
    return rag


def kinds(rag) -> list[str]:
    return [finding.kind for finding in examine(rag.parts)]


def repair(rag) -> None:
    for finding in list(examine(rag.parts)):
        finding.repair()


def index_of(rag) -> Index:
    return shelf.index_of(rag.parts.catalog.collection(rag.scope, "docs"))


def live(rag, document: str) -> int:
    return rag.parts.catalog.live_generations(rag.scope, "docs", [document])[document]


def test_a_whole_folder_has_no_findings(docs):
    assert kinds(docs) == []


def test_missing_points_are_written_again(docs):
    parts, scope = docs.parts, docs.scope
    before = docs.search("lamp", collection="docs", filter={"document_id": "one"}).hits
    parts.store.delete(scope, index_of(docs), "one", [live(docs, "one")])
    assert kinds(docs) == ["missing points"]
    repair(docs)
    assert kinds(docs) == []
    after = docs.search("lamp", collection="docs", filter={"document_id": "one"}).hits
    assert [hit.point_id for hit in after] == [hit.point_id for hit in before]


def test_points_of_no_generation_are_deleted(docs):
    parts, scope = docs.parts, docs.scope
    begun = parts.catalog.begin_generation(
        scope, "docs", "one", content_hash="", text_hash="", parsed_hash=""
    )
    (two,) = parts.store.search(
        scope, index_of(docs), vector=None, text="two", conditions=(), limit=1
    )[1]
    chunk = replace(two.chunk, document_id="one", generation=begun)
    found = parts.catalog.collection(scope, "docs")
    (vector,) = parts.embedder.embed_passages(["x"])
    point = Point(point_id(scope.tenant, found.id, chunk), chunk, vector)
    parts.store.upsert(scope, index_of(docs), [point])
    assert kinds(docs) == ["unfinished generation"]  # as a killed `rag ingest` leaves it
    parts.catalog.abandon(scope, "docs", begun)
    assert kinds(docs) == ["unpurged generation"]
    repair(docs)
    assert kinds(docs) == []
    parts.store.upsert(scope, index_of(docs), [point])
    assert kinds(docs) == ["orphan points"]
    repair(docs)
    assert kinds(docs) == []
    assert docs.text("one", collection="docs").startswith("one.")


def test_vectors_of_no_collection_are_dropped(docs):
    docs.parts.store.create(Index("ragstone_nobody", 384))
    assert kinds(docs) == ["orphan vectors"]
    repair(docs)
    assert kinds(docs) == []


def test_objects_both_ways(docs):
    parts = docs.parts
    parts.objects.put(b"nobody's")
    assert kinds(docs) == ["orphan object"]
    repair(docs)
    with pytest.raises(NotFound):
        parts.objects.get(digest(b"nobody's"))
    record = parts.catalog.document(docs.scope, "docs", "one")
    parts.objects.delete(record.content_hash)
    (finding,) = examine(parts)
    assert (finding.kind, finding.repair) == ("missing object", None)
