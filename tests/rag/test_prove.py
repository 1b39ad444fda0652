"""A proved deletion counts in the places themselves, and says what is left."""

from dataclasses import replace

import pytest

from rag import collection as shelf
from rag.errors import NotFound, StoreUnreachable
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.objects import digest
from rag.prove import delete_proved
from rag.sources import Source
from rag.store import Point, point_id
from rag.types import Scope

TEXT = "The lamp burns oil all night."


@pytest.fixture
def docs(rag):
    """`lamp` ingested twice, `twin` of the same bytes, `bell` sent together with it."""
    shelf.create(rag.parts, rag.scope, "docs")
    ingestor = Ingestor(rag)
    ingestor.start()
    for text in ("An older text.", TEXT):
        sent = [Upload(Source(name="lamp", origin="lamp", id="lamp", title="Lamp", text=text))]
        job = ingestor.submit(rag.scope, "docs", sent)
        ingestor.ended(job.id).result(timeout=30)
    sent = [
        Upload(Source(name=name, origin=name, id=name, title=name, text=text))
        for name, text in (("twin", TEXT), ("bell", "The bell rings."))
    ]
    ingestor.ended(ingestor.submit(rag.scope, "docs", sent).id).result(timeout=30)
    ingestor.close()
    return rag


def prove(rag, document: str, **options):
    return delete_proved(rag.parts, rag.scope, "docs", document, **options)


def counts(proof) -> dict[str, tuple[int | None, int | None]]:
    return {place.what: (place.before, place.after) for place in proof.places}


def test_every_place_is_counted_and_empty_afterwards(docs):
    docs.search("bell", collection="docs")  # token vectors of passages are kept in memory
    proof = prove(docs, "bell")
    found = counts(proof)
    scores = found.pop("cached scores, of all documents")
    assert scores[0] > 0
    assert scores[1] == 0
    (points,) = [what for what in found if what.startswith("points")]
    assert found.pop(points) == (1, 0)
    original = digest(b"The bell rings.")[:12]
    (structure,) = [what for what in found if what.startswith("structure")]
    assert found.pop(structure) == (1, 0)
    assert found == {
        "document, title and metadata": (1, 0),
        "generations": (1, 0),
        "job records": (1, 0),
        "jobs of this document alone": (0, 0),  # `twin` was sent in the same one
        "traces of answers": (0, 0),
        f"text {original}": (1, 0),  # a text is its own original
    }
    assert proof.gone
    # Counted here as well: nothing anywhere says "bell".
    jobs = docs.parts.journal.list_jobs(docs.scope)
    assert "bell" not in {task.document_id for job in jobs for task in job.tasks}
    assert list(examine(docs.parts)) == []
    with pytest.raises(NotFound):
        prove(docs, "bell")


def test_what_another_document_uses_is_kept_and_said(docs):
    proof = prove(docs, "lamp")
    kept = {place.what: place.why for place in proof.places if place.shared}
    name = digest(TEXT.encode())[:12]
    assert kept[f"text {name}"] == "kept, because also used by 'twin' in 'docs'"
    assert proof.gone  # nothing is left that is its own
    found = counts(proof)
    assert found["job records"] == (2, 0)
    assert found["jobs of this document alone"] == (2, 0)
    assert docs.text("twin", collection="docs") == TEXT
    assert list(examine(docs.parts)) == []


@pytest.mark.parametrize("there", [True, False])
def test_it_does_not_tell_whether_somebody_else_has_the_same(docs, there):
    """Else guesses could be tried: bytes that another tenant has as well stay, and are no news."""
    theirs = docs.within(Scope("theirs"))
    shelf.create(docs.parts, theirs.scope, "secret")
    source = Source(name="s", origin="s", id="secret-id", text="The bell rings." if there else "?")
    theirs.add(source, collection="secret")
    proof = prove(docs, "bell")
    assert {(place.after, place.why, place.shared) for place in proof.places} == {(0, "", False)}
    assert theirs.text("secret-id", collection="secret") == source.text


@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_is_hidden_is_not_found_and_stays(docs, state):
    """Neither its counts nor its records are anybody's who does not see it."""
    source = Source("s", "s", id="secret", text="Of hr." if state == "done" else " ")
    source = replace(source, metadata={"acl": ["hr"]})
    worker = Ingestor(docs)
    worker.start()
    try:
        job = worker.submit(docs.scope, "docs", [Upload(source)])
        worker.ended(job.id).result(timeout=60)
    finally:
        worker.close()
    outside = docs.within(Scope(docs.scope.tenant, groups=frozenset({"it"})))
    for document_id in ("secret", "never there"):
        with pytest.raises(NotFound):
            delete_proved(outside.parts, outside.scope, "docs", document_id)
    (task,) = docs.parts.journal.job(docs.scope, job.id).tasks
    assert task.state == state
    if state == "done":
        assert docs.text("secret", collection="docs") == "Of hr."


def test_points_that_nobody_knows_of_go_too(docs):
    parts, scope = docs.parts, docs.scope
    found = parts.catalog.collection(scope, "docs")
    index = shelf.index_of(found)
    generation = parts.catalog.document(scope, "docs", "bell").generation
    (known,) = parts.store.chunks(scope, index, "bell", generation, 0, 1)
    chunk = replace(known, generation=999)
    (vector,) = parts.embedder.embed_passages(["x"])
    point = Point(point_id(scope.tenant, found.id, chunk), chunk, vector)
    parts.store.upsert(scope, index, [point])
    assert counts(prove(docs, "bell"))["points of generation 999"] == (1, 0)


def test_a_store_that_is_down_is_said_and_the_proof_can_be_repeated(docs, monkeypatch):
    def down(*_, **__):
        raise StoreUnreachable("Qdrant at here does not answer.")

    with monkeypatch.context() as patched:
        for call in ("inventory", "delete"):
            patched.setattr(docs.parts.store, call, down)
        proof = prove(docs, "bell")
    assert not proof.gone
    (points,) = [place for place in proof.places if place.what == "points"]
    assert (points.before, points.after) == (None, None)
    assert "does not answer" in points.why
    assert "invisible" in points.why
    with pytest.raises(NotFound):  # it is gone from answers all the same
        docs.parts.catalog.document(docs.scope, "docs", "bell")
    again = prove(docs, "bell")
    assert again.gone
    assert list(examine(docs.parts)) == []


def test_a_version_that_is_on_its_way_is_cancelled_and_forgotten(docs):
    ingestor = Ingestor(docs)
    newer = Source(name="bell", origin="bell", id="bell", text="The bell is electric.")
    job = ingestor.submit(docs.scope, "docs", [Upload(newer)])
    proof = prove(docs, "bell")
    assert proof.gone
    assert counts(proof)["jobs of this document alone"] == (1, 0)
    with pytest.raises(NotFound):
        docs.parts.journal.job(docs.scope, job.id)
    assert list(examine(docs.parts)) == []


def test_somebody_who_does_not_let_go_is_said(docs):
    ingestor = Ingestor(docs)
    newer = Source(name="bell", origin="bell", id="bell", text="The bell is electric.")
    ingestor.submit(docs.scope, "docs", [Upload(newer)])
    task = docs.parts.journal.claim(per_collection=1)
    proof = prove(docs, "bell", wait=0)
    assert not proof.gone
    assert counts(proof)["job records"] == (2, 1)
    docs.parts.journal.release(task)
    assert prove(docs, "bell", wait=0).gone


def test_there_must_be_something_to_delete(docs):
    with pytest.raises(NotFound, match="nobody"):
        prove(docs, "nobody")
